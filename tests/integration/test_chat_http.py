"""The chat on the wire, with a scripted model behind it: streams, how they are resumed, pictures, refusals, bounds."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.chat import attachments
from relay.chat.attachments import MAX_BYTES
from relay.chat.pictures import kind_of
from relay.chat.schemas import BODY_LIMIT, MAX_MESSAGE
from relay.store.target import Target
from relay.surface.declare import BODY_ROOM
from tests.chat_talk import HELD, Block, begun, blocks, held, say, settled
from tests.gateway import Answer, Gateway, open_gateway
from tests.model_server import PRICES, ModelServer, call, fail, open_model_server
from tests.model_server import say as spoken
from tests.pictures import attached, gif, jpeg, large_png, png, webp

STREAM = {"Accept": "text/event-stream"}
TEXT = "".join(f"This is sentence number {number}. " for number in range(40))


@asynccontextmanager
async def with_model(target: Target, tmp_path: Path, **more: str) -> AsyncIterator[tuple[Gateway, ModelServer]]:
    async with (
        open_model_server() as model,
        open_gateway(target, tmp_path / "data", **{**model.settings, "AI_RETRIES": "0", **more}) as gateway,
    ):
        yield gateway, model


def text_of(seen: list[Block]) -> str:
    """Return the last answer as a reader has it who applies each event in turn, in whatever order pieces come twice."""
    text = ""
    for block in seen:
        if block.kind == "delta":
            offset = block.data["offset"]
            assert offset <= len(text), "there is a hole"
            text = text[:offset] + block.data["text"]
        elif block.kind == "message":
            text = block.data["text"]
    return text


# Streams.


async def test_a_turn_as_it_happens(target: Target, tmp_path: Path) -> None:
    async with with_model(target, tmp_path) as (gateway, model):
        key = await gateway.key(*HELD)
        model.reply(spoken("Looking.", call("relay-echo", {"message": "hi"})), spoken(TEXT, piece=60))
        answer = await say(gateway, "say hi", key=key, headers=STREAM)
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream")
        assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-store", "no")
        seen = blocks(answer.body)
        assert [seen[0].kind, seen[-1].kind] == ["session", "turn"]
        assert {block.kind for block in seen} >= {"session", "delta", "call", "message", "turn"}
        calls = [block.data["status"] for block in seen if block.kind == "call"]
        assert calls[-1] == "succeeded" and all(block.id for block in seen[1:])
        assert text_of(seen) == TEXT.strip() or text_of(seen) == TEXT
        turn = seen[-1].data
        assert turn["status"] == "done" and turn["session_id"] == seen[0].data["session_id"]
        session = seen[0].data["session_id"]
        model.reply(spoken("Again."))
        plain = (await say(gateway, "again", key=key, session=session)).expect(200)
        assert set(plain) == set(turn), "the last event is not what the answer would have been"
        assert plain["model"] == "scripted-1" and plain["notices"] == [] and plain["message"] == "Again."


async def test_a_model_by_the_name_of_the_local_planner_is_not_taken_for_it(
    sqlite_target: Target, tmp_path: Path
) -> None:
    async with with_model(sqlite_target, tmp_path, AI_MODEL="local", AI_PRICES="local=0/0") as (gateway, model):
        model.reply(spoken("I am a model."))
        asked = (await say(gateway, "who are you?", key=await gateway.key(*HELD))).expect(200)
        assert (asked["model"], asked["notices"]) == ("local", [])
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        planned = (await say(gateway, "who are you?", key=await gateway.key(*HELD))).expect(200)
        assert planned["model"] == "local" and "No language model" in planned["notices"][0]


async def test_a_reader_who_was_cut_off_in_the_middle_goes_on_there(target: Target, tmp_path: Path) -> None:
    async with with_model(target, tmp_path) as (gateway, model):
        key = await gateway.key(*HELD)
        gate = asyncio.Event()
        model.reply(spoken(TEXT, piece=100, gate=gate, after=4))
        url, headers = gateway.url + "/chat/", {"X-API-Key": key, **STREAM}
        async with gateway.session.post(url, json={"message": "talk"}, headers=headers) as response:
            seen = await _read_until(response, "delta")
        session, last = seen[0].data["session_id"], seen[-1].id
        assert last is not None and "." in last, "an id inside the answer"
        gate.set()
        path = f"{gateway.url}/chat/sessions/{session}/events"
        async with gateway.session.get(path, headers={"X-API-Key": key, "Last-Event-ID": last}) as response:
            rest = await _read_until(response, "turn")
        assert not any(block.kind in ("session", "user") for block in rest), "it begins at the start again"
        assert text_of([*seen, *rest]).strip() == TEXT.strip()
        assert rest[-1].data["status"] == "done"
        ids = [block.id for block in rest]
        assert last not in ids and len(set(ids)) == len(ids), "something is told twice"


async def _read_until(response: Any, kind: str) -> list[Block]:
    found: list[Block] = []
    async with asyncio.timeout(60):
        while not found or found[-1].kind != kind or (kind == "turn" and found[-1].data["status"] == "running"):
            found += blocks(await response.content.readuntil(b"\n\n"))
    return found


async def test_an_id_that_is_not_the_sessions_own_begins_at_the_start(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD)
        session = await begun(gateway, key)
        url = f"{gateway.url}/chat/sessions/{session}/events"
        for given in ("0", "nonsense", "-1", "1.5.2", "999999", "1\u0660", "9" * 40):
            async with gateway.session.get(url, headers={"X-API-Key": key, "Last-Event-ID": given}) as response:
                seen = [block for block in await _read_until(response, "turn") if block.kind != "session"]
            assert (seen[0].kind, seen[0].data.get("text")) == ("user", 'echo "hello"'), given


async def test_streams_end_when_the_server_does(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD)
        session = await begun(gateway, key)
        url = f"{gateway.url}/chat/sessions/{session}/events"
        async with gateway.session.get(url, headers={"X-API-Key": key}) as response:
            await _read_until(response, "turn")
            gateway.server.close_streams()
            rest = blocks(await asyncio.wait_for(response.read(), 30))
    assert [(block.kind, block.data) for block in rest] == [("end", {"reason": "shutdown"})]


async def test_a_turn_goes_on_when_its_caller_leaves(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_model(sqlite_target, tmp_path) as (gateway, model):
        key, gate = await gateway.key(*HELD), asyncio.Event()
        model.reply(spoken("Patience.", gate=gate))
        url, headers = gateway.url + "/chat/", {"X-API-Key": key, **STREAM}
        async with gateway.session.post(url, json={"message": "hi"}, headers=headers) as response:
            session = (await _read_until(response, "session"))[0].data["session_id"]
            await model.arrived()
        gate.set()
        done = await settled(gateway, key, session)
        assert done["entries"][-1]["text"] == "Patience."


async def test_who_will_not_wait_is_told_where_to_look(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_model(sqlite_target, tmp_path) as (gateway, model):
        key = await gateway.key(*HELD)
        for prefer in ("respond-async", "wait=0", "handling=lenient, Wait=0"):
            gate = asyncio.Event()
            model.reply(spoken("Later.", gate=gate))
            early = (await say(gateway, "hi", key=key, headers={"Prefer": prefer})).expect(202)
            assert (early["status"], early["message"], early["tool_calls"]) == ("running", "", [])
            gate.set()
            done = await settled(gateway, key, early["session_id"])
            assert done["entries"][-1]["turn_id"] == early["turn_id"] and done["entries"][-1]["text"] == "Later."


# A model that does not answer.


async def test_a_model_that_is_down_is_a_503_and_the_session_stands(target: Target, tmp_path: Path) -> None:
    async with with_model(target, tmp_path) as (gateway, model):
        key = await gateway.key(*HELD)
        model.reply(fail(500))
        answer = await say(gateway, "hi", key=key)
        problem = answer.expect(503)
        assert problem["type"] == "urn:relay:problem:model-unavailable" and "Retry-After" in answer.headers
        assert problem["turn_id"].startswith("trn_")
        model.reply(spoken("Here I am."))
        again = (await say(gateway, "hi again", key=key, session=problem["session_id"])).expect(200)
        assert again["message"] == "Here I am."
        model.reply(fail(500))
        streamed = await say(gateway, "hi", key=key, session=problem["session_id"], headers=STREAM)
        last = blocks(streamed.body)[-1]
        assert (streamed.status, last.kind, last.data["status"]) == (200, "turn", "failed")
        assert last.data["error"]["code"] == "model-unavailable"


async def test_when_to_ask_a_busy_model_again_is_what_the_model_says(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_model(sqlite_target, tmp_path) as (gateway, model):
        key = await gateway.key(*HELD)
        model.reply(fail(429, retry_after="77"))
        answer = await say(gateway, "hi", key=key)
        problem = answer.expect(503)
        # The seconds that have gone by since count; nothing else is 60 seconds or more.
        assert 60 <= problem["retry_after"] <= 77 and answer.headers["Retry-After"] == str(problem["retry_after"])
        model.reply(fail(429, retry_after="55"))
        streamed = await say(gateway, "hi", key=key, session=problem["session_id"], headers=STREAM)
        error = blocks(streamed.body)[-1].data["error"]
        assert error["code"] == "model-unavailable" and 1 <= error["retry_after"] <= 55


@pytest.mark.parametrize(
    ("budget", "setting"), [("session", "CHAT_SESSION_BUDGET_USD"), ("day", "AI_DAILY_BUDGET_USD")]
)
async def test_a_budget_that_is_used_up_is_a_429_that_says_which(
    sqlite_target: Target, tmp_path: Path, budget: str, setting: str
) -> None:
    async with with_model(sqlite_target, tmp_path, AI_PRICES=PRICES, **{setting: "0.0001"}) as (gateway, model):
        answer = await say(gateway, "hi", key=await gateway.key(*HELD))
        problem = answer.expect(429)
        assert problem["type"] == "urn:relay:problem:spending-exhausted"
        assert problem["budget"] == budget and len(problem["session_id"]) == 43
        assert 1 <= int(answer.headers["Retry-After"]) <= 86_400
        assert ("retry_after" in problem) == (budget == "day")
        assert model.asked == []


async def test_what_a_turn_cost_is_in_the_answer(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_model(sqlite_target, tmp_path, AI_PRICES=PRICES) as (gateway, model):
        key = await gateway.key(*HELD)
        model.reply(spoken("One.", usage=(1000, 100)), spoken("Two.", usage=(2000, 100)))
        first = (await say(gateway, "hi", key=key)).expect(200)
        second = (await say(gateway, "hi", key=key, session=first["session_id"])).expect(200)
        usage = first["usage"]
        assert (usage["input_tokens"], usage["output_tokens"], usage["estimated"]) == (1000, 100, False)
        assert usage["cost_usd"] == usage["session_cost_usd"] == pytest.approx(0.002)
        assert second["usage"]["cost_usd"] == pytest.approx(0.003)
        assert second["usage"]["session_cost_usd"] == pytest.approx(0.005)
        [item] = (await gateway.get("/chat/sessions", key=key)).expect(200)["items"]
        assert item["cost_usd"] == pytest.approx(0.005)


# Pictures.


async def test_pictures_reach_the_model_as_they_are(sqlite_target: Target, tmp_path: Path) -> None:
    async with with_model(sqlite_target, tmp_path) as (gateway, model):
        key = await gateway.key(*HELD)
        sent = [png(), jpeg(), gif(), webp(), large_png(MAX_BYTES)]
        model.reply(spoken("Five."))
        turn = (await say(gateway, "count", key=key, attachments=[attached(data) for data in sent])).expect(200)
        assert [data for _, data in model.asked[0].images] == sent
        kinds = [kind for kind, _ in model.asked[0].images]
        assert kinds == ["image/png", "image/jpeg", "image/gif", "image/webp", "image/png"]
        assert turn["untrusted"] is True and turn["notices"], "a picture is content from outside"


REFUSED: dict[str, tuple[Any, str]] = {
    "a page": (attached(b"<!doctype html><script>alert(1)</script>", media_type="image/png"), "/attachments/1/data"),
    "a drawing with script": (attached(b"<svg onload='alert(1)'/>"), "/attachments/1/data"),
    "a picture and a page": (attached(png() + b"<script>alert(1)</script>"), "/attachments/1/data"),
    "a picture and an archive": (attached(jpeg() + b"PK\x05\x06" + bytes(18)), "/attachments/1/data"),
    "said to be another kind": (attached(png(), media_type="image/gif"), "/attachments/1/media_type"),
    "one byte too many": (attached(large_png(MAX_BYTES + 1)), "/attachments/1/data"),
    "too wide": (attached(png(10_001, 1)), "/attachments/1/data"),
    "a place on the web": ({"url": "https://example.com/a.png"}, "/attachments/1/data"),
    "not even an object": ("data:image/png;base64,AAAA", "/attachments/1"),
}


async def test_what_is_no_picture_is_refused_with_its_place(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD)
        for about, (wrong, pointer) in REFUSED.items():
            problem = (await say(gateway, "look", key=key, attachments=[attached(png()), wrong])).expect(422)
            assert pointer in [error["pointer"] for error in problem["errors"]], f"{about}: {problem['errors']}"
            assert "alert" not in json.dumps(problem)
        many = (await say(gateway, "look", key=key, attachments=[attached(png())] * 6)).expect(422)
        assert [error["pointer"] for error in many["errors"]] == ["/attachments"]
        assert (await gateway.get("/chat/sessions", key=key)).expect(200)["items"] == []


async def test_the_largest_message_fits_and_holds_nobody_up(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the largest messages fit into the room at once; whatever comes meanwhile is answered meanwhile."""
    looked_at: list[int] = []

    def looking(data: bytes) -> str:
        looked_at.append(threading.get_ident())
        return kind_of(data)

    monkeypatch.setattr(attachments, "kind_of", looking)
    text = json.dumps("é" * MAX_MESSAGE)
    picture = base64.b64encode(large_png(MAX_BYTES)).decode()
    parts = ",".join([f'{{"data":"{picture}","name":"{"n" * 255}","media_type":"image/png"}}'] * 5)
    body = f'{{"message":{text},"attachments":[{parts}]}}'.encode()
    assert 34_000_000 < len(body) < BODY_LIMIT <= BODY_ROOM // 2
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD)
        large = [asyncio.create_task(gateway.call("POST", "/chat/", data=body, key=key)) for _ in range(3)]
        answered = 0
        while not all(task.done() for task in large):
            (await gateway.get("/version")).expect(200)
            answered += 1
            await asyncio.sleep(0.01)
        for task in large:
            (await task).expect(200)
        assert answered > 3
        assert len(looked_at) == 15 and threading.get_ident() not in looked_at, "the loop itself read them"
        over = await gateway.call("POST", "/chat/", data=body.ljust(BODY_LIMIT + 1), key=key)
        assert over.expect(413)["limit_bytes"] == BODY_LIMIT


# Words.


WORDLESS: list[tuple[Any, str]] = [
    ("", "at least 1"),
    ("\ufeff", "Say it"),
    ("a\0b", "U+0000"),
    ("open \u202etxt.exe", "U+202E"),
    ("hidden \U000e0041", "U+E0041"),
    ("x" * (MAX_MESSAGE + 1), "at most 16384"),
    (5, "valid string"),
    (None, "valid string"),
]


async def test_a_message_that_is_none_is_refused_with_its_place(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        for message, told in WORDLESS:
            answer: Answer = await gateway.post("/chat/", {"message": message}, key=gateway.admin)
            problem = answer.expect(422)
            assert [error["pointer"] for error in problem["errors"]] == ["/message"]
            assert told in problem["errors"][0]["message"]


# Drafts.


async def test_a_draft_is_edited_and_the_old_digest_approves_nothing(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD)
        session, draft = await held(gateway, key)
        path = f"/chat/sessions/{session}/calls/{draft['id']}"
        params = {"to": ["bob@example.com"], "subject": "Tea", "text": "At five?"}
        wrong = (await gateway.post(f"{path}/edit", {"params": {**params, "to": ["nobody"]}}, key=key)).expect(422)
        assert wrong["errors"][0]["pointer"].startswith("/params/to")
        odd = (await gateway.post(f"{path}/edit", {"params": {**params, "text": "a\u202eb"}}, key=key)).expect(422)
        assert odd["errors"][0]["pointer"] == "/params/text"
        edited = (await gateway.post(f"{path}/edit", {"params": params}, key=key)).expect(200)
        assert edited["status"] == "pending_approval" and edited["digest"] != draft["digest"]
        assert {origin["source"] for origins in edited["origins"].values() for origin in origins} == {"user"}
        stale = (await gateway.post(f"{path}/approve", {"digest": draft["digest"]}, key=gateway.admin)).expect(409)
        assert stale["type"] == "urn:relay:problem:digest-mismatch"
        own = (await gateway.post(f"{path}/approve", {"digest": edited["digest"]}, key=gateway.admin)).expect(200)
        assert own["approval_status"] == "approved"
        done = await settled(gateway, key, session)
        assert "bob@example.com" in done["entries"][-1]["text"]
        (await gateway.post(f"{path}/approve", {"digest": edited["digest"]}, key=gateway.admin)).expect(409)
        (await gateway.post(f"{path}/edit", {"params": params}, key=key)).expect(409)
        (await gateway.post(f"{path}/cancel", key=key)).expect(409)


async def test_whoever_asks_cannot_agree(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD, "approvals:decide")
        session, draft = await held(gateway, key)
        answer = await gateway.post(
            f"/chat/sessions/{session}/calls/{draft['id']}/approve", {"digest": draft["digest"]}, key=key
        )
        assert answer.expect(403)["type"] == "urn:relay:problem:not-approver"
