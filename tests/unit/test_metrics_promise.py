"""A name is a promise: the catalogue, the documentation, the alert rules and the dashboards say the same ones."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.audit.tags import TAGS
from relay.audit.violations import TAGS_OF_VIOLATIONS
from relay.telemetry.catalogue import AUTH_REASONS, BY_NAME, METRICS, UNUSUAL, VIOLATIONS
from scripts import docs
from tests.docs_reading import fences, first_cells, read, section

TOP = Path(__file__).resolve().parents[2]
RULES = sorted((TOP / "deploy/prometheus").rglob("*.yml"))
BOARDS = sorted((TOP / "deploy/grafana").rglob("*.json"))
OURS = ("relay_", "security_", "auth_failures", "rate_limit_")
FROM_OUTSIDE = {"le", "job", "instance", "environment", "severity", "alertname", "alertstate", "area"}
"""Labels that Prometheus and its configuration add."""

_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_NAME = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?")
_LABEL = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*(\"(?:[^\"\\]|\\.)*\")")
_SUFFIX = re.compile(r"_(bucket|count|sum)$")


def expressions(found: Any) -> Iterator[str]:
    """Yield every expression of a rule file or a dashboard, wherever it stands."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(found, list):
        for value in found:
            yield from expressions(value)


def loaded(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def used(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the names of ours in an expression, each with the labels that it is asked by and their exact values."""
    texts: list[str] = []

    def kept(match: re.Match[str]) -> str:
        texts.append(match[0])
        return f'"{len(texts) - 1}"'

    for name, matchers in _NAME.findall(_QUOTED.sub(kept, expression)):
        if name.startswith(OURS):
            labels = {}
            for label, operator, quoted in _LABEL.findall(matchers):
                text = texts[int(quoted.strip('"'))][1:-1]
                labels[label] = text if operator in ("=", "!=") else ""
            yield name, labels


def metric_of(name: str) -> str:
    base = _SUFFIX.sub("", name)
    return base if base in BY_NAME and BY_NAME[base].kind == "histogram" else name


SOURCES = [path for path in (*RULES, *BOARDS) if "templates" not in path.parts and "tests" not in path.parts]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_rules_and_dashboards_ask_for_what_there_is(path: Path) -> None:
    for expression in expressions(loaded(path)):
        for name, labels in used(expression):
            metric = BY_NAME.get(metric_of(name))
            assert metric is not None, f"{name} in {expression}"
            assert metric.kind != "histogram" or name != metric.name, f"{name} has no series of its own: {expression}"
            for label, value in labels.items():
                assert label in metric.labels or label in FROM_OUTSIDE, f"{label} of {name} in {expression}"
                values = metric.labels.get(label, "")
                if value and values and not isinstance(values, str):
                    assert value in values, f"{label}={value} of {name} in {expression}"


def test_the_rules_are_there_and_use_the_metrics() -> None:
    names = {metric_of(name) for path in SOURCES for text in expressions(loaded(path)) for name, _ in used(text)}
    assert {"security_violations_total", "auth_failures_total", "rate_limit_hits_total"} <= names
    assert len(names) > 10


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        (
            'sum by (route) (rate(relay_http_requests_total{job=~"relay|x", status="5xx"}[5m])) > 0',
            [("relay_http_requests_total", {"job": "", "status": "5xx"})],
        ),
        ('label_replace(up, "a", "relay_no_name", "b", ".*")', []),
        (
            "histogram_quantile(0.9, sum(relay_plan_duration_seconds_bucket))",
            [("relay_plan_duration_seconds_bucket", {})],
        ),
        ("job:relay_requests:rate5m > 1 and relay_runs", [("relay_runs", {})]),
    ],
)
def test_what_this_reads_in_an_expression(expression: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert list(used(expression)) == found


def test_the_table_is_current_and_whole() -> None:
    assert read("docs/metrics.md") == docs.pages()["docs/metrics.md"], "run: python -m scripts.docs"
    assert {metric.name for metric in METRICS} == {
        cell for cell in first_cells("docs/metrics.md") if cell in BY_NAME or cell.startswith(OURS)
    }


def test_every_reason_is_explained() -> None:
    assert set(AUTH_REASONS) <= {
        line.split("`")[1] for line in section("docs/metrics.md", "Labels").splitlines() if "|" in line and "`" in line
    }


def test_every_reason_that_the_code_gives_is_declared() -> None:
    """What ``Unauthenticated`` is raised with anywhere; signatures have a metric of their own."""
    given = set()
    for path in (TOP / "src/relay").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        given |= {
            reason
            for call in re.findall(r"Unauthenticated\([^)]*\)", text)
            for reason in re.findall(r'reason="(\w+)"', call)
        }
    assert given and given <= set(AUTH_REASONS), given - set(AUTH_REASONS)


def test_every_violation_and_rule_of_unusual_use_has_a_tag_that_counts() -> None:
    assert set(TAGS_OF_VIOLATIONS) == set(VIOLATIONS) - {"lock_broken"}
    assert set(TAGS_OF_VIOLATIONS.values()) <= set(TAGS)
    assert {tag.rpartition(":")[2] for tag in TAGS if tag.startswith("unusual:")} == set(UNUSUAL)


def test_the_example_of_the_page_works() -> None:
    (example,) = [fence.text for fence in fences("docs/metrics.md") if fence.language == "python"]
    exec(compile(example, "docs/metrics.md", "exec"), {"__name__": "example"})
