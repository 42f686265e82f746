"""A page for every alert, true to the alert, whose queries and tags exist, and a table that has them all.

That the commands of the pages parse, and that links lead somewhere, is tested with the rest of the documentation;
that queries and silences work with real programs, in `test_pages_somebody.py`.
"""

import re

import pytest

from relay.telemetry.catalogue import AUTH_REASONS, VIOLATIONS
from tests.docs_reading import first_cells, headings, read, rows, section
from tests.monitoring_kit import (
    RUNBOOKS,
    TOP,
    Alert,
    runbook_fences,
    shipped_alerts,
    unknown_names,
    unknown_tags,
)

ALERTS = shipped_alerts()
SECTIONS = ["What it means", "How to look", "What to do", "How to silence"]

every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def test_there_is_a_page_for_every_alert_and_no_other() -> None:
    assert {page.stem for page in RUNBOOKS.iterdir()} == {alert.name for alert in ALERTS}


@every_alert
def test_a_page_says_what_it_means_how_to_look_what_to_do_and_how_to_silence(alert: Alert) -> None:
    name = f"docs/runbooks/{alert.name}.md"
    assert headings(name) == [alert.name, *SECTIONS]
    assert f"Severity **{alert.severity}**. [All alerts](../alerts.md)." in read(name)
    page = RUNBOOKS / f"{alert.name}.md"
    looking = section(name, "How to look")
    assert "```promql" in looking
    assert re.search(r"^1\. .+[.?]$", section(name, "What to do"), re.MULTILINE)
    [silence] = [text for text in runbook_fences(page, "shell") if "silence" in text]
    assert silence.startswith(f"amtool silence add alertname={alert.name} ")
    assert silence in section(name, "How to silence")


@every_alert
def test_what_a_page_asks_for_exists(alert: Alert) -> None:
    page = RUNBOOKS / f"{alert.name}.md"
    queries = runbook_fences(page, "promql")
    assert queries
    known = [query for query in queries if "alertmanager_" not in query]  # Alertmanager's own
    assert [found for query in known for found in unknown_names(query)] == []
    assert unknown_tags("\n".join(runbook_fences(page, "shell"))) == set()


@every_alert
def test_a_page_looks_at_what_the_rule_looks_at(alert: Alert) -> None:
    if alert.name == "Heartbeat":
        return  # a constant
    asked = " ".join(runbook_fences(RUNBOOKS / f"{alert.name}.md", "promql"))
    [metric, *_] = re.findall(r"(?:relay_\w+|\w+_total|relay:\w+:\w+|\bup\b)", str(alert.rule["expr"]))
    assert metric in asked, metric


def test_every_type_of_violation_and_reason_of_a_failure_is_explained() -> None:
    critical = {kind for kind, severity in VIOLATIONS.items() if severity == "critical"}
    own = {"many_keys_one_address", "revoked_key_used"}
    assert first_cells("docs/runbooks/SecurityViolation.md") == critical
    assert first_cells("docs/runbooks/SuspiciousEvent.md") == set(VIOLATIONS) - critical - own
    assert first_cells("docs/runbooks/HighAuthFailureRate.md") == set(AUTH_REASONS)


def test_the_table_has_every_alert_with_its_severity_and_wait() -> None:
    shown = [row for row in rows("docs/alerts.md") if "runbooks/" in row[0]]
    wanted = [(f"[{alert.name}](runbooks/{alert.name}.md)", alert.severity, alert.wait) for alert in ALERTS]
    assert [(row[0], row[1], row[3]) for row in shown] == wanted
    for row in shown:
        assert re.fullmatch(r"\d+ s|promtool only|arrives", row[4]), row


def test_the_table_says_what_was_measured_of_exactly_those_that_are_provoked() -> None:
    sources = [page.read_text() for page in (TOP / "tests/monitoring").glob("test_pages_*.py")]
    provoked = set(re.findall(r'"([A-Z][A-Za-z]+)"', " ".join(sources)))
    measured = {row[0].partition("]")[0][1:] for row in rows("docs/alerts.md") if row[-1].endswith(" s")}
    assert measured == provoked & {alert.name for alert in ALERTS} - {"Heartbeat"}
