"""Limits for tests: none where a test is about something else, a clock of one's own where it is about limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import relay.limits.link
from relay.core.limit import Limit
from relay.gate.limit import ActionLimits, RequestLimits
from relay.limits.counters import Counters
from relay.limits.limiter import Limiter
from relay.limits.memory import MemoryCounters
from relay.limits.rules import RULES, Rule
from relay.limits.state import LimitState
from relay.limits.subjects import subject

MOST = "1000000"
UNLIMITED = {rule.setting.upper(): MOST for rule in RULES}
"""Settings under which no test meets a limit unless it is about limits."""


@contextmanager
def patience() -> Iterator[None]:
    """Redis may take its time: for tests that are not about that, on a machine that has other things to do."""
    with mock.patch.multiple(relay.limits.link, TIMEOUT_SECONDS=10.0, PATIENCE_SECONDS=20.0):
        yield


class NoLimits:
    """Stages that let everybody pass, for tests of other parts."""

    async def address(self, *_: Any) -> None: ...
    async def caller(self, *_: Any) -> None: ...
    async def signer(self, *_: Any) -> None: ...
    async def failed(self, *_: Any) -> None: ...


class Failures:
    """Remembers the failures that were counted."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, str, str]] = []

    def count(self, *, reason: str, route: str, client: str) -> None:
        self.counted.append((reason, route, client))


class Clock:
    """Microseconds that stand still until they are moved."""

    def __init__(self, at: int = 1_000_000_000_000) -> None:
        self.at = at

    def __call__(self) -> int:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += round(seconds * 1_000_000)


def rule(count: int, seconds: int = 60, name: str = "test", per: Any = "workspace") -> Rule:
    return Rule(name, Limit(count, seconds), per, "rate_limit_actions", "", "")


def someone(name: str) -> bytes:
    return subject("workspace", name)


def action_limits(counters: Counters | None = None, *, observe: bool = False) -> ActionLimits:
    return ActionLimits(Limiter(counters or MemoryCounters(), LimitState(), observe=observe))


def request_limits(counters: Counters, failures: Failures, *rules: Rule, observe: bool = False) -> RequestLimits:
    """Return the stages with the given rules in place of those of the same name; the others allow a million."""
    most = {found.name: Rule(found.name, Limit(1_000_000, 60), found.per, found.setting, "", "") for found in RULES}
    return RequestLimits(
        {**most, **{given.name: given for given in rules}}, Limiter(counters, LimitState(), observe=observe), failures
    )
