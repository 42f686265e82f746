"""What a model's service says about a question that it refuses: for the operator's log, never for a caller."""

import json
from collections.abc import Iterator
from typing import Any, Final

from pydantic import SecretStr

from relay.telemetry.lines import plain
from relay.telemetry.redaction import HIDDEN, redact_text

MOST: Final = 200
"""The longest excerpt, in characters."""
_NAMES: Final = ("message", "detail", "code")


def excerpt(body: bytes, key: SecretStr | None) -> str:
    """Return what the body of an error says in ``error.message`` and ``error.code``, empty where it says neither.

    It is one line of at most :data:`MOST` characters without what looks like a credential, and without ``key``, which
    services are known to repeat. It may quote the question. Nothing else of the body is shown.
    """
    text = ": ".join(_said(body))
    if key is not None:
        text = text.replace(key.get_secret_value(), HIDDEN)
    # Before it is cut: half a secret is not recognised.
    told = plain(" ".join(redact_text(text).split()))
    return told if len(told) <= MOST else told[: MOST - 1] + "…"


def _said(body: bytes) -> Iterator[str]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(found, list) and found:  # as Google's interface answers to whoever asked for a stream
        found = found[0]
    if isinstance(found, dict):
        found = found.get("error", found)
    yield from _words(found)


def _words(error: Any) -> Iterator[str]:
    if isinstance(error, str):
        yield error
    elif isinstance(error, dict):
        for name in _NAMES:
            value = error.get(name)
            if isinstance(value, str) or type(value) is int:
                yield str(value)
