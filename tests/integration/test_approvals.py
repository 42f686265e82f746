"""Approvals over HTTP: a step waits, persons decide about exactly that step, and it runs by itself, once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.gate.ask import Ask
from relay.store.tables import attempts
from relay.store.tables.approvals import approvals
from relay.store.target import Target
from tests.approvals_kit import PATIENCE, Office, open_office
from tests.integration.test_actions import alter


@pytest.fixture
async def office(target: Target, tmp_path: Path) -> AsyncIterator[Office]:
    async with open_office(target, tmp_path / "data") as running:
        yield running


async def test_an_approved_step_runs_by_itself_once(office: Office) -> None:
    answer = await office.ask("wipe one", params={"secret": "tell nobody"})
    waiting = answer.expect(202)
    assert waiting == {
        "attempt_id": waiting["attempt_id"],
        "status": "pending_approval",
        "action": "deed.wipe",
        "approval_id": waiting["approval_id"],
    }
    assert (await office.attempt(waiting["attempt_id"]))["status"] == "pending_approval"
    page = (await office.gateway.get("/approvals", key=office.ada)).expect(200)
    [item] = page["items"]
    assert item["approval_id"] == waiting["approval_id"] and item["attempt_id"] == waiting["attempt_id"]
    assert item["params"] == {"what": "wipe one", "secret": "***"} and item["summary"] == "Do wipe one"
    assert item["status"] == "pending" and item["approvers"] == 1 and item["approvals"] == 0
    assert item["warnings"] == ["It cannot be undone."] and item["rendering"] == {"deed": "wipe one"}
    assert office.deeds.done == []
    done = (await office.decide(item, comment="go on")).expect(200)
    assert done["approval_status"] == "approved" and done["attempt_id"] == waiting["attempt_id"]
    assert done["status"] in ("running", "succeeded") and done["digest"] == item["digest"]
    ended = await office.ended(waiting["attempt_id"])
    assert ended["status"] == "succeeded" and ended["result"] == {"what": "wipe one"}
    assert ended["approval_id"] == waiting["approval_id"] and ended["tries"] == 1
    assert office.deeds.done == ["wipe one"]
    [permit] = office.deeds.permits
    assert permit.approval_id == waiting["approval_id"] and permit.step.digest == item["digest"]
    tags = [event["tag"] for event in await office.gateway.events() if event["digest"] == item["digest"]]
    assert tags == ["approvals:request:made", "approvals:request:approved", "gate:action:intent", "gate:action:outcome"]
    [decision] = (await office.request(item["approval_id"]))["decisions"]
    assert decision["decision"] == "approve" and decision["comment"] == "go on"


@pytest.mark.parametrize(
    "char", ["\u202e", "\u2066", "\u200b", "\u2028", "\u2029", "\ufeff", "\x85", "\n", "\x1b", "\0"]
)
async def test_a_comment_shows_itself_as_it_is(office: Office, char: str) -> None:
    request = await office.requested()
    for how in ("approve", "deny"):
        problem = (await office.decide(request, how, comment=f"by all{char}means")).expect(422)
        assert [error["pointer"] for error in problem["errors"]] == ["/comment"] and char not in str(problem)
    assert (await office.request(request["approval_id"]))["status"] == "pending"
    (await office.decide(request, comment="schön – прекрасно 👍")).expect(200)


async def test_an_approval_is_used_once(office: Office) -> None:
    request = await office.requested()
    (await office.decide(request)).expect(200)
    await office.ended(request["attempt_id"])
    for how in ("approve", "deny"):
        problem = (await office.decide(request, how, key=office.bob)).expect(409)
        assert problem["type"].endswith(":already-decided") and problem["approval_status"] == "approved"
    again = await office.requested()
    assert again["digest"] != request["digest"] and again["attempt_id"] != request["attempt_id"]
    assert office.deeds.done == ["it"]


async def test_another_digest_changes_nothing(office: Office) -> None:
    request, other = await office.requested("one"), await office.requested("other")
    digest: str = request["digest"]
    flipped = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    for wrong in (flipped, digest.upper(), digest[:-1], digest + "0", other["digest"], "", "é" * 64, "0" * 64):
        for how in ("approve", "deny"):
            problem = (await office.decide(request, how, digest=wrong)).expect(409)
            assert problem["type"].endswith(":digest-mismatch"), wrong
    assert (await office.request(request["approval_id"])) == request
    assert office.deeds.done == []


async def test_one_denial_ends_it(office: Office) -> None:
    request = await office.requested()
    done = (await office.decide(request, "deny", comment="not on a Friday")).expect(200)
    assert done["status"] == "denied" and done["approval_status"] == "denied"
    assert done["error"]["code"] == "approval_denied"
    seen = await office.attempt(request["attempt_id"], key=office.agent)
    [decision] = (await office.request(request["approval_id"]))["decisions"]
    assert seen["status"] == "denied" and decision["approver"] in seen["error"]["detail"]
    assert seen["comments"] == {decision["approver"]: "not on a Friday"}
    colleague, _ = await office.key("actions:preview")
    assert "Friday" not in str(await office.attempt(request["attempt_id"], key=colleague))
    assert (await office.attempt(request["attempt_id"], key=colleague))["comments"] is None
    (await office.decide(request, key=office.bob)).expect(409)
    assert office.deeds.done == []


async def test_an_approval_expires(office: Office) -> None:
    request, other = await office.requested("late"), await office.requested("in time")
    await alter(office.gateway, approvals.update().where(approvals.c.id == request["approval_id"]).values(expires_at=1))
    ended = await office.ended(request["attempt_id"])
    assert ended["status"] == "expired" and ended["error"]["code"] == "approval_expired"
    problem = (await office.decide(request)).expect(409)
    assert problem["approval_status"] == "expired"
    (await office.decide(other)).expect(200)
    await office.ended(other["attempt_id"])
    assert office.deeds.done == ["in time"]


async def test_a_request_that_lapsed_is_ended_by_whoever_decides(office: Office) -> None:
    for how, key in (("approve", office.ada), ("deny", office.ada), ("withdraw", office.agent)):
        request = await office.requested(how)
        statement = approvals.update().where(approvals.c.id == request["approval_id"]).values(expires_at=1)
        await alter(office.gateway, statement)
        path, body = f"/approvals/{request['approval_id']}/{how}", {"digest": request["digest"]}
        answer = await office.gateway.post(path, None if how == "withdraw" else body, key=key)
        assert answer.expect(409)["approval_status"] == "expired"
        assert (await office.attempt(request["attempt_id"]))["status"] == "expired"
    assert office.deeds.done == []


async def test_a_request_is_withdrawn_by_its_maker_or_an_administrator(office: Office) -> None:
    other, _ = await office.key("actions:execute", kind="agent")
    for key in (office.agent, office.owner):
        request = await office.requested()
        path = f"/approvals/{request['approval_id']}/withdraw"
        (await office.gateway.post(path, key=other)).expect(403)
        done = (await office.gateway.post(path, key=key)).expect(200)
        assert done["status"] == "cancelled" and done["approval_status"] == "withdrawn"
        assert done["error"]["code"] == "withdrawn"
        (await office.gateway.post(path, key=key)).expect(409)
        (await office.decide(request)).expect(409)
    agent, _ = await office.key("actions:execute", "workspace:admin", kind="agent")
    request = await office.requested()
    (await office.gateway.post(f"/approvals/{request['approval_id']}/withdraw", key=agent)).expect(403)
    assert office.deeds.done == []


async def test_twins_share_the_request_and_then_the_outcome(office: Office) -> None:
    headers = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*(office.ask("it", headers=headers) for _ in range(6)))
    assert len({str(answer.expect(202)) for answer in answers}) == 1
    found = answers[0].json
    request = await office.request(found["approval_id"])
    (await office.decide(request)).expect(200)
    await office.ended(found["attempt_id"])
    done = (await office.ask("it", headers=headers)).expect(200)
    assert done["attempt_id"] == found["attempt_id"] and done["result"] == {"what": "it"}
    (await office.ask("another", headers=headers)).expect(409)
    assert office.deeds.done == ["it"]


async def test_a_twin_of_a_denied_request_is_told_so(office: Office) -> None:
    headers = {"Idempotency-Key": "once"}
    request = await office.requested(headers=headers)
    (await office.decide(request, "deny")).expect(200)
    problem = (await office.ask("it", headers=headers)).expect(403)
    assert problem["attempt_id"] == request["attempt_id"] and problem["code"] == "approval_denied"


async def test_a_preview_that_needs_approval_is_used_up_by_the_request(office: Office) -> None:
    wish = {"action": "deed.wipe", "params": {"what": "shown"}}
    preview = (await office.gateway.post("/actions/preview", wish, key=office.agent)).expect(200)
    assert preview["decision"] == "require_approval"
    body = {"preview_id": preview["preview_id"]}
    found = (await office.gateway.post("/actions/execute", body, key=office.agent)).expect(202)
    request = await office.request(found["approval_id"])
    assert request["digest"] == preview["digest"]
    (await office.gateway.post("/actions/execute", body, key=office.agent)).expect(410)
    (await office.decide(request)).expect(200)
    assert (await office.ended(found["attempt_id"]))["status"] == "succeeded"
    assert office.deeds.done == ["shown"]


async def test_the_list_shows_what_is_pending_first_and_pages_through_all(office: Office) -> None:
    made = [await office.requested(str(number)) for number in range(5)]
    (await office.decide(made[0], "deny")).expect(200)
    (await office.decide(made[2], "deny")).expect(200)
    seen: list[dict[str, Any]] = []
    path = "/approvals?limit=2"
    while path:
        page = (await office.gateway.get(path, key=office.ada)).expect(200)
        seen += page["items"]
        path = f"/approvals?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert [item["summary"] for item in seen] == ["Do 1", "Do 3", "Do 4", "Do 2", "Do 0"]
    pending = (await office.gateway.get("/approvals?status=pending", key=office.ada)).expect(200)
    denied = (await office.gateway.get("/approvals?status=denied", key=office.ada)).expect(200)
    assert [item["summary"] for item in pending["items"]] == ["Do 1", "Do 3", "Do 4"]
    assert [item["summary"] for item in denied["items"]] == ["Do 2", "Do 0"]
    stranger = await office.gateway.key("approvals:decide", kind="person", workspace="other")
    assert (await office.gateway.get("/approvals", key=stranger)).expect(200)["items"] == []
    for bad in ("x", "p.", "z.1", "p.%00"):
        (await office.gateway.get(f"/approvals?cursor={bad}", key=office.ada)).expect(400)


async def test_only_so_many_requests_wait(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data", APPROVALS_PER_KEY="2", APPROVALS_PER_WORKSPACE="3") as office:
        request = await office.requested()
        await office.requested()
        problem = await office.ask("third")
        assert problem.expect(429)["type"].endswith(":too-many-waiting") and "Retry-After" in problem.headers
        (await office.ask("of another", key=office.owner)).expect(202)
        (await office.ask("of another", key=office.owner)).expect(429)
        (await office.decide(request, "deny")).expect(200)
        (await office.ask("again")).expect(202)
        assert len((await office.gateway.get("/approvals?status=pending", key=office.ada)).expect(200)["items"]) == 3


async def test_a_refused_effect_of_an_approved_step_is_a_failure(office: Office) -> None:
    request = await office.requested(action="deed.refuse")
    (await office.decide(request)).expect(200)
    ended = await office.ended(request["attempt_id"])
    assert ended["status"] == "failed" and ended["error"]["code"] == "upstream_status_500"


async def test_an_approved_step_is_tried_again_where_nothing_was_sent(office: Office) -> None:
    """One approval serves the tries of one attempt, and no more of them than the asker allows."""
    performer, house = office.gateway.server.performer, office.gateway.house
    agent = (await office.gateway.get("/keys", key=office.owner)).expect(200)["items"]
    [agent_id] = [item["id"] for item in agent if item["kind"] == "agent"]
    principal = await house.api_keys.reload(agent_id)
    assert principal is not None
    for failures, expected in ((1, "succeeded"), (2, "failed")):
        office.deeds.unsent = failures
        ask = Ask("req_00000009", "", action="deed.wipe", params={"what": expected}, tries_allowed=1)
        state = await performer.perform(principal, ask)
        assert state.status == "pending_approval" and state.approval_id is not None
        (await office.decide(await office.request(state.approval_id))).expect(200)
        async with asyncio.timeout(PATIENCE):
            while (await office.attempt(state.attempt_id))["tries"] < 2:
                await hurried(office, state.attempt_id)
        ended = await office.ended(state.attempt_id)
        assert (ended["status"], ended["tries"]) == (expected, 2)
    assert office.deeds.done == ["succeeded"]
    assert len(await office.gateway.events("gate:action:retried")) == 2


async def hurried(office: Office, attempt_id: str) -> None:
    """Have an attempt that waits to be tried again do so now."""
    waits = (attempts.c.id == attempt_id, attempts.c.status == "ready")
    await alter(office.gateway, attempts.update().where(*waits).values(not_before=1))
    await asyncio.sleep(0.05)
