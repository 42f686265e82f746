"""Who is told: Alertmanager's configuration as it is shipped, checked and asked with Debian's amtool."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring_kit import ALERTMANAGER, load, run, shipped_alerts

CONFIG = ALERTMANAGER / "alertmanager.yml"


@pytest.fixture(autouse=True)
def amtool(debian: Callable[[str, str], None]) -> None:
    debian("prometheus-alertmanager", "amtool")


def test_alertmanager_takes_the_configuration() -> None:
    checked = run("amtool", "check-config", CONFIG)
    assert checked.returncode == 0 and "1 templates" in checked.stdout, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["severity=critical", "environment=production", "alertname=SecurityViolation"], "program,on-call"),
        (["severity=critical", "alertname=RelayDown", "job=relay"], "program,on-call"),
        (["severity=warning", "environment=production", "alertname=RateLimitAbuse"], "program,team"),
        (["severity=info", "environment=production", "alertname=KillSwitchOn"], "program,mail"),
        (["severity=critical", "environment=staging", "alertname=SecurityViolation"], "program,team"),
        (["severity=info", "environment=staging", "alertname=FirstUse"], "program,team"),
        (["severity=none", "alertname=Heartbeat"], "heartbeat"),
        (["severity=odd", "environment=production", "alertname=Mine"], "team"),
        (["alertname=Mine"], "team"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_labels_lead_to_receivers(labels: list[str], receivers: str) -> None:
    asked = run("amtool", "config", "routes", "test", f"--config.file={CONFIG}", *labels)
    assert (asked.returncode, asked.stdout.strip()) == (0, receivers), asked.stderr


def test_every_alert_that_is_critical_wakes_somebody_and_no_other_does() -> None:
    for alert in shipped_alerts():
        labels = [f"{name}={value}" for name, value in alert.rule["labels"].items()]
        asked = run(
            *("amtool", "config", "routes", "test", f"--config.file={CONFIG}"),
            *(*labels, f"alertname={alert.name}", "environment=production"),
        )
        assert ("on-call" in asked.stdout) == (alert.severity == "critical"), alert.name


def test_every_secret_is_in_a_file_of_its_own_with_an_absolute_path() -> None:
    """Alertmanager takes a relative path from wherever it was started."""
    files = {key: value for key, value in _entries(load(CONFIG)) if key.endswith("_file")}
    assert set(files) == {"smtp_auth_password_file", "routing_key_file", "api_url_file", "credentials_file"}
    assert all(str(value).startswith("/etc/prometheus/credentials/") for value in files.values())
    assert len(set(files.values())) == 4
    plain = {"routing_key", "service_key", "api_url", "smtp_auth_password", "credentials", "slack_api_url", "password"}
    assert plain & {key for key, _ in _entries(load(CONFIG))} == set()


def test_every_receiver_exists_for_a_route_and_tells_of_the_end() -> None:
    config = load(CONFIG)
    used = {value for key, value in _entries(config["route"]) if key == "receiver"}
    assert used == {receiver["name"] for receiver in config["receivers"]}
    kinds = {kind for receiver in config["receivers"] for kind in receiver if kind != "name"}
    assert kinds == {"slack_configs", "pagerduty_configs", "email_configs", "webhook_configs"}
    for receiver in config["receivers"]:
        wanted = receiver["name"] != "heartbeat"
        assert [value for key, value in _entries(receiver) if key == "send_resolved"] == [wanted] * (len(receiver) - 1)


def test_what_is_critical_keeps_back_what_it_explains() -> None:
    alerts = {alert.name: alert for alert in shipped_alerts()}
    pairs = [("ErrorBudgetBurnFast", "ErrorBudgetBurnSlow"), ("LimiterFallback", "RateLimitAbuse")]
    pairs += [("AuditVerificationFailed", "AuditVerificationOverdue"), ("RelayDown", "InstanceDown")]
    pairs += [("AuditWriteErrors", "AuditCommitSlow"), ("WrongEnvironment", "DoctorFailing")]
    for source, target in pairs:
        assert _inhibits(_labels(alerts[source]), _labels(alerts[target])), (source, target)
    for target in alerts:
        if alerts[target].rule["labels"]["area"] in ("violation", "audit_integrity", "heartbeat"):
            assert not _inhibits(_labels(alerts["RelayDown"]), _labels(alerts[target])), target
        elif target != "RelayDown":
            assert _inhibits(_labels(alerts["RelayDown"]), _labels(alerts[target])), target


def test_what_happens_elsewhere_keeps_nothing_back() -> None:
    alerts = {alert.name: alert for alert in shipped_alerts()}
    down = _labels(alerts["RelayDown"])
    other = {**_labels(alerts["LimiterFallback"]), "environment": "staging"}
    workers = {**down, "job": "relay-worker"}
    assert not _inhibits(down, other)
    assert not _inhibits(workers, _labels(alerts["LimiterFallback"]))
    assert not _inhibits(workers, _labels(alerts["InstanceDown"]))
    one = {**_labels(alerts["InstanceDown"]), "instance": "a:8000"}
    mode = _labels(alerts["DevelopmentMode"])
    assert _inhibits(one, {**mode, "instance": "a:8000"}) and not _inhibits(one, {**mode, "instance": "b:8000"})
    assert not _inhibits(one, _labels(alerts["QueueOverdue"]))


def test_the_templates_define_what_the_receivers_use() -> None:
    defined = set(re.findall(r'define "([\w.]+)"', (ALERTMANAGER / "relay.tmpl").read_text()))
    used = set(re.findall(r'template "([\w.]+)"', CONFIG.read_text() + (ALERTMANAGER / "relay.tmpl").read_text()))
    assert defined == used
    assert load(CONFIG)["templates"] == ["relay.tmpl"] and (Path(CONFIG).parent / "relay.tmpl").is_file()


def _labels(alert: Any) -> dict[str, str]:
    return {**alert.rule["labels"], "alertname": alert.name, "environment": "production", "job": "relay"}


def _inhibits(source: dict[str, str], target: dict[str, str]) -> bool:
    """Return whether an alert keeps another back, as Alertmanager's documentation of inhibit rules has it."""
    return any(
        all(_matches(matcher, source) for matcher in rule["source_matchers"])
        and all(_matches(matcher, target) for matcher in rule["target_matchers"])
        and all(source.get(label, "") == target.get(label, "") for label in rule["equal"])
        for rule in load(CONFIG)["inhibit_rules"]
    )


def _matches(matcher: str, labels: dict[str, str]) -> bool:
    found = re.fullmatch(r'(\w+)(=~|!~|!=|=)"(.*)"', matcher)
    assert found is not None, matcher
    name, operator, wanted = found.groups()
    value = labels.get(name, "")
    same = re.fullmatch(wanted, value) is not None if "~" in operator else value == wanted
    return same != operator.startswith("!")


def _entries(node: Any) -> list[tuple[str, Any]]:
    """Return every key with its value, however deep."""
    if isinstance(node, dict):
        return [pair for key, value in node.items() for pair in [(str(key), value), *_entries(value)]]
    return [pair for item in node for pair in _entries(item)] if isinstance(node, list) else []
