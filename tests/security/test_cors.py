"""CORS: exact origins, preflights before authentication and for declared routes alone, no credentials."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.settings import SettingsError, load_settings
from relay.store.target import Target
from relay.surface.cors import Cors
from relay.surface.edge import Edge
from relay.surface.stamp import Stamp
from tests.asgi import ask, scope_of
from tests.gateway import Answer, Gateway, open_gateway
from tests.security.test_locks import SECRET, answering

ORIGIN = "https://app.example.com"
OTHERS = (
    "https://evil.example",
    "https://app.example.com.evil.example",
    "https://evil-app.example.com",
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://app.example.com/",
    "HTTPS://APP.EXAMPLE.COM",
    "null",
    "*",
    "",
)


@pytest.fixture
async def gateway(sqlite_target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    origins = f"{ORIGIN},http://localhost:5173"
    async with open_gateway(sqlite_target, tmp_path / "data", CORS_ORIGINS=origins) as running:
        yield running


def cors_headers(answer: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control-")}


async def preflight(gateway: Gateway, path: str, method: str = "POST", origin: str = ORIGIN, **more: str) -> Answer:
    headers = {"Origin": origin, "Access-Control-Request-Method": method, **more}
    return await gateway.call("OPTIONS", path, headers=headers)


async def test_a_preflight_needs_no_credential(gateway: Gateway) -> None:
    answer = await preflight(gateway, "/actions/execute", **{"Access-Control-Request-Headers": "authorization"})
    assert (answer.status, answer.body) == (204, b"")
    assert cors_headers(answer) == {
        "access-control-allow-origin": ORIGIN,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "authorization, content-type, idempotency-key, last-event-id, x-api-key, "
        "x-request-id",
        "access-control-max-age": "600",
        "access-control-expose-headers": answer.headers["Access-Control-Expose-Headers"],
    }
    assert answer.headers["Vary"] == "Origin" and answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_preflight_names_every_method_of_the_path(gateway: Gateway) -> None:
    for path, methods in (
        ("/keys", "GET, POST"),
        ("/keys/key_x", "DELETE, PATCH"),
        ("/keys/key_x/allowed-networks", "PUT"),
    ):
        answer = await preflight(gateway, path, methods.partition(",")[0])
        assert answer.headers["Access-Control-Allow-Methods"] == methods, path


@pytest.mark.parametrize("origin", OTHERS)
async def test_another_origin_gets_no_cors_header(gateway: Gateway, origin: str) -> None:
    asked = await preflight(gateway, "/actions/execute", origin=origin)
    assert (asked.status, cors_headers(asked), asked.headers["Vary"]) == (405, {}, "Origin")
    called = await gateway.get("/keys", key=gateway.admin, headers={"Origin": origin})
    assert (called.status, cors_headers(called), called.headers["Vary"]) == (200, {}, "Origin")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nowhere", "GET", 404),
        ("/keys", "DELETE", 405),
        ("/keys", "post", 405),
        ("/keys", "*", 405),
        ("/keys", "", 405),
    ],
)
async def test_only_declared_routes_and_methods_have_preflights(
    gateway: Gateway, path: str, method: str, status: int
) -> None:
    answer = await preflight(gateway, path, method)
    assert answer.status == status
    assert "Access-Control-Allow-Methods" not in answer.headers


async def test_options_that_is_no_preflight_is_an_ordinary_request(gateway: Gateway) -> None:
    assert (await gateway.call("OPTIONS", "/keys", headers={"Origin": ORIGIN})).status == 405
    assert (await gateway.call("OPTIONS", "/keys", headers={"Access-Control-Request-Method": "GET"})).status == 405
    twice = [("Origin", ORIGIN), ("Origin", ORIGIN), ("Access-Control-Request-Method", "GET")]
    assert (await gateway.call("OPTIONS", "/keys", headers=twice)).status == 405


async def test_what_looks_like_a_preflight_runs_nothing_by_another_method(gateway: Gateway) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert (await gateway.post("/actions/execute", {}, headers=headers)).status == 401


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:5173"])
async def test_answers_and_refusals_can_be_read_by_an_allowed_origin(gateway: Gateway, origin: str) -> None:
    sent = {"Origin": origin}
    for answer in (
        await gateway.get("/keys", key=gateway.admin, headers=sent),
        await gateway.get("/keys", headers=sent),
        await gateway.get("/nowhere", headers=sent),
        await gateway.call("PATCH", "/keys", headers=sent),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == origin, answer.status
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"x-request-id", "retry-after", "ratelimit", "ratelimit-policy"} <= set(exposed)
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers.getall("Vary") == ["Origin"]  # type: ignore[attr-defined]


async def test_what_the_parser_refuses_varies_too(gateway: Gateway) -> None:
    assert b"vary: Origin\r\n" in await gateway.raw(b"nonsense\r\n\r\n")


async def test_preflights_are_limited_like_every_request(sqlite_target: Target, tmp_path: Path) -> None:
    options = {"CORS_ORIGINS": ORIGIN, "RATE_LIMIT_GLOBAL_PER_MINUTE": "3"}
    async with open_gateway(sqlite_target, tmp_path / "data", **options) as gateway:
        statuses = [(await preflight(gateway, "/keys")).status for _ in range(4)]
        assert statuses == [204, 204, 204, 429]
        refused = await gateway.get("/version", headers={"Host": "evil.example"})
        assert refused.status == 429


async def test_without_origins_there_is_no_cors(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        for origin in ("http://localhost:5173", ORIGIN):
            answer = await preflight(gateway, "/keys", origin=origin)
            assert (answer.status, cors_headers(answer)) == (405, {})
            assert "Vary" not in answer.headers


# The exemption from the stamp.


@pytest.mark.parametrize("status", [200, 204, 308])
async def test_no_application_can_use_it(status: int) -> None:
    stamped = Stamp(answering(status), Edge(cors=Cors([ORIGIN])))
    headers = [(b"host", b"localhost:8000"), (b"origin", ORIGIN.encode()), (b"access-control-request-method", b"GET")]
    for method in ("OPTIONS", "GET"):
        heard = await ask(stamped, scope_of(method, "/keys", headers=headers))
        assert heard.status == 500 and SECRET not in heard.body


async def test_it_has_no_body_and_does_not_ask_the_application() -> None:
    asked: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope)

    stamped = Stamp(app, Edge(cors=Cors([ORIGIN])), lambda path: frozenset({"GET"}))
    headers = [(b"host", b"localhost:8000"), (b"origin", ORIGIN.encode()), (b"access-control-request-method", b"GET")]
    heard = await ask(stamped, scope_of("OPTIONS", "/keys", headers=headers))
    assert (heard.status, heard.body, asked) == (204, b"", [])


# The setting.


def origins(tmp_path: Path, text: str | None, env: str = "production") -> tuple[str, ...]:
    given = {"RELAY_DATA_DIR": str(tmp_path), "RELAY_ENV": env}
    return load_settings(given if text is None else {**given, "CORS_ORIGINS": text}, tmp_path).cors_origins


@pytest.mark.parametrize(
    "text",
    ["*", "https://*.example.com", "null", "https://app.example.com/", "https://app.example.com/path",
     "app.example.com", "ftp://app.example.com", "https://u:p@app.example.com", "https://a.example,*",
     "https://a.example,,https://b.example",
     "https://a.example?x", "https://a.example#x", "https://ä.example", "https://", "none,https://a.example"],
)  # fmt: skip
def test_what_is_no_exact_origin_is_refused_at_start(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        origins(tmp_path, text)


def test_the_defaults(tmp_path: Path) -> None:
    assert origins(tmp_path, None, "local") == ("http://localhost:5173", "http://localhost:3000")
    assert origins(tmp_path, None, "production") == origins(tmp_path, None, "test") == ()
    assert origins(tmp_path, "none", "local") == ()


def test_origins_are_written_as_browsers_do(tmp_path: Path) -> None:
    given = "HTTPS://App.Example.com:443, http://a.example:80,http://a.example:8080,http://a.example"
    assert origins(tmp_path, given) == ("https://app.example.com", "http://a.example", "http://a.example:8080")
