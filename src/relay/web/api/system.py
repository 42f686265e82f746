"""Routes about the installation itself: health, readiness, version, security contact, OpenAPI."""

import asyncio
import html
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from relay import __version__
from relay.core.access import Access
from relay.surface.declare import Call, Routes

_CHECK_SECONDS: Final = 2.0
_SECURITY_TXT_DAYS: Final = 180

Check = Callable[[], Awaitable[bool]]

log = logging.getLogger("relay.http")


class Health(BaseModel):
    """The process lives."""

    status: str


class Ready(BaseModel):
    """Whether requests can be served, and which check says otherwise; never why."""

    ready: bool
    checks: dict[str, str]


class Version(BaseModel):
    """What runs here."""

    name: str
    version: str


def system_routes(checks: Mapping[str, Check], *, contact: str, policy_url: str | None) -> Routes:
    """Return the public routes about the installation."""
    routes = Routes()

    @routes.get("/health", access=Access("public", frozenset(), ("unlimited",), "api:health:read"), summary="Health")
    async def health(call: Call) -> Health:
        """Answer while the process lives."""
        return Health(status="ok")

    @routes.get("/ready", access=Access("public", frozenset(), (), "api:ready:read"), summary="Readiness")
    async def ready(call: Call) -> Response:
        """Answer 200 when every check passes, else 503."""
        answers = dict(
            zip(checks, await asyncio.gather(*(_passes(name, check) for name, check in checks.items())), strict=True)
        )
        body = Ready(ready=all(answers.values()), checks={n: "ok" if ok else "failed" for n, ok in answers.items()})
        headers = {} if body.ready else {"Retry-After": "5"}
        return Response(
            body.model_dump_json(), 200 if body.ready else 503, media_type="application/json", headers=headers
        )

    @routes.get("/version", access=Access("public", frozenset(), (), "api:version:read"), summary="Version")
    async def version(call: Call) -> Version:
        """Name the product and its version."""
        return Version(name="relay", version=__version__)

    @routes.get(
        "/.well-known/security.txt",
        access=Access("public", frozenset(), (), "api:security_txt:read"),
        summary="Security contact (RFC 9116)",
    )
    async def security_txt(call: Call) -> Response:
        """Say whom to tell about a weakness."""
        return PlainTextResponse(_security_txt(contact, policy_url))

    return routes


def docs_routes(openapi: Callable[[], dict[str, Any]], *, public: bool) -> Routes:
    """Return ``/openapi.json`` and ``/docs``: public in ``local``, else for the scope ``docs``."""
    routes = Routes()
    scope = frozenset() if public else frozenset({"docs"})
    auth = "public" if public else "bearer"

    @routes.get("/openapi.json", access=Access(auth, scope, (), "api:openapi:read"), include_in_schema=False)  # type: ignore[arg-type]
    async def openapi_json(call: Call) -> Response:
        return Response(json.dumps(openapi(), ensure_ascii=False), media_type="application/json")

    @routes.get("/docs", access=Access(auth, scope, (), "api:docs:read"), include_in_schema=False)  # type: ignore[arg-type]
    async def docs(call: Call) -> Response:
        return _html(openapi())

    return routes


async def _passes(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception as error:  # a check that breaks has failed; callers learn that, the log learns how
        log.warning("the readiness check %s failed: %s", name, type(error).__name__)
        return False


def _security_txt(contact: str, policy_url: str | None) -> str:
    expires = (datetime.now(UTC) + timedelta(days=_SECURITY_TXT_DAYS)).replace(microsecond=0, second=0, minute=0)
    lines = [f"Contact: {contact}", f"Expires: {expires:%Y-%m-%dT%H:%M:%SZ}", "Preferred-Languages: en"]
    if policy_url:
        lines.append(f"Policy: {policy_url}")
    return "\n".join(lines) + "\n"


_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'nonce-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}code{font:14px ui-monospace,monospace}h2{margin-top:2rem;border-bottom:1px solid #8886}"
    "dt{margin-top:1rem;font-weight:600}dd{margin:0 0 0 1.5rem}.who{opacity:.75;font-size:14px}"
)
_CODE: Final = re.compile(r"`([^`]+)`")


def _html(document: dict[str, Any]) -> Response:
    nonce = secrets.token_urlsafe(16)
    return HTMLResponse(_page(document, nonce), headers={"Content-Security-Policy": _PAGE_POLICY.format(nonce)})


def _page(document: dict[str, Any], nonce: str) -> str:
    """Return the routes as one plain page: no script, nothing fetched from elsewhere."""
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_entry(path, method, operation))
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    body = "".join(f"<h2>{html.escape(name)}</h2><dl>{''.join(entries)}</dl>" for name, entries in groups.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<style nonce="{nonce}">{_STYLE}</style><h1>{title}</h1>'
        "<p>A key goes into <code>Authorization: Bearer relay_sk_…</code> or <code>X-API-Key</code>. Refusals are "
        "<code>application/problem+json</code>. Parameters, answers and every schema stand in "
        f'<a href="/openapi.json">/openapi.json</a>.</p>{body}</html>'
    )


def _entry(path: str, method: str, operation: dict[str, Any]) -> str:
    about = _CODE.sub(r"<code>\1</code>", html.escape(operation.get("description") or operation["summary"]))
    scopes = " ".join(f"<code>{html.escape(scope)}</code>" for scope in operation["x-required-scopes"])
    who = f"needs {scopes}" if scopes else "public" if not operation["security"] else "needs a key"
    return (
        f'<dt><code>{method.upper()} {html.escape(path)}</code></dt><dd>{about}<br><span class="who">{who}</span></dd>'
    )
