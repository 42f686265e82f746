"""What a verified body says: its value, the type that it claims, the id that it carries. Never called before."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from pydantic_core import from_json

from relay.core.problem import BadRequest, UnsupportedMediaType
from relay.crypto.webhooks import Header, Scheme

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
FORM_SCHEMES: Final = frozenset({"github", "slack"})
MAX_FIELDS: Final = 200
MAX_DEPTH: Final = 32
MAX_TYPE: Final = 100

_JSON_TYPE: Final = re.compile(r"application/(?:json|[a-z0-9!#$&^_.-]{1,60}\+json)")
_WORD: Final = re.compile(r"[a-z_]{1,48}")
_BODY_ID: Final = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Reading:
    """A body as its sender means it. ``type`` is empty when the sender names none that could be shown.

    ``id`` is the sender's own id of the event where it stands in the signed body (Stripe, Slack). ``challenge`` is
    what Slack wants to hear back before it sends events.
    """

    content_type: str
    value: Any = field(repr=False)
    type: str = ""
    id: str | None = None
    challenge: str | None = None


def read_body(scheme: Scheme, header: Header, body: bytes) -> Reading:
    """Return what a verified body says.

    415 for a content encoding and for a media type other than JSON (``application/json``, ``application/…+json``) or,
    from GitHub and Slack, a form; 400 for a body that is not what its media type says, that is nested deeper than 32
    levels, or that has a number beyond what JSON readers hold (``1e999``). Total otherwise.
    """
    content_type = _content_type(header, scheme)
    value = value_of(content_type, body)
    _require_bounded(value)
    kind = _TYPES[scheme](value, header)
    shown = kind if isinstance(kind, str) and len(kind) <= MAX_TYPE and kind.isprintable() else ""
    return Reading(content_type, value, shown, _id_in(scheme, value), _challenge(scheme, value))


def value_of(content_type: str, body: bytes) -> Any:
    """Return the value of a body that :func:`read_body` has read before."""
    return _form(body) if content_type == FORM else _json(body)


def _content_type(header: Header, scheme: Scheme) -> str:
    if (header(b"content-encoding") or b"identity").lower() != b"identity":
        raise UnsupportedMediaType("Send the body without a content encoding.")
    kind, *parameters = (header(b"content-type") or b"").decode("latin-1").lower().split(";")
    kind = kind.strip()
    charsets = [value.strip().strip('"') for name, _, value in (part.partition("=") for part in parameters)
                if name.strip() == "charset"]  # fmt: skip
    if any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise UnsupportedMediaType("Send the body in UTF-8.")
    if _JSON_TYPE.fullmatch(kind) or (kind == FORM and scheme in FORM_SCHEMES):
        return kind
    raise UnsupportedMediaType("Send Content-Type: application/json.")


def _json(body: bytes | str) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        raise BadRequest("The body is not valid JSON (RFC 8259, UTF-8).") from None


def _require_bounded(value: Any) -> None:
    """Refuse what could be stored and not be shown: what wraps it deeper could not be read again, or not written."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise BadRequest("The body has a number beyond what JSON readers hold.")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not any(isinstance(item, dict | list) for item in level):
            return
        level = inner
    raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _form(body: bytes) -> Any:
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        pairs = []
    fields = dict(pairs)
    if not pairs or len(fields) != len(pairs):
        raise BadRequest("The body is not a form of single fields (application/x-www-form-urlencoded, UTF-8).")
    # GitHub's forms and Slack's interactions are JSON in the one field ``payload``.
    return _json(fields["payload"]) if fields.keys() == {"payload"} else fields


def _member(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _named(value: Any, header: Header) -> Any:
    return _member(value, "type") or _member(value, "event")


def _of_github(value: Any, header: Header) -> Any:
    event = (header(b"x-github-event") or b"").decode("latin-1")
    if not _WORD.fullmatch(event):
        return _member(value, "type")
    action = _member(value, "action")
    return f"{event}.{action}" if isinstance(action, str) and _WORD.fullmatch(action) else event


def _of_slack(value: Any, header: Header) -> Any:
    if _member(value, "command") is not None:
        return "slash_command"
    return _member(value, "event", "type") or _member(value, "type")


_TYPES: Final[dict[Scheme, Callable[[Any, Header], Any]]] = {
    "standard": _named,
    "legacy": _named,
    "github": _of_github,
    "stripe": _named,
    "slack": _of_slack,
}
_IDS: Final[dict[Scheme, str]] = {"stripe": "id", "slack": "event_id"}


def _id_in(scheme: Scheme, value: Any) -> str | None:
    name = _IDS.get(scheme)
    found = _member(value, name) if name else None
    return found if isinstance(found, str) and _BODY_ID.fullmatch(found) else None


def _challenge(scheme: Scheme, value: Any) -> str | None:
    found = _member(value, "challenge")
    wanted = scheme == "slack" and _member(value, "type") == "url_verification"
    return found if wanted and isinstance(found, str) else None
