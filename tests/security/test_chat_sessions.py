"""A chat session is its owner's: stolen, guessed, chosen and shared ids lead nowhere, and all to the same place."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from relay.core.principal import SCOPES
from relay.crypto.digest import sha256_hex
from relay.identity.operator import operator
from relay.store.tables import metadata, workspaces
from relay.store.tables.chat import chat_sessions
from relay.store.target import Target
from tests.chat_talk import HELD, MAIL, begun, blocks, held, say, settled, turn_of, until
from tests.gateway import REQUEST, Answer, Gateway, open_gateway
from tests.outside import http_server

CHAT_KEY = base64.b64encode(bytes(range(100, 133))).decode()
PERSON = ("chat", "actions:preview", "approvals:decide")


def told(answer: Answer) -> tuple[int, dict[str, Any]]:
    """Return what an answer tells, without what says which request it answers."""
    return answer.status, {name: value for name, value in answer.json.items() if name not in ("instance", "request_id")}


async def every_way_in(gateway: Gateway, session: str, call: str, *, key: str) -> dict[str, Answer]:
    """Ask for a session in each way that there is for its owner."""
    path = f"/chat/sessions/{session}"
    return {
        "say": await say(gateway, "echo hello", key=key, session=session),
        "say, streamed": await say(
            gateway, "echo hello", key=key, session=session, headers={"Accept": "text/event-stream"}
        ),
        "read": await gateway.get(path, key=key),
        "follow": await gateway.get(f"{path}/events", key=key),
        "cancel": await gateway.post(f"{path}/cancel", key=key),
        "edit": await gateway.post(f"{path}/calls/{call}/edit", {"params": {}}, key=key),
        "withdraw": await gateway.post(f"{path}/calls/{call}/cancel", key=key),
        "delete": await gateway.call("DELETE", path, key=key),
    }


async def every_decision(gateway: Gateway, session: str, call: str, *, key: str) -> dict[str, Answer]:
    path, body = f"/chat/sessions/{session}/calls/{call}", {"digest": "0" * 64}
    return {what: await gateway.post(f"{path}/{what}", body, key=key) for what in ("approve", "deny")}


NOWHERE = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")


async def test_nobody_else_finds_a_session(gateway: Gateway) -> None:
    owner = await gateway.key(*HELD)
    session, call = await held(gateway, owner)
    before = await turn_of(gateway, owner, session)
    thieves = {
        "another key": await gateway.key(*HELD),
        "an administrator": gateway.admin,
        "another workspace": await gateway.key(*SCOPES, kind="person", workspace="other"),
        "a child token": (await gateway.post("/keys/children", {"scopes": list(HELD)}, key=owner)).expect(201)["key"],
    }
    for who, key in thieves.items():
        nowhere = await every_way_in(gateway, NOWHERE, call["id"], key=key)
        for way, answer in (await every_way_in(gateway, session, call["id"], key=key)).items():
            assert answer.status == 404, f"{who}, {way}: {answer.body!r}"
            assert told(answer) == told(nowhere[way]), f"{who}, {way}: it tells that the session exists"
        listed = (await gateway.get("/chat/sessions", key=key)).expect(200)["items"]
        assert session not in str(listed), f"{who} sees it in the list"
    stranger = await gateway.key(*SCOPES, kind="person", workspace="other")
    for way, answer in (await every_decision(gateway, session, call["id"], key=stranger)).items():
        nowhere = await every_decision(gateway, NOWHERE, call["id"], key=stranger)
        assert told(answer) == told(nowhere[way]) and answer.status == 404, way
    assert await turn_of(gateway, owner, session) == before, "what was refused has happened"


async def test_a_revoked_key_finds_its_own_sessions_no_more(gateway: Gateway) -> None:
    owner = await gateway.key(*HELD)
    session, call = await held(gateway, owner)
    keys = (await gateway.get("/keys", key=gateway.admin)).expect(200)["items"]
    mine = next(item["id"] for item in keys if item["scopes"] == sorted(HELD, key=list(SCOPES).index))
    (await gateway.call("DELETE", f"/keys/{mine}", key=gateway.admin)).expect(200)
    for way, answer in (await every_way_in(gateway, session, call["id"], key=owner)).items():
        assert answer.status == 401, way


def _neighbours(session: str) -> list[str]:
    other = "A" if session[5] != "A" else "B"
    return [
        session[:-1],
        session + "A",
        session + "=",
        session[:5] + other + session[6:],
        session[:-1] + ("Q" if session[-1] != "Q" else "g"),
        session.swapcase(),
        session[::-1],
        session.replace("-", "+").replace("_", "/") + "A",
        sha256_hex(session.encode()),
        session + "%00",
        "%20" + session,
        "trn_0",
        "0",
    ]


async def test_an_id_that_is_nearly_right_is_one_that_is_not_there(gateway: Gateway) -> None:
    owner = await gateway.key(*HELD)
    session = await begun(gateway, owner)
    expected = told(await gateway.get(f"/chat/sessions/{NOWHERE}", key=owner))
    assert expected[0] == 404
    for near in _neighbours(session):
        if near != session:
            status, problem = told(await gateway.get(f"/chat/sessions/{near}", key=owner))
            assert status == 404, near
            assert (status, problem) == expected or "\0" in near or "%00" in near or "/" in near, near
            said = await say(gateway, "echo hello", key=owner, session=near)
            assert told(said) == expected, near


async def test_ids_are_256_bits_that_the_server_chose(gateway: Gateway) -> None:
    owner = await gateway.key("chat")
    ids = {await begun(gateway, owner, "hello") for _ in range(8)}
    assert len(ids) == 8
    for session in ids:
        assert len(session) == 43
        assert len(base64.urlsafe_b64decode(session + "=")) == 32
    lone = {session[place] for session in ids for place in (0, 20)}
    assert len(lone) > 2, "they are alike"


@pytest.mark.parametrize("chosen", [NOWHERE, "my-session", "", "x" * 200, "../../etc/passwd"])
async def test_no_caller_chooses_the_id_of_a_session(gateway: Gateway, chosen: str) -> None:
    key = await gateway.key(*HELD)
    (await say(gateway, "echo hello", key=key, session=chosen)).expect(404)
    assert (await gateway.house.database.reader.all(select(chat_sessions.c.id))) == []
    given = await begun(gateway, key)
    assert given != chosen
    (await say(gateway, "echo hello", key=key, session=chosen)).expect(404)


async def test_a_deleted_session_is_gone_and_its_id_opens_nothing_again(gateway: Gateway) -> None:
    owner = await gateway.key(*HELD)
    session, call = await held(gateway, owner)
    assert (await gateway.call("DELETE", f"/chat/sessions/{session}", key=owner)).expect(200)["deleted"] is True
    for way, answer in (await every_way_in(gateway, session, call["id"], key=owner)).items():
        assert answer.status == 404, way
    approver = await gateway.key(*PERSON, kind="person")
    for way, answer in (await every_decision(gateway, session, call["id"], key=approver)).items():
        assert answer.status == 404, way
    pending = (await gateway.get("/approvals?status=pending", key=approver)).expect(200)["items"]
    assert pending == [], "what waited in it can still be approved"


async def test_the_database_holds_no_id_that_opens_a_session(gateway: Gateway) -> None:
    owner = await gateway.key(*HELD)
    session, _ = await held(gateway, owner)
    [row] = await gateway.house.database.reader.all(select(chat_sessions.c.id))
    assert row[0] == sha256_hex(session.encode())
    for table in metadata.sorted_tables:
        rows = await gateway.house.database.reader.all(select(table))
        assert session not in repr(rows) and session.encode() not in repr(rows).encode(), table.name
    for event in await gateway.events():
        assert session not in repr(event)


async def test_neither_log_nor_metrics_name_a_session(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "relay")
    owner = await gateway.key(*HELD)
    session, call = await held(gateway, owner)
    path = f"/chat/sessions/{session}"
    (await gateway.get(path, key=owner)).expect(200)
    (await gateway.get(f"{path}x", key=owner)).expect(404)
    (await gateway.post(f"{path}/calls/{call['id']}/cancel", key=owner)).expect(200)
    await settled(gateway, owner, session)
    (await gateway.call("DELETE", path, key=owner)).expect(200)
    lines = [repr(vars(record)) for record in caplog.records if record.name.startswith("relay")]
    assert any("/chat/sessions/{session_id}" in line for line in lines)
    assert not any(session in line or owner in line for line in lines)
    assert session.encode() not in (await gateway.get("/metrics")).body


# Many holders of one key.


@asynccontextmanager
async def with_chat_key(target: Target, tmp_path: Path, **more: str) -> AsyncIterator[Gateway]:
    given = {"CHAT_API_KEY": CHAT_KEY, "CHAT_SCOPES": "chat actions:preview actions:execute", **more}
    async with open_gateway(target, tmp_path / "data", **given) as gateway:
        yield gateway


async def test_sessions_of_the_chat_key_are_found_by_their_ids_alone(target: Target, tmp_path: Path) -> None:
    async with with_chat_key(target, tmp_path) as gateway:
        session = await begun(gateway, CHAT_KEY)
        assert (await gateway.get("/chat/sessions", key=CHAT_KEY)).expect(200) == {"items": [], "next_cursor": None}
        assert len((await turn_of(gateway, CHAT_KEY, session))["entries"]) >= 2
        for key in (gateway.admin, await gateway.key(*HELD)):
            (await gateway.get(f"/chat/sessions/{session}", key=key)).expect(404)
        theirs = await begun(gateway, gateway.admin)
        (await gateway.get(f"/chat/sessions/{theirs}", key=CHAT_KEY)).expect(404)


async def test_the_chat_key_opens_the_chat_and_nothing_else(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_chat_key(sqlite_target, tmp_path) as gateway:
        opened, shut = 0, 0
        for route in gateway.server.fastapi.routes:
            access, path = route.access, route.path_format  # type: ignore[attr-defined]
            if access.auth != "bearer":
                continue
            for method in route.methods:  # type: ignore[attr-defined]
                for headers in ({"X-API-Key": CHAT_KEY}, {"Authorization": f"Bearer {CHAT_KEY}"}):
                    answer = await gateway.call(method, path.replace("{", "").replace("}", ""), headers=headers)
                    if not path.startswith("/chat"):
                        shut += 1
                        assert answer.status == 401, f"{method} {path}: {answer.status}"
                    else:
                        opened += 1
                        missing = answer.json.get("missing_scopes") if answer.status == 403 else None
                        assert answer.status != 401, f"{method} {path}"
                        assert missing == (["approvals:decide"] if path.endswith(("approve", "deny")) else None), path
        assert opened >= 20 and shut >= 60


async def test_the_workspace_of_the_chat_key_is_made_with_its_door(sqlite_target: Target, tmp_path: Path) -> None:
    shut = {"CHAT_API_KEY": "", "CHAT_WORKSPACE": "support-desk"}
    for settings, made in ((shut, False), ({**shut, "CHAT_API_KEY": CHAT_KEY}, True)):
        async with open_gateway(sqlite_target, tmp_path / "data", **settings) as gateway:
            found = await gateway.house.database.reader.all(select(workspaces.c.id))
        assert (("support-desk",) in [tuple(row) for row in found]) is made


async def test_a_wrong_chat_key_counts_as_a_wrong_credential(sqlite_target: Target, tmp_path: Path) -> None:
    few = {"RATE_LIMIT_CREDENTIALS_PER_5_MINUTES": "3"}
    async with with_chat_key(sqlite_target, tmp_path, **few) as gateway:
        wrong = {"X-API-Key": CHAT_KEY[:-1] + "x"}
        statuses = [(await gateway.get("/chat/sessions", headers=wrong)).status for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        (await gateway.get("/chat/sessions", key=CHAT_KEY)).expect(200)


async def test_the_chat_key_is_in_no_log_row_or_metric(
    sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "relay")
    async with with_chat_key(sqlite_target, tmp_path) as gateway:
        await begun(gateway, CHAT_KEY)
        refused = await gateway.get("/actions", headers={"X-API-Key": CHAT_KEY})
        broken = await say(gateway, "", key=CHAT_KEY)
        seen = [refused.body, broken.body, (await gateway.get("/metrics")).body, repr(await gateway.events()).encode()]
        seen += [repr(gateway.house.settings).encode(), caplog.text.encode()]
    assert b"chat" in seen[3]
    assert all(CHAT_KEY.encode() not in text for text in seen)


async def test_sessions_outlive_a_change_of_the_chat_key_and_not_its_end(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_chat_key(sqlite_target, tmp_path) as gateway:
        session, admin = await begun(gateway, CHAT_KEY), gateway.admin
    other = base64.b64encode(bytes(range(33, 66))).decode()
    async with with_chat_key(sqlite_target, tmp_path, CHAT_API_KEY=other) as gateway:
        (await gateway.get(f"/chat/sessions/{session}", key=CHAT_KEY)).expect(401)
        (await say(gateway, "echo again", key=other, session=session)).expect(200)
    async with open_gateway(sqlite_target, tmp_path / "data", admin=admin) as gateway:
        (await gateway.get(f"/chat/sessions/{session}", key=other)).expect(401)
        assert await gateway.house.api_keys.reload("chat") is None
        (await gateway.get(f"/chat/sessions/{session}", key=admin)).expect(404)


async def test_what_the_chat_key_asks_for_waits_for_a_person(target: Target, tmp_path: Path) -> None:
    async with with_chat_key(target, tmp_path, CHAT_WORKSPACE="support-desk") as gateway:
        session, call = await held(gateway, CHAT_KEY)
        path = f"/chat/sessions/{session}/calls/{call['id']}"
        (await gateway.post(f"{path}/approve", {"digest": call["digest"]}, key=CHAT_KEY)).expect(403)
        (await gateway.post(f"{path}/approve", {"digest": call["digest"]}, key=gateway.admin)).expect(404)
        approver = await gateway.key(*PERSON, kind="person", workspace="support-desk")
        (await gateway.post(f"{path}/approve", {"digest": call["digest"]}, key=approver)).expect(200)
        done = await settled(gateway, CHAT_KEY, session)
        assert done["entries"][-1]["kind"] == "assistant" and "Done" in done["entries"][-1]["text"]


async def test_the_networks_of_its_workspace_bind_the_chat_key(target: Target, tmp_path: Path) -> None:
    async with with_chat_key(target, tmp_path, CHAT_WORKSPACE="support-desk") as gateway:
        owner = await gateway.key("workspace:admin", *PERSON, kind="person", workspace="support-desk")
        session, call = await held(gateway, CHAT_KEY)
        path, networks = f"/chat/sessions/{session}", "/workspace/allowed-networks"
        async with gateway.session.get(f"{gateway.url}{path}/events", headers={"X-API-Key": CHAT_KEY}) as response:
            assert response.status == 200
            elsewhere = {"allowed_networks": ["203.0.113.0/24"], "lock_me_out": True}
            (await gateway.call("PUT", networks, key=owner, json=elsewhere)).expect(200)
            rest = await asyncio.wait_for(response.read(), 30)
        assert blocks(rest)[-1].data == {"reason": "address_not_allowed"}
        for way, answer in (await every_way_in(gateway, session, call["id"], key=CHAT_KEY)).items():
            assert answer.expect(403)["type"] == "urn:relay:problem:address-not-allowed", way
        await gateway.house.api_keys.restrict_workspace(
            operator(), "support-desk", [], address=None, lock_me_out=True, request_id=REQUEST
        )
        shown = await turn_of(gateway, CHAT_KEY, session)
        assert shown["session"]["status"] == "awaiting_approval"


async def test_with_the_default_scopes_the_chat_key_is_shown_and_does_nothing(
    sqlite_target: Target, tmp_path: Path
) -> None:
    async with with_chat_key(sqlite_target, tmp_path, CHAT_SCOPES="chat actions:preview") as gateway:
        turn = (await say(gateway, MAIL, key=CHAT_KEY)).expect(200)
        [call] = turn["tool_calls"]
        assert (turn["status"], call["status"], call["attempt_id"]) == ("done", "previewed", None)
        assert "ada@example.com" in json.dumps(call["preview"])
    assert not list((tmp_path / "data").glob("mail/new/*"))


# Without any key.

LOCAL = {"RELAY_ENV": "local", "CHAT_PILOT_MODE": "true"}
FROM_ELSEWHERE: dict[str, list[tuple[str, str]]] = {
    "a page of another site": [("Origin", "https://evil.example")],
    "a page of this machine": [("Origin", "http://localhost:5173")],
    "a form without Origin": [("Sec-Fetch-Site", "cross-site")],
    "a proxy": [("X-Forwarded-For", "127.0.0.1")],
    "a proxy by RFC 7239": [("Forwarded", "for=127.0.0.1;host=localhost")],
    "a proxy's real address": [("X-Real-IP", "127.0.0.1")],
    "a wrong key": [("X-API-Key", "relay_sk_local_wrong")],
    "a wrong bearer": [("Authorization", "Bearer nothing")],
    "another scheme": [("Authorization", "Basic YTpi")],
    "a cookie": [("Cookie", "session=1")],
}


async def test_the_pilot_chats_on_this_machine_and_nobody_else_does(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", **LOCAL) as gateway:
        turn = (await say(gateway, MAIL)).expect(200)
        [call] = turn["tool_calls"]
        assert call["status"] == "previewed"
        (await gateway.get(f"/chat/sessions/{turn['session_id']}")).expect(200)
        assert (await gateway.get("/chat/sessions")).expect(200)["items"] == []
        (await gateway.get("/actions")).expect(401)
        for about, headers in FROM_ELSEWHERE.items():
            for method, path in (("POST", "/chat/"), ("GET", f"/chat/sessions/{turn['session_id']}")):
                body = {"message": "echo hello"} if method == "POST" else None
                answer = await gateway.call(method, path, headers=headers, json=body)
                assert answer.status == 401, f"{about}: {answer.status}"


async def test_the_person_of_development_mode_chats_as_herself(sqlite_target: Target, tmp_path: Path) -> None:
    both = {**LOCAL, "DEV_AUTH_MODE": "true", "CHAT_API_KEY": CHAT_KEY}
    async with open_gateway(sqlite_target, tmp_path / "data", **both) as gateway:
        turn = (await say(gateway, MAIL)).expect(200)
        assert turn["tool_calls"][0]["status"] == "succeeded", "a person's mail does not wait"
        [item] = (await gateway.get("/chat/sessions")).expect(200)["items"]
        assert item["session_id"] == turn["session_id"]
        (await gateway.get(f"/chat/sessions/{turn['session_id']}", key=CHAT_KEY)).expect(404)


# Two credentials, and two at once.


async def test_two_credentials_in_one_request_are_none(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_chat_key(sqlite_target, tmp_path) as gateway:
        session = await begun(gateway, gateway.admin)
        path = f"/chat/sessions/{session}"
        for headers in (
            [("Authorization", f"Bearer {gateway.admin}"), ("X-API-Key", CHAT_KEY)],
            [("Authorization", f"Bearer {CHAT_KEY}"), ("X-API-Key", gateway.admin)],
            [("X-API-Key", CHAT_KEY), ("X-API-Key", gateway.admin)],
            [("X-API-Key", f"{CHAT_KEY}, {gateway.admin}")],
            [("Authorization", f"Bearer {CHAT_KEY}"), ("Authorization", f"Bearer {gateway.admin}")],
            [("Authorization", f"Bearer {CHAT_KEY} {gateway.admin}")],
        ):
            assert (await gateway.get(path, headers=headers)).status == 401, headers


async def test_one_turn_at_a_time(gateway: Gateway) -> None:
    key = await gateway.key(*HELD)
    session = await begun(gateway, key)
    answers = await asyncio.gather(*(say(gateway, f'echo "{n}"', key=key, session=session) for n in range(6)))
    statuses = sorted(answer.status for answer in answers)
    assert set(statuses) <= {200, 409} and 200 in statuses
    for answer in answers:
        if answer.status == 409:
            assert answer.json["turn_id"].startswith("trn_")
    found = await turn_of(gateway, key, session)
    assert found["session"]["turns"] == 1 + statuses.count(200)
    turns = [entry["turn_id"] for entry in found["entries"]]
    assert turns == sorted(turns, key=turns.index), "two turns are mixed up"


async def test_a_message_into_a_turn_that_runs_is_refused_and_a_cancel_ends_it(target: Target, tmp_path: Path) -> None:
    asked, let_go = asyncio.Event(), asyncio.Event()

    async def slow(server: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await let_go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async with (
        http_server(slow) as site,
        open_gateway(target, tmp_path / "data", EGRESS_ALLOW=f"127.0.0.1:{site.port}") as gateway,
    ):
        key = await gateway.key(*HELD, kind="person")
        prompt = f"GET http://127.0.0.1:{site.port}/"
        accepted = (await say(gateway, prompt, key=key, headers={"Prefer": "respond-async"})).expect(202)
        session = accepted["session_id"]
        assert (accepted["status"], accepted["tool_calls"], accepted["awaiting_approval"]) == ("running", [], False)
        await asyncio.wait_for(asked.wait(), 30)
        refused = (await say(gateway, "echo hello", key=key, session=session)).expect(409)
        assert refused["turn_id"] == accepted["turn_id"]
        stopped = (await gateway.post(f"/chat/sessions/{session}/cancel", key=key)).expect(200)
        assert stopped["turn_id"] == accepted["turn_id"]
        let_go.set()
        ended = await settled(gateway, key, session, "cancelled", "done")
        assert ended["session"]["status"] == "cancelled"
        assert (await say(gateway, "echo hello", key=key, session=session)).status == 200


# What a stream may go on showing.


async def test_a_stream_ends_with_the_credential_and_gives_its_place_back(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", STREAMS_PER_PRINCIPAL="1") as gateway:
        owner = await gateway.key(*HELD)
        session = await begun(gateway, owner)
        path = f"/chat/sessions/{session}/events"
        async with gateway.session.get(gateway.url + path, headers={"X-API-Key": owner}) as response:
            assert response.status == 200
            assert await response.content.readuntil(b"\n\n")
            (await gateway.get(path, key=owner)).expect(429)
        await until(lambda: _opens(gateway, path, owner), "the place of a reader who left is never given back")
        async with gateway.session.get(gateway.url + path, headers={"X-API-Key": owner}) as response:
            keys = (await gateway.get("/keys", key=gateway.admin)).expect(200)["items"]
            mine = next(item["id"] for item in keys if item["kind"] == "agent")
            (await gateway.call("DELETE", f"/keys/{mine}", key=gateway.admin)).expect(200)
            rest = await asyncio.wait_for(response.read(), 30)
        assert blocks(rest)[-1].data == {"reason": "credential_revoked"}


async def _opens(gateway: Gateway, path: str, key: str) -> bool:
    async with gateway.session.get(gateway.url + path, headers={"X-API-Key": key}) as response:
        return response.status == 200


async def test_without_a_place_for_its_stream_no_turn_begins(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", STREAMS_PER_PRINCIPAL="1") as gateway:
        owner = await gateway.key(*HELD)
        session = await begun(gateway, owner)
        before, streamed = await turn_of(gateway, owner, session), {"Accept": "text/event-stream"}
        path = f"/chat/sessions/{session}/events"
        async with gateway.session.get(gateway.url + path, headers={"X-API-Key": owner}) as response:
            assert await response.content.readuntil(b"\n\n")
            for into in (session, None):
                refused = await say(gateway, 'echo "twice"', key=owner, session=into, headers=streamed)
                assert refused.expect(429)["type"] == "urn:relay:problem:too-many-streams"
            assert await turn_of(gateway, owner, session) == before, "what was refused has begun"
            assert len((await gateway.get("/chat/sessions", key=owner)).expect(200)["items"]) == 1

        async def refused_by_session() -> bool:
            answer = await say(gateway, "echo hello", key=owner, session=NOWHERE, headers=streamed)
            return answer.status == 404

        await until(refused_by_session, "the place of a reader who left is never given back")
        assert await refused_by_session(), "a message that was refused keeps its place"
        told = await say(gateway, 'echo "once"', key=owner, session=session, headers=streamed)
        assert blocks(told.body)[-1].data["status"] == "done"


async def test_a_stream_ends_when_its_session_is_deleted(gateway: Gateway) -> None:
    owner = await gateway.key(*HELD)
    session = await begun(gateway, owner)
    path = f"/chat/sessions/{session}/events"
    async with gateway.session.get(gateway.url + path, headers={"X-API-Key": owner}) as response:
        (await gateway.call("DELETE", f"/chat/sessions/{session}", key=owner)).expect(200)
        rest = await asyncio.wait_for(response.read(), 30)
    assert blocks(rest)[-1].kind == "end" and blocks(rest)[-1].data == {"reason": "deleted"}
