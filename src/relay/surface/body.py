"""Reading a JSON body within bounds: size, time, depth, number of values, and numbers that survive RFC 8785."""

import asyncio
import re
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic_core import from_json
from starlette.types import Receive

from relay.core.facts import RequestFacts
from relay.core.problem import BadRequest, BodyTooLarge, Invalid, RequestTimeout, UnsupportedMediaType
from relay.surface.room import Room

KIB: Final = 1024
LARGE_BODY_LIMIT: Final = 16 * KIB * KIB
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 50_000
# A value brings at most a member name, a text, a comma and a bracket.
MAX_PIECES: Final = 4 * MAX_VALUES
_LOOKED_AT_FIRST: Final = 256 * KIB
# Whole texts, so that what stands in them does not count; possessive, so that no input makes it look twice.
_PIECES: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
MAX_KEY_LENGTH: Final = 1_024
MAX_INTEGER: Final = 2**53 - 1

T = TypeVar("T")


async def read_as(
    read: Callable[[Any], T], facts: RequestFacts, receive: Receive, limit: int, seconds: float, room: Room
) -> T:
    """Return what ``read`` makes of the body's JSON value; problems as :func:`read_json`, and those of ``read``.

    A large body takes its part of ``room``, 503 where there is none, and is parsed and read in another thread, so that
    other requests go on meanwhile.
    """
    _require_json(facts)
    async with room.taken(_expected(facts, limit), seconds):
        body = await read_body(facts, receive, limit, seconds)
        if len(body) <= _LOOKED_AT_FIRST:
            return read(_value_of(body))
        return await asyncio.to_thread(lambda: read(_value_of(body)))


async def read_json(facts: RequestFacts, receive: Receive, limit: int, seconds: float) -> Any:
    """Return the body's JSON value.

    ``limit`` is in bytes, ``seconds`` bounds the arrival of the whole body. Problems: 415 for another media type or a
    content encoding, 413 beyond the limit, 408 when it does not arrive, 400 when it is no JSON, 422 when it is too
    deep, has too many values or a number outside ±(2^53−1).
    """
    _require_json(facts)
    return _value_of(await read_body(facts, receive, limit, seconds))


def _value_of(body: bytes) -> Any:
    if len(body) > _LOOKED_AT_FIRST:
        _refuse_too_many(body)
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise BadRequest("The body is not valid JSON (RFC 8259, UTF-8).") from None
    _Bounds().check(value)
    return value


async def read_body(facts: RequestFacts, receive: Receive, limit: int, seconds: float) -> bytes:
    """Return the raw body, or 413, 408 or 400 (the caller hung up)."""
    declared = _declared(facts)
    if declared is not None and declared > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(seconds):
            return await _collect(receive, limit)
    except TimeoutError:
        raise RequestTimeout(
            f"The body did not arrive within {seconds:g} s.", headers={"Connection": "close"}
        ) from None


def _declared(facts: RequestFacts) -> int | None:
    value = facts.header(b"content-length")
    return int(value[:18]) if value is not None and value.isdigit() else None


def _expected(facts: RequestFacts, limit: int) -> int:
    """Return how many bytes of a body will be read at most; none of one that says that it is too large."""
    declared = _declared(facts)
    if declared is None:
        return limit
    return declared if declared <= limit else 0


async def _collect(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        only: bytes = message.get("body", b"")
        if len(only) > limit:
            raise _too_large(limit)
        return only
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise BadRequest("The connection closed before the body was complete.")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body may have at most {limit // KIB} KiB here.", headers={"Connection": "close"}, limit_bytes=limit
    )


def _require_json(facts: RequestFacts) -> None:
    media_type = facts.header(b"content-type") or b""
    kind, _, parameters = media_type.partition(b";")
    charset = parameters.strip().lower()
    if kind.strip().lower() != b"application/json" or charset not in (b"", b"charset=utf-8", b'charset="utf-8"'):
        raise UnsupportedMediaType("Send Content-Type: application/json.")
    repeated = facts.repeats(b"content-encoding")
    if repeated or (facts.header(b"content-encoding") or b"identity").lower() != b"identity":
        raise UnsupportedMediaType("Send the body without a content encoding.")


def _refuse_too_many(body: bytes) -> None:
    """Refuse a large body of very many small values before it is parsed, which would take seconds and gigabytes."""
    # Far faster than the exact count, and true of bodies that are large because of a few long texts.
    if sum(map(body.count, (b'"', b"[", b"{", b","))) <= MAX_PIECES:
        return
    if next(islice(_PIECES.finditer(body), MAX_PIECES, None), None) is not None:
        raise _invalid(f"The body has more than {MAX_VALUES} values.")


class _Bounds:
    """Counts values while walking. Recursion is bounded by ``MAX_DEPTH``."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def check(self, value: Any, depth: int = 0) -> None:
        self._left -= 1
        if self._left < 0:
            raise _invalid(f"The body has more than {MAX_VALUES} values.")
        kind = type(value)
        if kind is dict or kind is list:
            if depth >= MAX_DEPTH:
                raise _invalid(f"The body is nested deeper than {MAX_DEPTH} levels.")
            for member in value.values() if kind is dict else value:
                self.check(member, depth + 1)
            if kind is dict and any(len(key) > MAX_KEY_LENGTH for key in value):
                raise _invalid(f"A member name has more than {MAX_KEY_LENGTH} characters.")
        elif (kind is int or kind is float) and not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise _invalid("Numbers beyond ±(2^53−1) lose digits in JSON; send them as text.")


def _invalid(message: str) -> Invalid:
    return Invalid(message, errors=[{"pointer": "", "message": message}])
