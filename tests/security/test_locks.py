"""The first three locks, each with a planted leak: declare, seal, stamp."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Host, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from relay.core.access import Access
from relay.core.admission import Admission, AdmissionRefused
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import Unauthenticated
from relay.core.signed import Evidence
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.surface.application import RelayApp, build_application
from relay.surface.declare import Call, GuardedRoute, Routes, UndeclaredRoute
from relay.surface.seal import Unsealed, seal
from relay.surface.stamp import ADMISSION, FACTS, Stamp
from tests.asgi import ask, scope_of
from tests.gateway import Gateway
from tests.limits_kit import NoLimits

SECRET = b"what only the admitted may read"
BEARER = Access("bearer", frozenset({"audit:read"}), (), "api:test:read")
PUBLIC = Access("public", frozenset(), (), "api:test:public")


class Said(BaseModel):
    text: str


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str


class Loose(BaseModel):
    text: str


class _NoKeys:
    async def authenticate(self, key_text: str, client: str = "") -> None:
        return None

    async def reload(self, credential_id: str) -> None:
        return None

    async def honey_action_used(self, principal: Principal, action: str, *, request_id: str, client: str) -> None:
        return None

    def count(self, *, reason: str, route: str, client: str) -> None:
        return None


def new_gate() -> Gate:
    return Gate(Authenticate(_NoKeys(), _NoKeys()), NoLimits())


async def leak(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(SECRET)(scope, receive, send)


async def leaking(request: Request) -> PlainTextResponse:
    return PlainTextResponse(SECRET)


async def endpoint(call: Call) -> PlainTextResponse:
    return PlainTextResponse(SECRET)


def guarded(admit: Any, path: str = "/leak", kind: type[GuardedRoute] = GuardedRoute) -> GuardedRoute:
    return kind(path, endpoint, access=BEARER, admit=admit, body_limit=1024, body_seconds=1.0, methods=["GET"])


# First lock: declare.


def test_a_route_without_access_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="access"):
        Routes().get("/things")  # type: ignore[call-arg]


async def _not_a_call(call: str) -> Said: ...  # type: ignore[empty-body]
async def _no_parameter() -> Said: ...  # type: ignore[empty-body]
async def _loose_body(call: Call, body: Loose) -> Said: ...  # type: ignore[empty-body]
async def _raw_body(call: Call, body: dict[str, Any]) -> Said: ...  # type: ignore[empty-body]
async def _loose_query(call: Call, query: Annotated[Loose, Query()]) -> Said: ...  # type: ignore[empty-body]
async def _number_in_path(call: Call, thing_id: int) -> Said: ...  # type: ignore[empty-body]
async def _not_in_path(call: Call, other: str) -> Said: ...  # type: ignore[empty-body]


def _synchronous(call: Call) -> Said: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    "wrong",
    [_not_a_call, _no_parameter, _loose_body, _raw_body, _loose_query, _number_in_path, _not_in_path, _synchronous],
)
def test_an_endpoint_of_another_shape_is_refused(wrong: Callable[..., Any]) -> None:
    routes = Routes()
    routes.post("/things/{thing_id}", access=BEARER)(wrong)
    with pytest.raises(UndeclaredRoute):
        build_application([routes], new_gate().admit, body_limit=1024, body_seconds=1.0)


def test_a_public_route_cannot_ask_for_scopes() -> None:
    with pytest.raises(ValueError, match="scopes"):
        Access("public", frozenset({"audit:read"}), (), "api:test:read")


# Second lock: seal.


class _Middleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await leak(scope, receive, send)


def _included(app: RelayApp, *routes: Any) -> None:
    router = APIRouter()
    router.routes.extend(routes)
    app.include_router(router)


def _included_plain(app: RelayApp) -> None:
    router = APIRouter()
    router.get("/leak")(leaking)
    app.include_router(router)


def _included_twice(app: RelayApp) -> None:
    inner, outer = APIRouter(), APIRouter()
    inner.get("/leak")(leaking)
    outer.include_router(inner)
    app.include_router(outer)


def _replaced_router(app: RelayApp) -> None:
    app.router = Router([Route("/leak", leaking)])  # type: ignore[assignment]


def _sub_application(app: RelayApp) -> None:
    inner = FastAPI(openapi_url=None)
    inner.get("/leak")(leaking)
    app.mount("/", inner)


def _folder(app: RelayApp, folder: Path) -> Path:
    (folder / "leak").write_bytes(SECRET)
    return folder


def _set(name: str) -> Callable[[RelayApp, Path], None]:
    def plant(app: RelayApp, folder: Path) -> None:
        route = app.routes[0]
        assert isinstance(route, GuardedRoute)
        setattr(route, name, leak)

    return plant


def _set_both(app: RelayApp, folder: Path) -> None:
    route = app.routes[0]
    assert isinstance(route, GuardedRoute)
    route.serve = route.app = leak  # type: ignore[method-assign]


async def _not_found(request: Request, error: Exception) -> PlainTextResponse:
    return PlainTextResponse(SECRET)


Plant = Callable[[RelayApp, Path], Any]

# Each lets ``GET /leak`` be answered by something that never asked the gate.
OPEN: dict[str, Plant] = {
    "add_route": lambda app, _: app.router.add_route("/leak", leaking),
    "a route object": lambda app, _: app.router.routes.append(Route("/leak", leaking)),
    "a mount": lambda app, _: app.mount("/", leak),
    "a mounted application": lambda app, _: _sub_application(app),
    "a mounted Starlette": lambda app, _: app.mount("/", Starlette(routes=[Route("/leak", leaking)])),
    "a host": lambda app, _: app.router.routes.append(Host("localhost", leak)),
    "a static folder": lambda app, folder: app.mount("/", StaticFiles(directory=_folder(app, folder))),
    "a frontend": lambda app, folder: app.frontend("/", directory=_folder(app, folder)),
    "a router of its own": lambda app, _: _replaced_router(app),
    "router middleware": lambda app, _: setattr(app.router, "middleware_stack", _Middleware(app.router.app)),
    "an answer of last resort": lambda app, _: setattr(app.router, "default", leak),
}
# These would be ways in too, given the middleware that FastAPI brings and Relay leaves out, or another protocol.
CLOSED: dict[str, Plant] = {
    "a router included in an included one": lambda app, _: _included_twice(app),
    "an included router": lambda app, _: _included_plain(app),
    "add_api_route": lambda app, _: app.add_api_route("/leak", leaking),
    "a plain route": lambda app, _: app.get("/leak")(leaking),
    "an included frontend": lambda app, folder: app.include_router(_frontend_router(app, folder)),
    "a declared route in an included router": lambda app, _: _included(app, guarded(new_gate().admit, "/other")),
    "a websocket": lambda app, _: app.websocket("/leak")(_websocket),
    "add_api_websocket_route": lambda app, _: app.add_api_websocket_route("/leak", _websocket),
    "add_websocket_route": lambda app, _: app.router.add_websocket_route("/leak", _websocket),
    "middleware": lambda app, _: app.add_middleware(_Middleware),
    "a middleware function": lambda app, _: app.middleware("http")(_function_middleware),
    "an exception handler": lambda app, _: app.add_exception_handler(404, _not_found),
    "a replaced exception handler": lambda app, _: app.exception_handler(Exception)(_not_found),
}
# A declared route ``GET /here`` that was tampered with.
TAMPERED: dict[str, Plant] = {
    "app": _set("app"),
    "serve": _set("serve"),
    "app and serve": _set_both,
    "handle": _set("handle"),
    "matches": _set("matches"),
    "admit": _set("admit"),
}


def _frontend_router(app: RelayApp, folder: Path) -> APIRouter:
    router = APIRouter()
    router.frontend("/", directory=_folder(app, folder))
    return router


async def _websocket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_bytes(SECRET)


async def _function_middleware(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
    return PlainTextResponse(SECRET)


def sealed_app(gate: Gate) -> tuple[RelayApp, Any]:
    """An application with one declared route, as it stands before anybody plants something."""
    routes = Routes()
    routes.get("/here", access=BEARER)(endpoint)
    admit = gate.admit
    app, _ = build_application([routes], admit, body_limit=1024, body_seconds=1.0)
    return app, admit


def test_an_application_of_declared_routes_is_sealed() -> None:
    app, admit = sealed_app(new_gate())
    assert [route.path for route in seal(app, admit)] == ["/here"]


@pytest.mark.parametrize("name", [*OPEN, *CLOSED, *TAMPERED])
def test_the_seal_refuses(name: str, tmp_path: Path) -> None:
    app, admit = sealed_app(new_gate())
    {**OPEN, **CLOSED, **TAMPERED}[name](app, tmp_path)
    with pytest.raises(Unsealed):
        seal(app, admit)


@pytest.mark.parametrize("name", OPEN)
async def test_what_the_seal_refuses_would_leak(name: str, tmp_path: Path) -> None:
    app, _ = sealed_app(new_gate())
    OPEN[name](app, tmp_path)
    heard = await ask(app, scope_of(path="/leak"))
    assert (heard.status, heard.body) == (200, SECRET)


def test_the_seal_refuses_a_route_of_another_gate() -> None:
    app, admit = sealed_app(new_gate())
    app.router.routes.append(guarded(new_gate().admit))
    with pytest.raises(Unsealed, match="gate"):
        seal(app, admit)


def test_the_seal_refuses_a_route_of_a_derived_class() -> None:
    class Derived(GuardedRoute):
        async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
            await leak(scope, receive, send)

    app, admit = sealed_app(new_gate())
    app.router.routes.append(guarded(admit, kind=Derived))
    with pytest.raises(Unsealed, match="Derived"):
        seal(app, admit)


@pytest.mark.parametrize(("first", "second"), [("/a", "/a"), ("/a/{one}", "/a/{other}")])
def test_the_seal_refuses_a_second_declaration(first: str, second: str) -> None:
    app, admit = sealed_app(new_gate())
    app.router.routes.extend([guarded(admit, first), guarded(admit, second)])
    with pytest.raises(Unsealed, match="twice"):
        seal(app, admit)


# Third lock: stamp.


@pytest.mark.parametrize("name", OPEN)
async def test_what_is_planted_after_the_seal_is_not_let_out(name: str, tmp_path: Path) -> None:
    app, _ = sealed_app(new_gate())
    OPEN[name](app, tmp_path)
    heard = await ask(Stamp(app), scope_of(path="/leak"))
    assert heard.status == 500 and SECRET not in heard.body


@pytest.mark.parametrize("name", ["app", "serve", "app and serve", "handle"])
async def test_what_is_tampered_with_after_the_seal_is_not_let_out(name: str, tmp_path: Path) -> None:
    app, _ = sealed_app(new_gate())
    TAMPERED[name](app, tmp_path)
    heard = await ask(Stamp(app), scope_of(path="/here"))
    assert heard.status in (401, 500) and SECRET not in heard.body


async def test_a_handler_that_answers_without_admit_gets_a_bare_500(gateway: Gateway) -> None:
    gateway.server.fastapi.router.routes.insert(0, Route("/leak", leaking))
    answer = await gateway.get("/leak", key=gateway.admin)
    problem = answer.expect(500)
    assert SECRET not in answer.body
    assert set(problem) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert "admission" not in problem["detail"] and answer.headers["X-Request-ID"] == problem["request_id"]


def answering(status: int, admission: Any = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if admission is not None:
            scope[ADMISSION] = admission(scope)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": SECRET})

    return app


@pytest.mark.parametrize("status", [200, 201, 204, 206, 302, 304])
async def test_no_success_leaves_unstamped(status: int) -> None:
    heard = await ask(Stamp(answering(status)), scope_of())
    assert heard.status == 500 and SECRET not in heard.body


async def test_a_refusal_leaves_unstamped() -> None:
    assert (await ask(Stamp(answering(404)), scope_of())).status == 404


async def admitted_by_gate(scope: Scope) -> Admission:
    return await new_gate().admit(PUBLIC, scope[FACTS])


async def test_an_admitted_success_leaves() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ADMISSION] = await admitted_by_gate(scope)
        await answering(200)(scope, receive, send)

    heard = await ask(Stamp(app), scope_of())
    assert (heard.status, heard.body) == (200, SECRET)


class Generous(Admission):
    def covers(self, facts: RequestFacts) -> bool:
        return True


FORGED: dict[str, Callable[[Scope], Any]] = {
    "True": lambda scope: True,
    "a look-alike": lambda scope: SimpleNamespace(covers=lambda facts: True),
    "an empty one": lambda scope: object.__new__(Admission),
    "a derived one": lambda scope: object.__new__(Generous),
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_admission_is_none(name: str) -> None:
    heard = await ask(Stamp(answering(200, FORGED[name])), scope_of())
    assert heard.status == 500 and SECRET not in heard.body


def test_only_the_gate_makes_admissions() -> None:
    with pytest.raises(AdmissionRefused):
        Admission(object(), PUBLIC, RequestFacts("req_1", "", "GET", []), None)


async def test_an_admission_serves_one_request() -> None:
    kept: list[Admission] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not kept:
            kept.append(await admitted_by_gate(scope))
        scope[ADMISSION] = kept[0]
        await answering(200)(scope, receive, send)

    assert (await ask(Stamp(app), scope_of())).status == 200
    second = await ask(Stamp(app), scope_of())
    assert second.status == 500 and SECRET not in second.body


async def test_swallowing_the_refusal_lets_nothing_out() -> None:
    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": SECRET},
            {"type": "http.response.pathsend", "path": "/etc/passwd"},
        ):
            try:
                await send(message)
            except Exception:  # the very handler that is planted here: one that swallows every refusal
                continue

    heard = await ask(Stamp(stubborn), scope_of())
    assert heard.status == 500 and SECRET not in heard.body
    assert {message["type"] for message in heard.messages} == {"http.response.start", "http.response.body"}


async def test_no_answer_at_all_is_a_500() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return None

    assert (await ask(Stamp(silent), scope_of())).status == 500


async def test_a_websocket_is_closed_at_once() -> None:
    heard = await ask(Stamp(leak), scope_of(type="websocket"))
    assert heard.messages == [{"type": "websocket.close", "code": 1008}]


async def test_a_websocket_handshake_opens_nothing(gateway: Gateway) -> None:
    gateway.server.fastapi.add_api_websocket_route("/leak", _websocket)
    answer = await gateway.raw(
        b"GET /leak HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")


# ``admit`` runs before the body is read.


async def test_nothing_is_read_before_admit() -> None:
    async def never() -> Any:
        pytest.fail("the body was read")

    async def refuse(access: Access, facts: RequestFacts, evidence: Evidence | None = None) -> Admission:
        raise Unauthenticated

    async def with_body(call: Call, body: Asked) -> Said:
        return Said(text=body.text)

    routes = Routes()
    routes.post("/things", access=BEARER)(with_body)
    _, asgi = build_application([routes], refuse, body_limit=1024, body_seconds=1.0)
    assert (await ask(asgi, scope_of("POST", "/things"), never)).status == 401


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", ""]
    ).encode()


BEFORE_THE_BODY = [
    ["Content-Length: 1000"],
    ["Content-Length: 99999999999"],
    ["Transfer-Encoding: chunked"],
    ["Content-Length: 1000", "Expect: 100-continue"],
    ["Content-Length: 1000", "Authorization: Bearer nothing"],
]
BAD_BODIES = [b"{", b"[" * 100_000, b"\xff\xfe", b'{"no": 1}', b'{"a": 1e999}']


async def test_a_caller_without_credential_is_answered_before_she_sends_a_body(gateway: Gateway) -> None:
    for headers in BEFORE_THE_BODY:
        began = time.monotonic()
        answer = await gateway.raw(head("/actions/execute", *headers))
        assert answer.startswith(b"HTTP/1.1 401 ") and b'"status":401' in answer, headers
        assert time.monotonic() - began < 3, headers


async def test_a_bad_body_does_not_come_before_credential_and_scope(gateway: Gateway) -> None:
    key = await gateway.key("audit:read")
    for body in BAD_BODIES:
        assert (await gateway.call("POST", "/actions/preview", data=body)).status == 401, body[:20]
        assert (await gateway.call("POST", "/actions/preview", data=body, key=key)).status == 403, body[:20]
