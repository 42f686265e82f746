"""What a signature is verified over, and what is known once it was."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rest of a request whose signature is to be verified: its path's parameters as they came, and its body.

    ``read`` returns the raw body, within the route's bounds, and is called once; it raises the problem of a body that
    exceeds them. Nothing has looked at either before.
    """

    parameters: Mapping[str, Any]
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Signed:
    """A body that one of a receiver's secrets signed.

    ``signed_id`` is the signed id and ``signed_at`` the signed time in microseconds, each None where the scheme signs
    none. ``unsigned`` says that nothing was verified, since the operator allows that on this machine.
    """

    workspace_id: str
    receiver_id: str
    receiver_name: str
    scheme: str
    body: bytes = field(repr=False)
    signed_id: str | None = None
    signed_at: int | None = None
    unsigned: bool = False
