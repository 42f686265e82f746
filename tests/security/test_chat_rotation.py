"""A rotated key keeps its conversations: they are found with its successor, and with nothing else that it made."""

from typing import Any

from tests.chat_talk import HELD, begun, held, say, settled, turn_of, until
from tests.gateway import Gateway

PERSON = ("chat", "actions:preview", "approvals:decide")


async def id_of(gateway: Gateway, key: str) -> str:
    """Return the id of a key by what it ends with."""
    keys = (await gateway.get("/keys?limit=200", key=gateway.admin)).expect(200)["items"]
    [found] = [item["id"] for item in keys if item["last4"] == key[-4:]]
    return str(found)


async def rotated(gateway: Gateway, key: str, *, overlap: int = 24) -> str:
    """Return the successor of a key, as its administrator makes it."""
    body = {"overlap_hours": overlap}
    path = f"/keys/{await id_of(gateway, key)}/rotate"
    return str((await gateway.post(path, body, key=gateway.admin)).expect(200)["key"])


async def sessions_of(gateway: Gateway, key: str) -> set[str]:
    listed = (await gateway.get("/chat/sessions", key=key)).expect(200)["items"]
    return {item["session_id"] for item in listed}


async def test_a_conversation_goes_on_with_the_key_that_took_the_place_of_its_own(gateway: Gateway) -> None:
    first = await gateway.key(*HELD)
    session = await begun(gateway, first, 'echo "before"')
    second = await rotated(gateway, first)
    assert await sessions_of(gateway, second) == {session}
    assert await turn_of(gateway, second, session) == await turn_of(gateway, first, session)
    (await say(gateway, 'echo "after"', key=second, session=session)).expect(200)
    # Programs go over one by one: while both keys live, either finds what was begun with the other.
    later = await begun(gateway, second, 'echo "later"')
    third = await rotated(gateway, second)
    for key in (first, second, third):
        assert await sessions_of(gateway, key) == {session, later}
        (await say(gateway, 'echo "on"', key=key, session=later)).expect(200)
        path = f"/chat/sessions/{session}/events"
        async with gateway.session.get(gateway.url + path, headers={"X-API-Key": key}) as response:
            assert response.status == 200
    said = [entry["text"] for entry in (await turn_of(gateway, third, session))["entries"] if entry["kind"] == "user"]
    assert said == ['echo "before"', 'echo "after"']
    (await gateway.call("DELETE", f"/chat/sessions/{session}", key=third)).expect(200)
    assert await sessions_of(gateway, first) == {later}


async def test_what_else_descends_from_a_key_finds_none_of_its_sessions(gateway: Gateway) -> None:
    owner = await gateway.key(*HELD, "keys:manage", kind="person")
    session = await begun(gateway, owner)
    successor = await rotated(gateway, owner)
    own = await begun(gateway, successor)

    async def child_of(key: str) -> str:
        return str((await gateway.post("/keys/children", {"scopes": ["chat"]}, key=key)).expect(201)["key"])

    async def made_by(key: str) -> str:
        return str((await gateway.post("/keys", {"scopes": ["chat"]}, key=key)).expect(201)["key"])

    made = await made_by(owner)
    others = {
        "a child of the key": await child_of(owner),
        "a child of its successor": await child_of(successor),
        "a key that it made": made,
        "a key that its successor made": await made_by(successor),
        "the successor of a key that it made": await rotated(gateway, made),
        "whoever rotated it": gateway.admin,
    }
    for who, key in others.items():
        assert not await sessions_of(gateway, key), who
        for wanted in (session, own):
            (await gateway.get(f"/chat/sessions/{wanted}", key=key)).expect(404)
            (await say(gateway, "echo hello", key=key, session=wanted)).expect(404)
    theirs = await begun(gateway, others["a child of its successor"])
    for key in (owner, successor):
        assert theirs not in await sessions_of(gateway, key)
        (await gateway.get(f"/chat/sessions/{theirs}", key=key)).expect(404)


async def withdrawn(gateway: Gateway, approval_id: str) -> bool:
    shown = (await gateway.get(f"/approvals/{approval_id}", key=gateway.admin)).expect(200)
    return bool(shown["status"] == "withdrawn")


async def test_a_successor_withdraws_and_edits_what_its_predecessor_asked_for(gateway: Gateway) -> None:
    first = await gateway.key(*HELD)
    ways = {}
    for way in ("call", "turn", "session", "edit"):
        ways[way] = await held(gateway, first)
    second = await rotated(gateway, first)

    async def act(way: str, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        session, call = ways[way]
        where = f"/chat/sessions/{session}" + path.format(call=call["id"])
        (await gateway.call(method, where, json=body, key=second)).expect(200)
        assert await withdrawn(gateway, call["approval_id"]), f"{way}: it could still be approved, and would run"

    await act("call", "POST", "/calls/{call}/cancel")
    await act("turn", "POST", "/cancel")
    await act("session", "DELETE", "")
    session, call = ways["edit"]
    other = {"to": ["ada@example.com"], "subject": "Lunch", "text": "See you at two"}
    await act("edit", "POST", "/calls/{call}/edit", {"params": other})
    [waits] = (await gateway.get("/approvals?status=pending", key=gateway.admin)).expect(200)["items"]
    assert waits["requested_by"] == await id_of(gateway, second), "the one who edited asks for what it is now"
    # It belongs to the key that asked for it: the end of the old key does not touch it.
    (await gateway.call("DELETE", f"/keys/{await id_of(gateway, first)}", key=gateway.admin)).expect(200)
    person = await gateway.key(*PERSON, kind="person")
    path = f"/chat/sessions/{session}/calls/{call['id']}/approve"
    (await gateway.post(path, {"digest": waits["digest"]}, key=person)).expect(200)
    done = await settled(gateway, second, session)
    assert "See you at two" in str(done) and done["session"]["status"] == "done"


async def test_a_request_is_withdrawn_by_its_key_and_by_those_of_its_line(gateway: Gateway) -> None:
    first = await gateway.key(*HELD)
    _, call = await held(gateway, first)
    _, kept = await held(gateway, first)
    second = await rotated(gateway, first)
    stranger = await gateway.key(*HELD)
    path = "/approvals/{}/withdraw"
    (await gateway.post(path.format(call["approval_id"]), key=stranger)).expect(403)
    (await gateway.post(path.format(call["approval_id"]), key=second)).expect(200)
    (await gateway.post(path.format(kept["approval_id"]), key=first)).expect(200)


async def test_what_an_ended_key_asked_for_never_runs_and_its_session_goes_on(gateway: Gateway) -> None:
    first = await gateway.key(*HELD)
    session, call = await held(gateway, first)
    second = await rotated(gateway, first, overlap=0)
    (await gateway.get(f"/chat/sessions/{session}", key=first)).expect(401)
    turn = (await say(gateway, 'echo "again"', key=second, session=session)).expect(200)
    assert turn["tool_calls"][0]["result"] == {"message": "again"}
    person = await gateway.key(*PERSON, kind="person")
    path = f"/chat/sessions/{session}/calls/{call['id']}/approve"
    (await gateway.post(path, {"digest": call["digest"]}, key=person)).expect(409)

    async def told() -> bool:
        entries = (await turn_of(gateway, second, session))["entries"]
        shown = [entry["call"] for entry in entries if entry["kind"] == "call" and entry["call"]["id"] == call["id"]]
        return bool(shown[-1]["status"] == "denied" and entries[-1]["turn_id"] != turn["turn_id"])

    await until(told, "the conversation does not hear of it, or does not go on")
