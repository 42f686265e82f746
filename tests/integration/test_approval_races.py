"""Decisions that meet: whoever comes first decides, everybody else is told so, and nothing is ever done twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.core.clock import now
from relay.store.tables.approvals import approvals
from relay.store.target import Target
from tests.approvals_kit import PATIENCE, Office, open_office
from tests.gateway import Answer
from tests.integration.test_actions import alter

RUN = {"steps": [{"action": "deed.wipe", "params": {"what": "of a run"}}]}


@pytest.fixture
async def office(target: Target, tmp_path: Path) -> AsyncIterator[Office]:
    async with open_office(target, tmp_path / "data") as running:
        yield running


async def job(office: Office, run_id: str, *statuses: str) -> dict[str, Any]:
    """Return a run once it has one of these statuses."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found: dict[str, Any] = (await office.gateway.get(f"/ai/jobs/{run_id}", key=office.owner)).expect(200)
            if found["status"] in statuses:
                return found
            await asyncio.sleep(0.02)


async def started(office: Office) -> tuple[str, dict[str, Any]]:
    """Start a run whose only step waits for approval; return its id and the request."""
    run_id = (await office.gateway.post("/ai/execute", RUN, key=office.agent)).expect(202)["run_id"]
    waiting = await job(office, run_id, "pending_approval")
    [step] = waiting["steps"]
    assert step["status"] == "pending_approval" and step["approval_id"]
    return run_id, await office.request(step["approval_id"])


async def test_sixteen_decisions_at_once_are_one(office: Office) -> None:
    keys = [(await office.key("approvals:decide"))[0] for _ in range(16)]
    for number in range(4):
        request = await office.requested(str(number))
        how = ["approve", "deny"] * 8 if number % 2 else ["deny", "approve"] * 8
        answers = await asyncio.gather(
            *(office.decide(request, what, key=key) for what, key in zip(how, keys, strict=True))
        )
        assert sorted(answer.status for answer in answers) == [200] + [409] * 15
        [decision] = (await office.request(request["approval_id"]))["decisions"]
        ended = await office.ended(request["attempt_id"])
        expected = "succeeded" if decision["decision"] == "approve" else "denied"
        assert ended["status"] == expected
        assert office.deeds.done.count(str(number)) == (expected == "succeeded")
        decided = {"approvals:request:approved", "approvals:request:denied"}
        tags = [event["tag"] for event in await office.gateway.events(target=request["approval_id"])]
        assert len([tag for tag in tags if tag in decided]) == 1


async def test_approval_against_everything_else(office: Office) -> None:
    """In every mix there is one end, it is the one that the winner was told, and the deed follows it."""
    owner = office.owner

    async def withdraw(request: dict[str, Any]) -> Answer:
        return await office.gateway.post(f"/approvals/{request['approval_id']}/withdraw", key=office.agent)

    async def lapse(request: dict[str, Any]) -> None:
        statement = approvals.update().where(approvals.c.id == request["approval_id"]).values(expires_at=now())
        await alter(office.gateway, statement)

    async def kill(request: dict[str, Any]) -> Answer:
        body = {"on": True, "scope": {"action": "deed.wipe"}, "reason": "a test"}
        return await office.gateway.post("/kill-switch", body, key=owner)

    for place, rival in enumerate((withdraw, lapse, kill)):
        for turn in range(3):
            what = f"{place}.{turn}"
            request = await office.requested(what)
            both = [office.decide(request), rival(request)]
            await asyncio.gather(*(both if turn % 2 else reversed(both)))
            ended = await office.ended(request["attempt_id"])
            status = (await office.request(request["approval_id"]))["status"]
            if status == "approved":
                # The kill switch may still come between the approval and the beginning.
                assert ended["status"] == "succeeded" or ended["error"]["code"] == "stopped", ended
            else:
                assert ended["status"] in ("cancelled", "expired"), ended
            assert office.deeds.done.count(what) == (ended["status"] == "succeeded")
            body = {"on": False, "scope": {"action": "deed.wipe"}, "reason": "a test"}
            await office.gateway.post("/kill-switch", body, key=owner)


async def test_the_kill_switch_cancels_what_waits_and_nothing_is_approved_under_it(office: Office) -> None:
    request = await office.requested()
    body = {"on": True, "scope": {"workspace": "default"}, "reason": "a test"}
    (await office.gateway.post("/kill-switch", body, key=office.owner)).expect(200)
    ended = await office.ended(request["attempt_id"])
    assert ended["status"] == "cancelled"
    assert (await office.request(request["approval_id"]))["status"] == "cancelled"
    (await office.decide(request)).expect(409)
    assert office.deeds.done == []


async def test_revocation_against_approval(office: Office) -> None:
    for turn in range(4):
        agent, agent_id = await office.key("actions:execute", kind="agent")
        request = await office.requested(str(turn), key=agent)
        both = [office.decide(request), office.gateway.call("DELETE", f"/keys/{agent_id}", key=office.owner)]
        await asyncio.gather(*(both if turn % 2 else reversed(both)))
        ended = await office.ended(request["attempt_id"])
        assert ended["status"] == "succeeded" or ended["error"]["code"] == "credential_revoked"
        assert office.deeds.done.count(str(turn)) == (ended["status"] == "succeeded")


async def test_a_run_waits_for_the_approval_of_its_step_and_goes_on(office: Office) -> None:
    run_id, request = await started(office)
    assert request["run_id"] == run_id and request["step_id"] == "s1"
    (await office.decide(request)).expect(200)
    ended = await job(office, run_id, "succeeded", "failed", "unknown")
    assert ended["status"] == "succeeded" and ended["steps"][0]["result"] == {"what": "of a run"}
    run_id, request = await started(office)
    (await office.decide(request, "deny")).expect(200)
    ended = await job(office, run_id, "succeeded", "failed", "unknown")
    assert ended["status"] == "failed" and ended["steps"][0]["error"]["code"] == "approval_denied"
    assert office.deeds.done == ["of a run"]


async def test_a_run_that_is_cancelled_takes_its_request_with_it(office: Office) -> None:
    run_id, request = await started(office)
    (await office.gateway.post(f"/ai/jobs/{run_id}/cancel", key=office.agent)).expect(200)
    assert (await job(office, run_id, "cancelled"))["steps"][0]["status"] == "cancelled"
    assert (await office.attempt(request["attempt_id"]))["status"] == "cancelled"
    assert (await office.request(request["approval_id"]))["status"] == "cancelled"
    (await office.decide(request)).expect(409)
    assert office.deeds.done == []


async def test_cancelling_a_run_against_approving_its_step(office: Office) -> None:
    for turn in range(4):
        before = len(office.deeds.done)
        run_id, request = await started(office)
        both = [office.decide(request), office.gateway.post(f"/ai/jobs/{run_id}/cancel", key=office.agent)]
        await asyncio.gather(*(both if turn % 2 else reversed(both)))
        ended = await job(office, run_id, "succeeded", "failed", "cancelled", "unknown")
        attempt = await office.ended(request["attempt_id"])
        assert attempt["status"] in ("succeeded", "cancelled")
        assert len(office.deeds.done) - before == (attempt["status"] == "succeeded")
        if attempt["status"] == "cancelled":
            assert ended["status"] in ("cancelled", "failed")


async def test_a_shutdown_leaves_what_waits_and_what_was_approved(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data") as office:
        owner, ada = office.owner, office.ada
        waits, approved = await office.requested("waits"), await office.requested("approved")
        office.deeds.open.clear()
        # The last decision and the end of the process: the deed is begun here, or by whoever starts next.
        (await office.decide(approved)).expect(200)
        first = office.deeds
        first.open.set()
    async with open_office(target, tmp_path / "data", admin=owner) as office:
        ended = await office.ended(approved["attempt_id"])
        assert ended["status"] in ("succeeded", "unknown")
        assert len(first.done) + len(office.deeds.done) == 1
        assert (await office.request(waits["approval_id"]))["status"] == "pending"
        (await office.decide(waits, key=ada)).expect(200)
        assert (await office.ended(waits["attempt_id"]))["status"] == "succeeded"
        assert office.deeds.done[-1] == "waits"
