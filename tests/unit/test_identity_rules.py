import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.clock import DAY
from relay.core.principal import BUNDLES, SCOPES, Principal
from relay.core.problem import Conflict, Denied, InsufficientScope, Invalid, NotFound
from relay.identity import rules
from relay.identity.operator import operator
from relay.store.api_keys import ApiKeyRecord
from relay.store.workspaces import is_workspace_id


def principal(*scopes, kind="agent", workspace="w", id="key_me", made_by=()):
    return Principal(id, kind, workspace, frozenset(scopes), id, made_by, "api_key")


def record(*scopes, kind="agent", id="key_old", made_by=("operator",), **more):
    return ApiKeyRecord(id, "w", kind, "", "relay_sk_test_", "abcd", scopes, made_by, 0, 10 * DAY, **more)


def pointer(raised) -> str:
    return raised.value.extensions["errors"][0]["pointer"]


def test_scopes_must_be_named_and_the_refusal_says_which_exist():
    with pytest.raises(Invalid) as raised:
        rules.checked_scopes([])
    assert pointer(raised) == "/scopes"
    assert all(name in raised.value.detail for name in (*SCOPES, *BUNDLES))


def test_an_unknown_scope_is_pointed_at_and_not_echoed():
    with pytest.raises(Invalid) as raised:
        rules.checked_scopes(["docs", "sudo"])
    assert pointer(raised) == "/scopes/1"
    assert "sudo" not in raised.value.detail


def test_bundles_and_scopes_mix():
    assert rules.checked_scopes(["auditor", "docs", "docs"]) == ("audit:read", "docs")


@given(st.frozensets(st.sampled_from(SCOPES)), st.frozensets(st.sampled_from(SCOPES), min_size=1))
def test_nobody_grants_a_scope_that_they_lack(held, asked):
    maker = principal(*held)
    if asked <= held:
        rules.require_may_make(maker, "w", "agent", asked)
        return
    with pytest.raises(InsufficientScope) as raised:
        rules.require_may_make(maker, "w", "agent", asked)
    assert raised.value.extensions["missing_scopes"] == sorted(asked - held)


@pytest.mark.parametrize("kind", ["agent", "service"])
def test_only_a_person_makes_a_person(kind):
    maker = principal("docs", kind=kind)
    rules.require_may_make(maker, "w", "agent", ["docs"])
    with pytest.raises(Denied):
        rules.require_may_make(maker, "w", "person", ["docs"])
    rules.require_may_make(principal("docs", kind="person"), "w", "person", ["docs"])


def test_no_key_is_made_in_another_workspace():
    with pytest.raises(NotFound):
        rules.require_may_make(principal(*SCOPES, kind="person"), "other", "agent", ["docs"])
    rules.require_may_make(operator(), "other", "person", SCOPES)


@pytest.mark.parametrize("id", ["a", "0", "a-b", "default", "x" * 63])
def test_workspace_ids(id):
    assert is_workspace_id(id)


@pytest.mark.parametrize("id", ["", "-a", "A", "a_b", "a.b", "a b", "x" * 64, "é", "a\n", "٣", "../a"])
def test_other_workspace_ids_are_refused_even_to_the_operator(id):
    assert not is_workspace_id(id)
    with pytest.raises(Invalid):
        rules.require_may_make(operator(), id, "agent", ["docs"])


@pytest.mark.parametrize("days", [0, -1, 366, 10**9])
def test_an_expiry_is_mandatory_and_bounded(days):
    with pytest.raises(Invalid):
        rules.checked_days(days)
    assert rules.checked_days(1) == 1 and rules.checked_days(365) == 365


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "\x1b[2J", "a\x00", "a\u202eb", "\ud800"])
def test_a_name_cannot_drive_a_terminal(name):
    with pytest.raises(Invalid):
        rules.checked_name(name)
    assert rules.checked_name("nightly [report] é") == "nightly [report] é"


def test_makers_are_remembered_nearest_last():
    grandchild = principal(id="key_2", made_by=("operator", "key_1"))
    assert rules.makers_of_new(grandchild) == ("operator", "key_1", "key_2")


def test_a_successor_remembers_its_predecessor_and_whoever_rotated_it():
    old = record(made_by=("operator", "key_1"))
    rotated_by_itself = rules.makers_of_successor(old, principal(id="key_old", made_by=("operator", "key_1")))
    assert rotated_by_itself == ("operator", "key_1", "key_old")
    by_another = rules.makers_of_successor(old, principal(id="key_9", made_by=("operator", "key_8")))
    assert by_another == ("operator", "key_1", "key_old", "key_8", "key_9")


def test_a_chain_of_makers_is_bounded():
    chain = tuple(f"key_{number}" for number in range(rules.MAX_MAKERS))
    with pytest.raises(Conflict):
        rules.makers_of_new(principal(id="key_last", made_by=chain))
    assert len(rules.makers_of_new(principal(id="key_last", made_by=chain[1:]))) == rules.MAX_MAKERS


def test_rotation_is_no_promotion():
    with pytest.raises(InsufficientScope):
        rules.require_may_rotate(principal("keys:manage"), record("keys:manage", "docs"), 0)
    with pytest.raises(Denied):
        rules.require_may_rotate(principal("docs"), record("docs", kind="person"), 0)
    rules.require_may_rotate(principal("docs"), record("docs"), 0)
    rules.require_may_rotate(operator(), record(*SCOPES, kind="person"), 0)


def test_an_agent_cannot_end_a_persons_key():
    with pytest.raises(Denied):
        rules.require_may_end(principal(*SCOPES), record("docs", kind="person"))
    rules.require_may_end(principal(kind="person"), record("docs", kind="person"))


@pytest.mark.parametrize(
    ("old", "moment"),
    [(record(successor_id="key_new"), 0), (record(revoked_at=1), 5), (record(), 10 * DAY)],
    ids=["rotated", "revoked", "expired"],
)
def test_what_has_ended_or_has_a_successor_is_not_rotated(old, moment):
    with pytest.raises(Conflict):
        rules.require_may_rotate(operator(), old, moment)
