"""Identifiers that name their kind, sort by time and cannot be guessed."""

import os
import time
from typing import Final, Literal

Kind = Literal[
    "apr",
    "att",
    "aud",
    "bud",
    "cll",
    "dec",
    "dlv",
    "end",
    "evt",
    "ins",
    "key",
    "msg",
    "nce",
    "ntc",
    "pep",
    "pln",
    "prc",
    "prv",
    "rcv",
    "req",
    "run",
    "sec",
    "trn",
]

_RANDOM_BYTES: Final = 10


def new_id(kind: Kind) -> str:
    """Return ``<kind>_`` + 12 hex digits of Unix milliseconds + 20 random hex digits.

    Ids made by one process sort by the millisecond they were made in. The 80 random bits come from the
    operating system; an id is an address all the same, never a credential.
    """
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{os.urandom(_RANDOM_BYTES).hex()}"


def first_id(kind: Kind, at: int) -> str:
    """Return a bound: ids made before the millisecond of ``at``, in microseconds, are below it, all others above."""
    return f"{kind}_{at // 1000:012x}"


def id_milliseconds(value: str) -> int:
    """Return the Unix milliseconds that :func:`new_id` put into ``value``; ValueError for anything else."""
    _, _, rest = value.partition("_")
    if len(rest) != 12 + 2 * _RANDOM_BYTES:
        raise ValueError("not an id made by Relay")
    return int(rest[:12], 16)
