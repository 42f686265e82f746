"""The stages on facts alone: whom they count, what they note on the request, what they count as anonymous failures."""

import pytest

from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.core.limit import Limit, Quota
from relay.core.principal import Principal
from relay.core.problem import QuotaExceeded, TooManyRunning, Unauthenticated
from relay.limits.headers import quota_headers, wait_of
from relay.limits.memory import MemoryCounters
from tests.limits_kit import Clock, Failures, request_limits, rule

ANY = Access("public", frozenset(), (), "api:test:read")
PLAN = Access("public", frozenset(), ("plan", "chat"), "api:test:read")


def facts(client: str = "192.0.2.1") -> RequestFacts:
    return RequestFacts("req_1", client, "GET", [], "/things")


def person(workspace: str, name: str = "key_1") -> Principal:
    return Principal(name, "person", workspace, frozenset(), name, (), "api_key")


async def _counts(stages, client: str) -> bool:
    try:
        await stages.address(ANY, facts(client))
    except QuotaExceeded:
        return False
    return True


async def test_ipv6_counts_by_64_and_more_loosely_by_48() -> None:
    failures = Failures()
    stages = request_limits(
        MemoryCounters(clock=Clock()),
        failures,
        rule(2, 60, "global", "address"),
        rule(5, 60, "global_network", "network"),
    )
    assert [await _counts(stages, f"2001:db8:0:1::{host}") for host in range(3)] == [True, True, False]
    assert [await _counts(stages, f"2001:db8:0:{net}::1") for net in (2, 3, 4, 5)] == [True, True, True, False]
    assert await _counts(stages, "2001:db8:9::1") and await _counts(stages, "192.0.2.1")
    assert failures.counted == [
        ("rate_limited", "/things", "2001:db8:0:1::2"),
        ("rate_limited", "/things", "2001:db8:0:5::1"),
    ]


async def test_a_route_is_counted_under_every_rule_that_it_names() -> None:
    stages = request_limits(
        MemoryCounters(clock=Clock()), Failures(), rule(9, 60, "chat", "address"), rule(3, 60, "plan", "workspace")
    )
    request = facts()
    await stages.address(PLAN, request)
    assert [quota.policy for quota in request.quotas] == ["global-ip", "chat-ip"]
    await stages.caller(PLAN, request, person("a"))
    assert [(quota.policy, quota.remaining) for quota in request.quotas[1:]] == [("chat-ip", 8), ("plan-ws", 2)]


async def test_a_workspace_is_one_whoever_of_it_calls() -> None:
    stages = request_limits(MemoryCounters(clock=Clock()), Failures(), rule(2, 60, "plan", "workspace"))
    for name in ("key_1", "key_2"):
        await stages.caller(PLAN, facts(), person("a", name))
    with pytest.raises(QuotaExceeded):
        await stages.caller(PLAN, facts(), person("a", "key_3"))
    await stages.caller(PLAN, facts(), person("b"))


async def test_a_rule_per_principal_counts_each_by_itself() -> None:
    stages = request_limits(MemoryCounters(clock=Clock()), Failures(), rule(1, 60, "plan", "principal"))
    await stages.caller(PLAN, facts(), person("a", "key_1"))
    await stages.caller(PLAN, facts(), person("a", "key_2"))
    with pytest.raises(QuotaExceeded, match="plan-key"):
        await stages.caller(PLAN, facts(), person("a", "key_1"))


async def test_a_blocked_address_is_counted_and_a_missing_credential_is_not() -> None:
    failures = Failures()
    stages = request_limits(MemoryCounters(clock=Clock()), failures, rule(1, 300, "credentials", "address"))
    for _ in range(5):
        await stages.failed(facts(), Unauthenticated(reason="missing_token"))
    await stages.failed(facts(), Unauthenticated())
    with pytest.raises(QuotaExceeded):
        await stages.failed(facts(), Unauthenticated())
    assert failures.counted == [("rate_limited", "/things", "192.0.2.1")]


def quota(remaining: int, reset: float, wait: float = 0, name: str = "a", count: int = 10) -> Quota:
    return Quota(name, Limit(count, 60), remaining, round(reset * 1e6), round(wait * 1e6))


def test_headers_describe_every_policy_and_the_tightest_for_older_clients() -> None:
    found = dict(quota_headers([quota(3, 6.2, name="a"), quota(1, 50, name="b", count=20)]))
    assert found[b"ratelimit-policy"] == b'"a";q=10;w=60, "b";q=20;w=60'
    assert found[b"ratelimit"] == b'"a";r=3;t=7, "b";r=1;t=50'
    assert (found[b"x-ratelimit-limit"], found[b"x-ratelimit-remaining"]) == (b"20", b"1")


def test_of_two_that_are_used_up_the_longer_wait_is_the_tighter() -> None:
    found = dict(quota_headers([quota(0, 5, 5, "a", 10), quota(0, 9, 9, "b", 20), quota(0, 7, 7, "c", 30)]))
    assert found[b"x-ratelimit-limit"] == b"20"


def test_no_time_is_later_than_the_refusals() -> None:
    found = dict(quota_headers([quota(90, 50), quota(0, 5.5, 5.5)], 6))
    assert found[b"ratelimit"] == b'"a";r=90;t=6, "a";r=0;t=6'
    assert quota_headers([]) == [] and wait_of([]) == 0
    assert wait_of([quota(1, 30), quota(0, 5.000001, 5.000001)]) == 6


def test_a_refusal_can_only_be_put_off() -> None:
    problem = QuotaExceeded("The rate limit a is used up.", policies=["a-ws"], retry_after=5)
    problem.postpone(3)
    assert problem.headers["Retry-After"] == "5"
    problem.postpone(40)
    document = problem.document("/x", "req_1")
    assert (document["retry_after"], problem.headers["Retry-After"]) == (40, "40") and "in 40 s" in document["detail"]
    assert TooManyRunning("Many.", retry_after=0).headers["Retry-After"] == "1"
