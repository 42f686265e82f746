"""The routes of keys, over a real server: keys made by keys, shown once, refused with pointers, revoked at once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvicorn

from relay.audit.anonymous import AnonymousFailures
from relay.core.clock import now, parse_iso
from relay.core.principal import BUNDLES, SCOPES
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.surface.application import build_application
from relay.web.api.keys import keys_routes
from tests.keyring import Keyring, open_keyring
from tests.limits_kit import NoLimits

DAY_SECONDS = 86_400


class Caller:
    """Sends requests with one key and returns (status, JSON)."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def __call__(self, method: str, path: str, key: str | None, **more):
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        async with self._session.request(method, self._url + path, headers=headers, **more) as answer:
            return answer.status, json.loads(await answer.read())


@asynccontextmanager
async def serving(ring: Keyring) -> AsyncIterator[Caller]:
    gate = Gate(Authenticate(ring.api_keys, AnonymousFailures(ring.database.writer)), NoLimits())
    _, asgi = build_application([keys_routes(ring.api_keys)], gate.admit, body_limit=1 << 19, body_seconds=5)
    config = uvicorn.Config(asgi, host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as session:
            yield Caller(session, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def ring(target):
    async with open_keyring(target) as ring:
        yield ring


@pytest.fixture
async def ask(ring):
    async with serving(ring) as caller:
        yield caller


@pytest.fixture
async def admin(ring):
    _, text = await ring.make(*SCOPES, kind="person")
    return text


async def test_a_key_is_made_shown_once_used_and_revoked(ask, admin):
    body = {"scopes": ["developer", "keys:manage"], "name": "bot", "expires_days": 7}
    status, made = await ask("POST", "/keys", admin, json=body)
    assert status == 201
    assert made["key"].startswith("relay_sk_test_") and made["key"].endswith(made["last4"])
    assert made["kind"] == "agent" and made["workspace"] == "default" and made["status"] == "live"
    assert made["prefix"] == "relay_sk_test_"
    assert set(made["scopes"]) == {*BUNDLES["developer"], "keys:manage"}
    left = parse_iso(made["expires_at"]) - now()
    assert 0 <= 7 * DAY_SECONDS * 1_000_000 - left < 60_000_000
    assert parse_iso(made["expires_at"]) - parse_iso(made["created_at"]) == 7 * DAY_SECONDS * 1_000_000

    status, listed = await ask("GET", "/keys", made["key"])
    assert status == 200 and listed["next_cursor"] is None
    # The person who made it is told that it is no trap; the key, an agent's, is told nothing about traps.
    assert listed["items"][0] == {name: value for name, value in made.items() if name != "key"} | {"honey": None}
    assert made["key"] not in json.dumps(listed) and "hash" not in json.dumps(listed)

    status, revoked = await ask("DELETE", f"/keys/{made['id']}", admin)
    assert status == 200 and revoked["id"] == made["id"] and revoked["revoked_at"].endswith("Z")
    status, problem = await ask("GET", "/keys", made["key"])
    assert status == 401 and problem["type"].endswith("unauthenticated")
    assert (await ask("DELETE", f"/keys/{made['id']}", admin)) == (200, revoked)


async def test_a_key_defaults_to_an_agent_for_ninety_days(ask, admin):
    status, made = await ask("POST", "/keys", admin, json={"scopes": ["docs"]})
    assert status == 201 and made["kind"] == "agent" and made["name"] == ""
    assert parse_iso(made["expires_at"]) - parse_iso(made["created_at"]) == 90 * DAY_SECONDS * 1_000_000


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/scopes"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["docs", "root"]}, "/scopes/1"),
        ({"scopes": "docs"}, "/scopes"),
        ({"scopes": ["docs"] * 33}, "/scopes"),
        ({"scopes": ["docs"], "kind": "service"}, "/kind"),
        ({"scopes": ["docs"], "expires_days": 0}, "/expires_days"),
        ({"scopes": ["docs"], "expires_days": 366}, "/expires_days"),
        ({"scopes": ["docs"], "expires_days": True}, "/expires_days"),
        ({"scopes": ["docs"], "expires_days": None}, "/expires_days"),
        ({"scopes": ["docs"], "name": "a\nb"}, "/name"),
        ({"scopes": ["docs"], "workspace": "other"}, "/workspace"),
        ({"scopes": ["docs"], "made_by": []}, "/made_by"),
    ],
)
async def test_what_is_wrong_is_pointed_at_and_nothing_is_made(sqlite_target, body, pointer):
    async with open_keyring(sqlite_target) as ring, serving(ring) as ask:
        _, admin = await ring.make(*SCOPES, kind="person")
        status, problem = await ask("POST", "/keys", admin, json=body)
        assert status == 422 and pointer in [error["pointer"] for error in problem["errors"]]
        assert len((await ring.api_keys.list_everywhere()).items) == 1


async def test_more_than_ones_own_scopes_is_403_and_says_what_is_missing(ask, admin):
    _, manager = await ask("POST", "/keys", admin, json={"scopes": ["keys:manage", "docs"]})
    status, problem = await ask("POST", "/keys", manager["key"], json={"scopes": ["admin"]})
    assert status == 403 and "audit:read" in problem["missing_scopes"] and "docs" not in problem["missing_scopes"]
    status, problem = await ask("POST", "/keys", manager["key"], json={"scopes": ["docs"], "kind": "person"})
    assert status == 403 and problem["type"].endswith("denied")


async def test_every_route_needs_the_scope(ring, ask):
    others = [scope for scope in SCOPES if scope != "keys:manage"]
    record, text = await ring.make(*others, kind="person")
    for method, path in (
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("POST", f"/keys/{record.id}/rotate"),
        ("DELETE", f"/keys/{record.id}"),
    ):
        status, problem = await ask(method, path, text)
        assert (status, problem["required_scopes"]) == (403, ["keys:manage"])
        status, _ = await ask(method, path, None)
        assert status == 401


async def test_rotation_with_and_without_a_body(ask, admin):
    _, made = await ask("POST", "/keys", admin, json={"scopes": ["keys:manage"], "expires_days": 3})
    status, first = await ask("POST", f"/keys/{made['id']}/rotate", admin)
    assert status == 200 and first["predecessor_id"] == made["id"] and first["key"] != made["key"]
    assert first["scopes"] == made["scopes"] and first["id"] != made["id"]
    overlap = parse_iso(first["predecessor_expires_at"]) - now()
    assert 0 <= DAY_SECONDS * 1_000_000 - overlap < 60_000_000
    status, _ = await ask("GET", "/keys", made["key"])
    assert status == 200
    status, again = await ask("POST", f"/keys/{made['id']}/rotate", admin)
    assert status == 409 and again["successor_id"] == first["id"]

    status, second = await ask("POST", f"/keys/{first['id']}/rotate", admin, json={"overlap_hours": 0})
    assert status == 200
    assert (await ask("GET", "/keys", first["key"]))[0] == 401
    assert (await ask("GET", "/keys", second["key"]))[0] == 200
    for body in ({"overlap_hours": 721}, {"overlap_hours": "1"}, {"overlap": 1}):
        status, _ = await ask("POST", f"/keys/{second['id']}/rotate", admin, json=body)
        assert status == 422
    status, _ = await ask("POST", f"/keys/{second['id']}/rotate", admin, data=b"overlap_hours=0")
    assert status == 415
    assert (await ask("GET", "/keys", second["key"]))[0] == 200


async def test_another_workspaces_key_is_not_there(ring, ask, admin):
    record, _ = await ring.make("docs", workspace="other")
    for method, path in (("DELETE", f"/keys/{record.id}"), ("POST", f"/keys/{record.id}/rotate")):
        status, problem = await ask(method, path, admin)
        assert status == 404 and record.id not in problem["detail"]
    _, listed = await ask("GET", "/keys", admin)
    assert record.id not in json.dumps(listed)


async def test_pages(ask, admin):
    for _ in range(3):
        await ask("POST", "/keys", admin, json={"scopes": ["docs"]})
    seen, cursor = [], ""
    for _ in range(2):
        _, page = await ask("GET", f"/keys?limit=2{cursor}", admin)
        seen += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None and len(seen) == len(set(seen)) == 4 and seen == sorted(seen, reverse=True)
    for bad in ("limit=0", "limit=201", "limit=x", "cursor=%00", "cursor=key_1", "page=2"):
        assert (await ask("GET", f"/keys?{bad}", admin))[0] == 422


async def test_both_headers_must_agree(ask, admin):
    other = admin[:-1] + ("A" if admin[-1] != "A" else "B")
    assert (await ask("GET", "/keys", admin, headers={"X-API-Key": admin}))[0] == 200
    assert (await ask("GET", "/keys", None, headers={"X-API-Key": admin}))[0] == 200
    assert (await ask("GET", "/keys", admin, headers={"X-API-Key": other}))[0] == 401
    assert (await ask("GET", "/keys", other, headers={"X-API-Key": admin}))[0] == 401
