"""``http.request``: any HTTP request, as it is written."""

import re
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from relay.catalog import Connector, Probe, Rendering
from relay.connectors import exchange
from relay.connectors.masking import Masked, mask_headers, mask_json, mask_text, mask_url
from relay.core.action import Step
from relay.core.canonical import canonical_json
from relay.core.permit import Permit
from relay.egress.headers import check_headers
from relay.egress.http import HttpClient
from relay.egress.target import MAX_URL, parse_target

connector: Final = Connector("http", hosts=None)

Scalar = str | bool | int | float
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD"})
_CHANGES_ONE_THING: Final = frozenset({"PUT", "PATCH", "DELETE"})
# RFC 9110 section 8.8.3, without obs-text: what may be sent is visible ASCII.
_STRONG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
_OF_THE_BODY: Final = ("content-", "if-")


def _headers(value: dict[str, str]) -> dict[str, str]:
    check_headers(value)
    return {name.lower(): content for name, content in value.items()}


def _json(value: JsonValue) -> JsonValue:
    canonical_json(value)
    return value


class SendRequest(BaseModel):
    """Parameters of ``http.request``. ``json`` and ``body`` exclude each other; a null one is none."""

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    url: Annotated[
        str,
        AfterValidator(lambda url: parse_target(url).url),
        Field(max_length=MAX_URL, description="http:// or https://"),
    ]
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default={}, description="Header names and values; framing and hop-by-hop headers are refused"
    )
    query: dict[str, Scalar | list[Scalar]] = Field(default={}, description="Appended to the URL, percent-encoded")
    json_body: Annotated[JsonValue, AfterValidator(_json)] = Field(
        default=None, alias="json", description="A JSON value; it becomes the body"
    )
    body: str | None = Field(default=None, description="A text that becomes the body, in UTF-8")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.json_body is not None and self.body is not None:
            raise ValueError("json and body exclude each other")
        if self.method in _WITHOUT_BODY and (self.json_body is not None or self.body is not None):
            raise ValueError(f"{self.method} has no body")
        try:
            (self.body or "").encode()
        except UnicodeEncodeError:
            raise ValueError("the body is not Unicode text") from None
        parse_target(_url(self))
        return self


def _url(params: SendRequest) -> str:
    pairs = [
        f"{quote(name, safe='')}={quote(_text(value), safe='')}"
        for name, given in params.query.items()
        for value in (given if isinstance(given, list) else [given])
    ]
    if not pairs:
        return params.url
    return params.url + ("&" if "?" in params.url else "?") + "&".join(pairs)


def _text(value: Scalar) -> str:
    # Canonical, since 1.0 comes back as 1 from storage and must go out the same.
    return value if isinstance(value, str) else canonical_json(value).decode()


def compose(params: SendRequest) -> exchange.Request:
    """Return the request, the same bytes each time: ``json`` as canonical JSON (RFC 8785), ``body`` as UTF-8."""
    headers, body, shown, masked = dict(params.headers), None, None, Masked()
    if params.json_body is not None:
        headers.setdefault("content-type", "application/json")
        body, shown = canonical_json(params.json_body), mask_json(params.json_body, masked)
    elif params.body is not None:
        headers.setdefault("content-type", "text/plain; charset=utf-8")
        body, shown = params.body.encode(), mask_text(params.body, headers["content-type"], masked)
    return exchange.Request(
        method=params.method, url=_url(params), headers=headers, body=body, shown=shown, masked=masked
    )


def render(step: Step, client: HttpClient) -> Rendering:
    """Show the request with secrets masked."""
    return exchange.render(compose(step.params), client)


def redact(params: SendRequest) -> dict[str, Any]:
    """Return the parameters with secrets in URL, headers, query and body masked."""
    content_type = params.headers.get("content-type", "")
    return {
        "method": params.method,
        "url": mask_url(params.url),
        "headers": mask_headers(params.headers),
        "query": mask_json(params.query),
        "json": mask_json(params.json_body),
        "body": None if params.body is None else mask_text(params.body, content_type),
    }


def expose(params: SendRequest) -> exchange.ExposedRequest:
    """Show policies and budgets the request as it is sent."""
    return exchange.expose(compose(params))


def probe(params: SendRequest) -> Probe | None:
    """Return how to read the version of what a request changes: HEAD of the same URL, with the same credentials."""
    if params.method not in _CHANGES_ONE_THING:
        return None
    headers = {name: value for name, value in params.headers.items() if not name.startswith(_OF_THE_BODY)}
    wish = {"method": "HEAD", "url": params.url, "headers": headers, "query": params.query}
    return Probe("http.request", wish, _version)


def _version(answer: dict[str, Any]) -> str | None:
    headers = answer["headers"]
    if not 200 <= answer["status"] < 300:
        return None
    return next((f"{name}:{headers[name]}" for name in ("etag", "last-modified") if headers.get(name)), None)


def _bound(request: exchange.Request, seen_version: str | None) -> exchange.Request:
    """Return the request with If-Match (RFC 9110, 13.1.1) where a strong ETag was seen and the caller has none.

    An ETag that is not one, or would make the headers too long, is left out: a server's odd ETag must not be what keeps
    an approved request from being sent.
    """
    name, _, etag = (seen_version or "").partition(":")
    if name != "etag" or not _STRONG.fullmatch(etag) or any(header.startswith("if-") for header in request.headers):
        return request
    headers = {**request.headers, "if-match": etag}
    try:
        check_headers(headers)
    except ValueError:
        return request
    return replace(request, headers=headers)


@connector.action(
    "http.request",
    effect="write",
    render=render,
    redact=redact,
    expose=expose,
    irreversible=True,
    untrusted_result=True,
    probe=probe,
    timeout=exchange.ACTION_TIMEOUT,
    concurrency=exchange.CONCURRENCY,
)
async def send(permit: Permit, params: SendRequest, client: HttpClient) -> exchange.Answer:
    """Send an HTTP request and return the answer."""
    request = compose(params)
    if params.method in _CHANGES_ONE_THING:
        request = _bound(request, permit.seen_version)
    return await exchange.exchange(permit, request, client, redirects=True)
