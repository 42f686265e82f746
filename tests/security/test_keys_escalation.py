"""No way from a key to a stronger one: by scopes, by kind, by workspace, by rotation, by forgetting the maker."""

import pytest

from relay.core.principal import SCOPES
from relay.core.problem import Denied, InsufficientScope, Invalid, NotFound
from relay.identity.operator import operator
from tests.keyring import REQUEST, open_keyring

MANAGE = ("keys:manage", "docs")


@pytest.fixture
async def ring(target):
    async with open_keyring(target) as ring:
        yield ring


async def count(ring) -> int:
    return len((await ring.api_keys.list_everywhere()).items)


async def test_scopes_never_grow_along_a_chain_of_makers(ring):
    maker = await ring.principal(*MANAGE)
    for asked in (["admin"], ["developer"], ["docs", "audit:read"], ["workspace:admin"]):
        with pytest.raises(InsufficientScope):
            await ring.make(*asked, maker=maker)
    _, child_text = await ring.make("keys:manage", maker=maker)
    child = await ring.api_keys.authenticate(child_text)
    assert child is not None and child.made_by == ("operator", maker.id)
    with pytest.raises(InsufficientScope):
        await ring.make("docs", maker=child)
    assert await count(ring) == 2


async def test_a_key_without_scopes_is_not_made(ring):
    with pytest.raises(Invalid):
        await ring.api_keys.create(operator(), workspace="default", kind="agent", scopes=[], request_id=REQUEST)
    assert await count(ring) == 0


async def test_an_agent_does_not_become_a_person(ring):
    agent = await ring.principal(*SCOPES)
    person, person_text = await ring.make("docs", kind="person")
    with pytest.raises(Denied):
        await ring.make("docs", kind="person", maker=agent)
    with pytest.raises(Denied):
        await ring.api_keys.rotate(agent, person.id, request_id=REQUEST)
    with pytest.raises(Denied):
        await ring.api_keys.revoke(agent, person.id, request_id=REQUEST)
    assert await ring.api_keys.authenticate(person_text) is not None
    assert await count(ring) == 2


async def test_rotating_a_stronger_key_does_not_hand_it_over(ring):
    weak = await ring.principal(*MANAGE, kind="person")
    strong, strong_text = await ring.make(*SCOPES, kind="person")
    with pytest.raises(InsufficientScope):
        await ring.api_keys.rotate(weak, strong.id, request_id=REQUEST)
    assert await ring.api_keys.authenticate(strong_text) is not None
    assert await count(ring) == 2


async def test_whoever_rotates_a_key_stays_among_its_makers(ring):
    alice = await ring.principal(*SCOPES, kind="person")
    bob, _ = await ring.make("docs", "approvals:decide", kind="person")
    made = await ring.api_keys.rotate(alice, bob.id, request_id=REQUEST)
    successor = await ring.api_keys.authenticate(made.key_text)
    assert successor is not None and {bob.id, alice.id} <= set(successor.made_by)
    itself = await ring.api_keys.rotate(successor, successor.id, request_id=REQUEST)
    assert {bob.id, alice.id, successor.id} <= set(itself.record.made_by)


async def test_another_workspace_is_out_of_reach_and_out_of_sight(ring):
    stranger = await ring.principal(*SCOPES, workspace="other", kind="person")
    record, text = await ring.make("docs", workspace="default")
    with pytest.raises(NotFound):
        await ring.make("docs", workspace="default", maker=stranger)
    with pytest.raises(NotFound) as rotating:
        await ring.api_keys.rotate(stranger, record.id, request_id=REQUEST)
    with pytest.raises(NotFound) as revoking:
        await ring.api_keys.revoke(stranger, record.id, request_id=REQUEST)
    with pytest.raises(NotFound) as absent:
        await ring.api_keys.revoke(stranger, "key_" + "0" * 32, request_id=REQUEST)
    assert rotating.value.detail == revoking.value.detail == absent.value.detail
    assert [each.id for each in (await ring.api_keys.list("other")).items] == [stranger.id]
    assert await ring.api_keys.authenticate(text) is not None


async def test_a_name_cannot_make_a_workspace_that_is_none(ring):
    for name in ("../etc", "Default", "", "a" * 64):
        with pytest.raises(Invalid):
            await ring.make("docs", workspace=name)
    assert await count(ring) == 0
