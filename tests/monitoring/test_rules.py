"""The alert rules as they are shipped: rendered from one table, about metrics that exist, each with its tests.

The tests of the rules are promtool's, in `deploy/prometheus/tests`. Here it is seen that they pass, that each alert has
one that fires and resolves and one that stays silent, and that they would notice: each rule is broken and must fail.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import alerts
from tests.monitoring_kit import (
    PROMETHEUS,
    RUNBOOKS,
    Alert,
    default_values,
    load,
    recorded,
    replaced,
    rule_tests,
    rules,
    run,
    shipped_alerts,
    shortened,
    unknown_names,
)

ALERTS = shipped_alerts()
ALWAYS = "Heartbeat"
"""The one alert that is never silent."""
SEVERITIES = {"critical", "warning", "info"}
WANTED = {
    "HighAuthFailureRate": "warning",
    "RateLimitAbuse": "warning",
    "SecurityViolation": "critical",
    "InstanceDown": "warning",
    "RelayDown": "critical",
}

every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


@pytest.fixture(autouse=True)
def promtool(debian: Callable[[str, str], None]) -> None:
    debian("prometheus", "promtool")


def test_the_rules_are_what_templates_and_numbers_make() -> None:
    made = alerts.render(default_values())
    assert made == {file.name: file.read_text() for file in (PROMETHEUS / "rules").glob("*.yml")}, (
        "run: python -m scripts.alerts"
    )
    assert len(made) == 6 and len(ALERTS) > 30


def test_each_alert_is_there_once() -> None:
    names = [alert.name for alert in ALERTS]
    assert len(names) == len(set(names))
    assert {name: {alert.name: alert.severity for alert in ALERTS}[name] for name in WANTED} == WANTED
    waits = {alert.name: alert.wait for alert in ALERTS}
    assert (waits["HighAuthFailureRate"], waits["RateLimitAbuse"]) == ("2m", "5m")


def test_prometheus_takes_rules_and_configuration(tmp_path: Path) -> None:
    checked = run("promtool", "check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    assert checked.returncode == 0, checked.stderr
    token = tmp_path / "token"
    token.write_text("t" * 32)
    config = tmp_path / "prometheus.yml"
    shipped = (PROMETHEUS / "prometheus.yml").read_text()
    config.write_text(replaced(shipped, {"/etc/prometheus/relay-metrics-token": str(token)}))
    (tmp_path / "rules").symlink_to(PROMETHEUS / "rules")
    checked = run("promtool", "check", "config", config)
    assert checked.returncode == 0 and f"{len(rules())} rules" not in checked.stderr, checked.stdout + checked.stderr
    assert checked.stdout.count("rules found") == 6


def test_the_jobs_of_the_rules_are_those_that_are_scraped() -> None:
    values = default_values()
    jobs = {job["job_name"]: job for job in load(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    assert set(jobs) == set(values["jobs"].split("|")) and values["servers"] in jobs
    for job in jobs.values():
        assert job["authorization"]["credentials_file"]
        assert [group["labels"]["environment"] for group in job["static_configs"]] == ["production"]
    assert len(jobs["relay"]["static_configs"][0]["targets"]) > 1


@every_alert
def test_an_alert_says_what_it_is_and_what_to_do(alert: Alert) -> None:
    assert alert.severity in SEVERITIES or alert.name == ALWAYS
    assert set(alert.rule["labels"]) == {"severity", "area"}
    notes = alert.rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"{default_values()['runbooks']}/{alert.name}.md"
    assert (RUNBOOKS / f"{alert.name}.md").is_file()
    assert 10 < len(notes["summary"]) < 120 and notes["description"].endswith(".")


def test_rules_ask_for_metrics_labels_and_values_that_exist() -> None:
    wrong = {rule.get("alert") or rule["record"]: unknown_names(rule["expr"]) for _, rule in rules()}
    assert {name: found for name, found in wrong.items() if found} == {}
    used = " ".join(rule["expr"] for _, rule in rules())
    assert {name for name in recorded() if name not in used.replace("record", "")} == set()


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("rate(relay_nothing_total[5m]) > 0", ["relay_nothing_total"]),
        ('auth_failures_total{reason="bad"}', ["auth_failures_total{reason=bad}"]),
        ('relay_attempts_total{outcome=~"failed|lost"}', ["relay_attempts_total{outcome=lost}"]),
        ('relay_runs{colour="red"}', ["relay_runs{colour}"]),
        ("relay_audit_size_count", ["relay_audit_size_count"]),
        ('histogram_quantile(0.9, relay_audit_commit_seconds_bucket{le="1"})', []),
    ],
)
def test_a_name_that_does_not_exist_is_found(query: str, wrong: list[str]) -> None:
    assert unknown_names(query) == wrong


# The rules' own tests.


@pytest.mark.parametrize("file", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda file: file.name)
def test_the_rules_pass_their_tests(file: Path) -> None:
    ended = run("promtool", "test", "rules", file.name, cwd=file.parent)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@every_alert
def test_an_alert_has_a_test_that_fires_and_resolves_and_one_that_is_silent(alert: Alert) -> None:
    groups = _groups_of(alert.name)
    seen = [[bool(check["exp_alerts"]) for check in group["alert_rule_test"]] for group in groups]
    assert any(True in one for one in seen), "it never fires"
    if alert.name == ALWAYS:
        return
    assert any(True in one and False in one[one.index(True) :] for one in seen), "it never resolves"
    silent = [group for group, one in zip(groups, seen, strict=True) if not any(one)]
    assert silent and all("silent: " in group["name"] for group in silent)
    for group in silent:
        assert group["name"].startswith(f"{alert.name} silent: ") and len(group["alert_rule_test"]) > 1


def test_every_test_is_of_an_alert() -> None:
    named = {group["name"].split()[0] for _, group in rule_tests()}
    assert named == {alert.name for alert in ALERTS}
    for _, group in rule_tests():
        assert {check["alertname"] for check in group["alert_rule_test"]} == {group["name"].split()[0]}


Mutation = Callable[[Mapping[str, Any]], Mapping[str, Any]]
MUTATIONS: dict[str, Mutation] = {
    "never fires": lambda rule: {**rule, "expr": "vector(0) > 1"},
    "always fires": lambda rule: {**rule, "expr": "vector(1)"},
    "does not wait": lambda rule: {key: value for key, value in rule.items() if key != "for"},
}


@pytest.mark.parametrize("how", MUTATIONS)
def test_every_rule_that_is_broken_fails_its_tests(how: str, tmp_path: Path) -> None:
    waiting = {alert.name for alert in ALERTS if "for" in alert.rule}
    wanted = waiting if how == "does not wait" else {alert.name for alert in ALERTS}
    only = " silent: " if how == "always fires" else " fires"
    failed = _failed(dict.fromkeys(wanted, MUTATIONS[how]), tmp_path, only)
    assert wanted - failed == ({ALWAYS} if how == "always fires" else set())


SEEDS = {
    "SecurityViolation": "sum by (environment, type) (security_violations_total{severity='critical'}) > 0",
    "HighAuthFailureRate": "sum by (environment) (rate(auth_failures_total[5m])) > 10",
}


@pytest.mark.parametrize("name", SEEDS)
def test_rules_that_look_right_and_do_not_work_fail(name: str, tmp_path: Path) -> None:
    """A counter that is above 0 for ever, and a rate per second that is taken for one per minute."""
    assert _failed({name: lambda rule: {**rule, "expr": SEEDS[name]}}, tmp_path) == {name}


@pytest.mark.parametrize("line", [" - last_over_time(", " >= last_over_time("], ids=["gap", "first scrape"])
def test_an_alert_that_one_event_raises_does_not_miss_what_increase_misses(line: str, tmp_path: Path) -> None:
    """A counter that is above 0 when it is first scraped, and one that grew while it was not."""

    def blind(rule: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**rule, "expr": "\n".join(one for one in rule["expr"].splitlines() if line not in one)}

    one_event = {alert.name for alert in ALERTS if re.search(r"increase\([^)]+\)+ > 0", alert.rule["expr"])}
    assert len(one_event) == 10
    assert _failed(dict.fromkeys(one_event, blind), tmp_path, " fires ") == one_event


def _groups_of(name: str) -> list[Mapping[str, Any]]:
    return [group for _, group in rule_tests() if group["name"].split()[0] == name]


def _failed(mutations: Mapping[str, Mutation], folder: Path, only: str = "") -> set[str]:
    """Return the alerts with a failing test once some rules are changed; ``only`` tests named so are run."""
    failed: set[str] = set()
    for file in sorted((PROMETHEUS / "rules").glob("*.yml")):
        whole = load(file)
        for group in whole["groups"]:
            group["rules"] = [_changed(rule, mutations) for rule in group["rules"]]
        (folder / file.name).write_text(yaml.safe_dump(whole))
    for file in sorted((PROMETHEUS / "tests").glob("*.yml")):
        whole = load(file)
        left = set(mutations) - failed
        tests = [one for one in whole["tests"] if only in one["name"] and one["name"].split()[0] in left]
        if tests:
            mine = {**whole, "rule_files": [Path(name).name for name in whole["rule_files"]], "tests": tests}
            (folder / f"test-{file.name}").write_text(yaml.safe_dump(mine))
            ended = run("promtool", "test", "rules", f"test-{file.name}", cwd=folder)
            said = ended.stdout + ended.stderr
            failed |= set(re.findall(r"^    name: (\w+)", said, re.MULTILINE)) if ended.returncode else set()
    return failed


def _changed(rule: dict[str, Any], mutations: Mapping[str, Mutation]) -> dict[str, Any]:
    return dict(mutations[rule["alert"]](rule)) if rule.get("alert") in mutations else rule


# The table and the templates.


def test_another_table_makes_other_rules(tmp_path: Path) -> None:
    table = alerts.THRESHOLDS.read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(replaced(table, {'queue_age = "5m"': 'queue_age = "1h30m"'}))
    assert alerts.main(["--thresholds", str(mine), "--output", str(tmp_path / "rules")]) == 0
    assert "> 5400" in (tmp_path / "rules/actions.yml").read_text()
    assert run("promtool", "check", "rules", tmp_path / "rules/actions.yml").returncode == 0


def test_whoever_keeps_the_placeholder_of_the_runbooks_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(alerts.THRESHOLDS.read_text())
    assert alerts.main(["--thresholds", str(mine), "--output", str(tmp_path / "rules")]) == 0
    assert f"{mine}: alerts will link to runbooks at https://git.example.com/" in capsys.readouterr().err
    shipped = default_values()["runbooks"]
    mine.write_text(replaced(alerts.THRESHOLDS.read_text(), {shipped: "https://wiki.example.org/relay"}))
    assert alerts.main(["--thresholds", str(mine), "--output", str(tmp_path / "rules")]) == 0
    assert capsys.readouterr().err == ""
    made = (tmp_path / "rules/audit.yml").read_text()
    assert "https://wiki.example.org/relay/AuditSilence.md" in made and shipped not in made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({'queue_age = "5m"': 'queue_agge = "5m"'}, "no value for @queue_age.seconds@"),
        ({'queue_age = "5m"': 'queue_age = "5m"\nother = 1'}, "no template uses other"),
        ({'queue_age = "5m"': "queue_age = 5"}, "'5' is no duration"),
        ({'counter_memory = "1d"': 'counter_memory = "1 d"'}, "has a HAPPENED that cannot be read"),
        ({'silence_for = "5m"': 'silence_for = "5m"\ndown_for = "1m"'}, "down_for stands there twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    change: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(replaced(alerts.THRESHOLDS.read_text(), change))
    assert alerts.main(["--thresholds", str(mine), "--output", str(tmp_path / "rules")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "rules").exists()


@pytest.mark.parametrize(("text", "worth"), [("90s", 90), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600)])
def test_durations_are_prometheus_s(text: str, worth: int) -> None:
    assert alerts.seconds(text) == worth


def test_only_known_numbers_are_replaced() -> None:
    with pytest.raises(AssertionError, match="nothing"):
        shortened(default_values(), nothing="1s")
