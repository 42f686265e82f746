"""The table of limits: what it says is what settings default to, what routes may name and what the page shows."""

from pathlib import Path

import pytest
from starlette.responses import Response

from relay.catalog import CatalogError, Connector, Rendering
from relay.connectors import echo, email, http, webhook
from relay.core.access import Access
from relay.core.limit import Limit
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.limits.rules import RULES, action_rules, misnamed, rules_for
from relay.limits.subjects import address_subjects, subject
from relay.settings import SettingsError, load_settings
from relay.settings.model import FIELDS
from relay.surface.application import build_application
from relay.surface.declare import Call, Routes
from relay.surface.seal import Unsealed
from tests.limits_kit import Failures, NoLimits

HERE = Path("/nowhere")
# What the product's documents promise: name, count, seconds, per.
PROMISED = [
    ("global", 100, 60, "address"),
    ("global_network", 300, 60, "network"),
    ("plan", 10, 60, "workspace"),
    ("ai_execute", 20, 60, "workspace"),
    ("execute", 30, 60, "workspace"),
    ("webhooks", 600, 60, "workspace"),
    ("oauth", 5, 300, "address"),
    ("chat", 30, 60, "address"),
    ("leak_reports", 30, 60, "address"),
    ("children", 60, 60, "principal"),
    ("credentials", 20, 300, "address"),
]


def test_the_defaults_are_those_promised() -> None:
    assert [(rule.name, rule.limit.count, rule.limit.seconds, rule.per) for rule in RULES] == PROMISED


def test_the_settings_default_to_the_table() -> None:
    assert {rule.name: rule for rule in RULES} == rules_for(load_settings({}, HERE))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_has_a_setting_that_replaces_its_count_and_says_its_window(rule) -> None:
    name = rule.setting.upper()
    assert name.endswith({60: "_PER_MINUTE", 300: "_PER_5_MINUTES"}[rule.limit.seconds])
    loaded = rules_for(load_settings({name: "777"}, HERE))
    assert loaded[rule.name].limit == Limit(777, rule.limit.seconds)
    assert [found for found in loaded.values() if found not in RULES] == [loaded[rule.name]]
    for wrong in ("0", "1000001", "-1", "1.5", "many"):
        with pytest.raises(SettingsError, match=name):
            load_settings({name: wrong}, HERE)


def test_every_setting_of_a_limit_belongs_to_a_rule() -> None:
    others = {"RATE_LIMIT_MODE", "RATE_LIMIT_ACTIONS"}
    assert {name for name in FIELDS if name.startswith("RATE_LIMIT_")} - others == {
        rule.setting.upper() for rule in RULES
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("email.send=100/3600", (("email.send", 100, 3600),)),
        ("a.b=1/1, a.b=2/60", (("a.b", 1, 1), ("a.b", 2, 60))),
    ],
)
def test_limits_of_actions_are_read(text: str, value: object) -> None:
    assert load_settings({"RATE_LIMIT_ACTIONS": text}, HERE).rate_limit_actions == value


@pytest.mark.parametrize(
    "text", ["a.b", "a.b=1", "a.b=0/1", "a.b=1/0", "a.b=1000001/1", "a.b=1/86401", "a.b=1/1,", "=1/1"]
)
def test_other_limits_of_actions_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="RATE_LIMIT_ACTIONS"):
        load_settings({"RATE_LIMIT_ACTIONS": text}, HERE)


@pytest.mark.parametrize("text", ["a.b", "a.b=0", "a.b=10001", "a.b=1,a.b=2", "a.b=1/1"])
def test_other_places_of_actions_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="CONCURRENCY_ACTIONS"):
        load_settings({"CONCURRENCY_ACTIONS": text}, HERE)
    assert load_settings({"CONCURRENCY_ACTIONS": "a.b=2"}, HERE).concurrency_actions == (("a.b", 2),)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (("plan",), None),
        ((), None),
        (("unlimited",), None),
        (("plann",), "plann"),
        (("global",), "global"),
        (("credentials",), "credentials"),
        (("unlimited", "plan"), "beside"),
    ],
)
def test_a_route_that_names_what_is_no_rule_cannot_be_served(limits: tuple[str, ...], says: str | None) -> None:
    routes = Routes()

    @routes.get("/things", access=Access("public", frozenset(), limits, "api:test:read"))
    async def things(call: Call) -> Response: ...  # type: ignore[empty-body]

    def build() -> None:
        build_application(
            [routes], Gate(Authenticate(None, Failures()), NoLimits()).admit, body_limit=1, body_seconds=1
        )

    if says is None:
        assert misnamed(limits) is None
        build()
    else:
        with pytest.raises(Unsealed, match=says):
            build()


def test_slow_actions_have_places_and_the_echo_none() -> None:
    specs = {name: spec for kit in (echo, email, webhook, http) for name, spec in kit.connector.actions.items()}
    assert {name: spec.concurrency for name, spec in specs.items()} == {
        "relay.echo": None,
        "email.send": 16,
        "webhook.save": 16,
        "http.request": 16,
    }


def _declared(**more: object):
    connector = Connector("test", local=bool(more.pop("local", False)))
    kind = "read" if connector.local else "write"
    spec = echo.connector.actions["relay.echo"]

    @connector.action("test.do", effect=kind, render=lambda step, client: Rendering("Do.", {}), **more)
    async def do(permit, params: spec.params, client) -> spec.result:  # type: ignore[name-defined]
        """Do."""

    return connector.actions["test.do"]


def test_the_limits_of_an_action_are_rules_of_its_own() -> None:
    spec = _declared(limits=(Limit(2, 1), Limit(30, 60)))
    assert [(rule.policy, rule.limit) for rule in action_rules(spec)] == [
        ("test.do-1s-ws", Limit(2, 1)),
        ("test.do-60s-ws", Limit(30, 60)),
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"limits": (Limit(1, 60), Limit(2, 60))}, {"concurrency": 0}, {"concurrency": 1, "local": True}],
)
def test_an_action_cannot_declare_limits_that_mean_nothing(wrong: dict) -> None:
    with pytest.raises(CatalogError):
        _declared(**wrong)


@pytest.mark.parametrize(("count", "seconds"), [(0, 1), (1, 0), (-1, 60)])
def test_a_limit_allows_something(count: int, seconds: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        Limit(count, seconds)


def test_addresses_count_as_what_one_caller_holds() -> None:
    def same(one: str, two: str) -> tuple[bool, bool]:
        (a, net_a), (b, net_b) = address_subjects(one), address_subjects(two)
        return a == b, net_a == net_b and net_a is not None

    assert same("192.0.2.1", "192.0.2.2") == (False, False)
    assert same("192.0.2.1", "::ffff:192.0.2.1") == (True, False)
    assert same("2001:db8:0:1::1", "2001:db8:0:1:ffff::2") == (True, True)
    assert same("2001:db8:0:1::1", "2001:db8:0:2::1") == (False, True)
    assert same("2001:db8:0:1::1", "2001:db8:1:1::1") == (False, False)
    assert same("fe80::1%eth0", "fe80::2%eth1") == (True, True)
    assert same("", "unknown") == (True, False)


def test_subjects_are_of_one_length_and_kinds_do_not_meet() -> None:
    names = ["a", "a" * 500, "a/b:c}", "\0", "ü"]
    assert {len(subject(kind, name)) for kind in ("workspace", "principal") for name in names} == {32}
    assert subject("workspace", "a") != subject("principal", "a")
    assert subject("address", "192.0.2.1") == address_subjects("192.0.2.1")[0]
