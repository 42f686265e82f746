"""One HTTP request and its answer, as the connectors that speak HTTP share them."""

import base64
import codecs
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel

from relay.catalog import Rendering
from relay.connectors.masking import Masked, mask_headers, mask_url
from relay.core.effect import EffectRefused, EffectUnknown
from relay.core.exposed import Exposed, Sum
from relay.core.permit import Permit
from relay.egress.http import HttpAnswer, HttpClient, wire_headers
from relay.egress.target import parse_target

RESULT_BODY: Final = 64 * 1024
TIMEOUT: Final = 25.0
# Above the client's own time-out, so that it is the client, which knows how far it came, that judges.
ACTION_TIMEOUT: Final = 30.0
CONCURRENCY: Final = 16

_RESULT_HEADERS: Final = frozenset(
    """allow content-encoding content-language content-length content-type date etag last-modified retry-after
    x-request-id""".split()
)
# An intermediary speaks for a server that may have acted (RFC 9110 sections 15.6.3 and 15.6.5).
_UNSETTLED: Final = frozenset({502, 504})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_CHARSET: Final = re.compile(r";\s*charset=\"?([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")
_CHARSETS: Final = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "iso-8859-1": "latin-1"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it goes onto the wire. ``shown`` is the body for people, with secrets ``masked``."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    shown: Any
    masked: Masked = field(default_factory=Masked)


class ExposedRequest(Exposed):
    """What policies and budgets see of a request: where it goes, by which method, and how large its body is.

    The path is not shown: it may hold a secret, and has too many spellings for a rule to rest upon.
    """

    method: str
    scheme: str
    port: int
    bytes: Sum


def expose(request: Request) -> ExposedRequest:
    """Show the host as it is connected to."""
    target = parse_target(request.url)
    return ExposedRequest(
        hosts=frozenset({target.host}),
        method=request.method,
        scheme=target.scheme,
        port=target.port,
        bytes=len(request.body or b""),
    )


class Answer(BaseModel):
    """What the other side answered: at most 64 KiB of the body, as text or, where it is none, in base64.

    ``headers`` are those that are known to be harmless, in printable ASCII: U+FFFD stands for any other character.
    """

    status: int
    headers: dict[str, str]
    body: str
    encoding: Literal["text", "base64"]
    truncated: bool


def render(request: Request, client: HttpClient) -> Rendering:
    """Return what sending ``request`` would do."""
    masked = Masked()
    url, target = mask_url(request.url, masked), parse_target(request.url)
    size = len(request.body or b"")
    headers = {"host": target.authority, **wire_headers(request.headers)}
    if request.body is not None:
        headers["content-length"] = str(size)
    shown = mask_headers(headers, masked)
    masked.join(request.masked)
    unencrypted = ("The connection is not encrypted (http).",) if target.scheme == "http" else ()
    return Rendering(
        summary=f"{request.method} {url}" + (f" with {size} bytes" if size else ""),
        body={"method": request.method, "url": url, "headers": shown, "body": request.shown},
        warnings=unencrypted + masked.warnings,
        refusal=client.refusal(request.url),
    )


async def exchange(permit: Permit, request: Request, client: HttpClient, *, redirects: bool) -> Answer:
    """Send ``request`` and return the answer.

    EffectRefused for a status of 400 and above and, unless ``redirects`` are results, for 3xx. EffectUnknown for a
    502 or 504 to a request that may change something: whoever answered does not know what became of it.
    """
    answer = await client.request(
        permit, method=request.method, url=request.url, headers=request.headers, body=request.body, timeout=TIMEOUT
    )
    status, where = answer.status, parse_target(request.url).authority
    code = f"upstream_status_{status}"
    if status in _UNSETTLED and request.method not in _SAFE_METHODS:
        raise EffectUnknown(code, f"A gateway answered {status} for {where}, which may have acted.")
    if status >= 400:
        raise EffectRefused(code, f"{where} answered {status}.")
    if status >= 300 and not redirects:
        raise EffectRefused(code, f"{where} answered {status}; redirects are not followed.")
    return _result(answer)


def _result(answer: HttpAnswer) -> Answer:
    headers = {name: _plain(value) for name, value in answer.headers.items() if name in _RESULT_HEADERS}
    if "location" in answer.headers:
        headers["location"] = mask_url(_plain(answer.headers["location"]))
    body = answer.body[:RESULT_BODY]
    truncated = answer.truncated or len(body) < len(answer.body)
    text = _text(body, answer.headers, truncated=truncated)
    return Answer(
        status=answer.status,
        headers=headers,
        body=base64.b64encode(body).decode() if text is None else text,
        encoding="base64" if text is None else "text",
        truncated=truncated,
    )


def _plain(value: str) -> str:
    # Bytes that are no UTF-8 arrive as lone surrogates, which no encoder takes: the result could not be recorded.
    return _UNPRINTABLE.sub("\ufffd", value)


def _text(body: bytes, headers: Any, *, truncated: bool) -> str | None:
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        return None
    match = _CHARSET.search(headers.get("content-type", ""))
    charset = _CHARSETS.get(match[1].lower() if match else "utf-8")
    if charset is None:
        return None
    try:
        # A cut may fall inside a character, which is then left out.
        text = codecs.getincrementaldecoder(charset)().decode(body, final=not truncated)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
