"""Who may decide about what: kinds, scopes, chains of makers, workspaces, one's own; and who is one person."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.approvals.persons import agreement_of, is_one_person, lineage
from relay.core.principal import SCOPES
from relay.store.approvals import ApprovalRow, DecisionRow, chain
from relay.store.target import Target
from tests.approvals_kit import Office, open_office

TWO_PERSONS = """
@id("reads") permit (principal, action in Relay::Action::"effect:read", resource);
@id("two") permit (principal, action in Relay::Action::"effect:destructive", resource)
when { context.approvals >= 2 };
"""
ANOTHER_PERSON = """
@id("another") permit (principal, action in Relay::Action::"effect:destructive", resource)
when { context.approved && context.other_person };
"""


@pytest.fixture
async def office(target: Target, tmp_path: Path) -> AsyncIterator[Office]:
    async with open_office(target, tmp_path / "data") as running:
        yield running


async def rotated(office: Office, key_id: str, *, overlap: int = 1) -> tuple[str, str]:
    """Rotate a key as the owner and return its successor with its id."""
    made = await office.gateway.post(f"/keys/{key_id}/rotate", {"overlap_hours": overlap}, key=office.owner)
    found = made.expect(200)
    return found["key"], found["id"]


async def test_kinds_scopes_workspaces(office: Office) -> None:
    request = await office.requested()
    kinds = ("agent", "person")
    scopes = {"decides": ("approvals:decide",), "not": ("actions:execute", "actions:preview", "workspace:admin")}
    workspaces = ("default", "other")
    expected = {("person", "decides", "default"): 200}
    for kind, may, workspace in itertools.product(kinds, scopes, workspaces):
        key = await office.gateway.key(*scopes[may], kind=kind, workspace=workspace)
        wanted = expected.get((kind, may, workspace), 403 if workspace == "default" or may == "not" else 404)
        answer = await office.decide(request, "approve", key=key, digest="0" * 64 if wanted == 200 else "")
        # Whoever may decide is told about the digest; nobody else learns even that.
        assert answer.status == (409 if wanted == 200 else wanted), (kind, may, workspace)
    path, body = f"/approvals/{request['approval_id']}/approve", {"digest": request["digest"]}
    (await office.gateway.post(path, body)).expect(401)
    (await office.gateway.post(path, body, key=office.agent)).expect(403)
    assert office.deeds.done == []


async def test_nobody_decides_about_a_request_of_ones_own(office: Office) -> None:
    mine = await office.requested(key=office.owner)
    agents, _ = await office.key(kind="agent")
    made, made_id = await office.key(*SCOPES, maker=office.owner)
    grandchild, _ = await office.key(*SCOPES, maker=made)
    for how, key in itertools.product(("approve", "deny"), (office.owner, made, grandchild, agents)):
        problem = (await office.decide(mine, how, key=key)).expect(403)
        assert problem["type"].endswith(":not-approver")
    # A maker may decide about what it made asks: a lone owner approves what her agent asks.
    (await office.decide(await office.requested(), key=office.owner)).expect(200)
    # A key and those that followed it by rotation are one hand, whichever of them asks.
    theirs = await office.requested(key=made)
    successor, successor_id = await rotated(office, made_id)
    second, _ = await rotated(office, successor_id)
    for request, key in (
        (theirs, successor),
        (theirs, second),
        (await office.requested(key=successor), made),
        (await office.requested(key=second), made),
    ):
        (await office.decide(request, key=key)).expect(403)


async def test_what_a_key_made_before_it_was_rotated_does_not_decide_for_its_successor(office: Office) -> None:
    first, first_id = await office.key(*SCOPES, maker=office.owner)
    helper, _ = await office.key(*SCOPES, maker=first)
    remote, _ = await office.key(*SCOPES, maker=helper)
    second, second_id = await rotated(office, first_id)
    third, _ = await rotated(office, second_id)
    for asker, key in itertools.product((first, second, third), (helper, remote)):
        (await office.decide(await office.requested(key=asker), key=key)).expect(403)
    assert office.deeds.done == []
    # The other way round a maker decides, and so does whoever followed it.
    (await office.decide(await office.requested(key=helper), key=third)).expect(200)


async def test_two_persons_have_to_agree(office: Office) -> None:
    await office.policy(TWO_PERSONS)
    request = await office.requested()
    assert request["approvers"] == 2
    first = (await office.decide(request, comment="yes")).expect(200)
    assert (first["approval_status"], first["status"], first["approvals"]) == ("pending", "pending_approval", 1)
    again = (await office.decide(request)).expect(409)
    assert again["approval_status"] == "pending"
    assert office.deeds.done == []
    second = (await office.decide(request, key=office.bob)).expect(200)
    assert (second["approval_status"], second["approvals"]) == ("approved", 2)
    assert (await office.ended(request["attempt_id"]))["status"] == "succeeded"
    tags = [event["tag"] for event in await office.gateway.events(target=request["approval_id"])]
    assert tags == ["approvals:request:made", "approvals:request:agreed", "approvals:request:approved"]
    # One of them may still change their mind, and one denial is enough.
    request = await office.requested("another")
    (await office.decide(request)).expect(200)
    assert (await office.decide(request, "deny", comment="no")).expect(200)["status"] == "denied"
    [decision] = (await office.request(request["approval_id"]))["decisions"]
    assert (decision["decision"], decision["comment"]) == ("deny", "no")
    (await office.decide(request, key=office.bob)).expect(409)
    assert office.deeds.done == ["it"]


async def test_one_person_with_many_keys_is_one_person(office: Office) -> None:
    await office.policy(TWO_PERSONS)
    request = await office.requested()
    keeper, _ = await office.key("approvals:decide", "keys:manage")
    first, first_id = await office.key("approvals:decide", maker=keeper)
    second, _ = await office.key("approvals:decide", maker=keeper)
    successor, _ = await rotated(office, first_id)
    (await office.decide(request, key=first)).expect(200)
    for key in (keeper, second, successor, first):
        (await office.decide(request, key=key)).expect(409)
    (await office.decide(request, key=office.ada)).expect(200)
    await office.ended(request["attempt_id"])
    assert office.deeds.done == ["it"]


async def test_what_a_key_agreed_to_ends_with_the_key(office: Office) -> None:
    await office.policy(TWO_PERSONS)
    request = await office.requested()
    stolen, stolen_id = await office.key("approvals:decide")
    (await office.decide(request, key=stolen)).expect(200)
    (await office.gateway.call("DELETE", f"/keys/{stolen_id}", key=office.owner)).expect(200)
    one = (await office.decide(request)).expect(200)
    assert (one["approval_status"], one["approvals"]) == ("pending", 1)
    assert (await office.decide(request, key=office.bob)).expect(200)["approval_status"] == "approved"
    assert (await office.ended(request["attempt_id"]))["status"] == "succeeded"


async def test_policy_demands_another_person(office: Office) -> None:
    await office.policy(ANOTHER_PERSON)
    request = await office.requested()
    assert request["other_person"] is True
    helper, _ = await office.key("approvals:decide", maker=office.owner)
    own = (await office.decide(request, key=office.owner)).expect(200)
    assert own["approval_status"] == "pending"
    (await office.decide(request, key=helper)).expect(409)
    assert office.deeds.done == []
    assert (await office.decide(request)).expect(200)["approval_status"] == "approved"
    assert (await office.ended(request["attempt_id"]))["status"] == "succeeded"


async def test_policy_that_became_stricter_asks_for_more(office: Office) -> None:
    request = await office.requested()
    await office.policy(TWO_PERSONS)
    one = (await office.decide(request)).expect(200)
    assert (one["approval_status"], one["approvers"]) == ("pending", 2)
    assert (await office.request(request["approval_id"]))["approvers"] == 2
    (await office.decide(request, key=office.bob)).expect(200)
    assert (await office.ended(request["attempt_id"]))["status"] == "succeeded"


async def test_a_step_that_policy_has_forbidden_since_is_not_approved(office: Office) -> None:
    request = await office.requested()
    await office.policy('@id("nothing") forbid (principal, action, resource);')
    problem = (await office.decide(request)).expect(403)
    assert problem["type"].endswith(":denied")
    assert (await office.request(request["approval_id"]))["status"] == "pending"
    (await office.decide(request, "deny")).expect(200)
    assert office.deeds.done == []


async def test_a_request_of_a_dead_key_ends_when_somebody_approves_it(office: Office) -> None:
    agent, agent_id = await office.key("actions:execute", kind="agent")
    request = await office.requested(key=agent)
    (await office.gateway.call("DELETE", f"/keys/{agent_id}", key=office.owner)).expect(200)
    problem = (await office.decide(request)).expect(409)
    assert (problem["code"], problem["approval_status"]) == ("credential_revoked", "cancelled")
    ended = await office.attempt(request["attempt_id"])
    assert (ended["status"], ended["error"]["code"]) == ("denied", "credential_revoked")
    assert office.deeds.done == []


IDS = st.sampled_from([f"key_{letter}" for letter in "abcdef"])
CHAINS = st.lists(IDS, max_size=4, unique=True)


@given(IDS, CHAINS, IDS, CHAINS)
def test_one_person_is_a_matter_of_both_alike(one: str, ones: list[str], other: str, others: list[str]) -> None:
    left, right = lineage(one, ["operator", *ones]), lineage(other, ["operator", *others])
    assert is_one_person(left, right) == is_one_person(right, left)
    assert is_one_person(left, left)
    assert is_one_person(left, right) == bool({one, *ones} & {other, *others})


@given(st.lists(st.tuples(IDS, CHAINS), max_size=6, unique_by=lambda made: made[0]))
def test_persons_are_never_counted_twice(made: list[tuple[str, list[str]]]) -> None:
    request = ApprovalRow(
        "apr", "w", "att", "a", "d", "key_r", chain(["operator"]), "pending", 2, 0, "p", 1, "", None, 1, 2, None
    )
    decisions = [DecisionRow("apr", key, "w", chain(makers), "approve", "api_key", 1) for key, makers in made]
    found = agreement_of(request, decisions)
    hands = [lineage(key, makers) for key, makers in made]
    apart = [
        size
        for size in range(len(hands) + 1)
        for several in itertools.combinations(hands, size)
        if not any(is_one_person(one, other) for one, other in itertools.combinations(several, 2))
    ]
    assert min(1, len(made)) <= found.persons <= max(apart)
