"""The monitoring that `deploy/` ships, as tests need it: rules, their tests, their numbers, and Debian's programs."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from relay.audit.tags import TAGS
from relay.telemetry.catalogue import BY_NAME, OPEN, Metric
from scripts import alerts
from tests.left_out import SYSTEM_PATH

TOP = Path(__file__).parents[1]
PROMETHEUS = TOP / "deploy/prometheus"
ALERTMANAGER = TOP / "deploy/alertmanager"
RUNBOOKS = TOP / "docs/runbooks"
OURS = {"up", "ALERTS"}
"""What Prometheus itself knows."""
TARGET_LABELS = {"job", "instance", "environment", "le", "alertname", "severity", "alertstate"}

_METRIC = re.compile(r"(?<![\w$])(relay_\w+|\w+_total|relay:\w+:\w+|up|ALERTS)(?![\w(])(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*\"((?:[^\"\\]|\\.)*)\"")


@dataclass(frozen=True)
class Alert:
    """An alert as it is shipped, with the file that it stands in."""

    name: str
    file: str
    rule: Mapping[str, Any]

    @property
    def severity(self) -> str:
        return str(self.rule["labels"]["severity"])

    @property
    def wait(self) -> str:
        return str(self.rule.get("for", "0s"))


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def rules(folder: Path = PROMETHEUS / "rules") -> list[tuple[str, Mapping[str, Any]]]:
    """Return every rule with the name of its file."""
    return [
        (file.name, rule)
        for file in sorted(folder.glob("*.yml"))
        for group in load(file)["groups"]
        for rule in group["rules"]
    ]


def shipped_alerts() -> list[Alert]:
    return [Alert(rule["alert"], file, rule) for file, rule in rules() if "alert" in rule]


def rule_tests() -> list[tuple[Path, Mapping[str, Any]]]:
    """Return every group of promtool's tests with its file."""
    return [(file, group) for file in sorted((PROMETHEUS / "tests").glob("*.yml")) for group in load(file)["tests"]]


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Debian's programs to its end."""
    found = shutil.which(str(command[0]), path=SYSTEM_PATH)
    assert found is not None, command[0]
    arguments = [found, *map(str, command[1:])]
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


def replaced(text: str, places: Mapping[str, str]) -> str:
    """Return ``text`` with every place replaced; each must stand there, or what is shipped is not what is tested."""
    for place, by in places.items():
        assert place in text, place
        text = text.replace(place, by)
    return text


def recorded() -> set[str]:
    """Return the names of the recording rules."""
    return {rule["record"] for _, rule in rules() if "record" in rule}


def unknown_names(query: str) -> list[str]:
    """Return what a query names that does not exist: metrics, labels, values of labels."""
    wrong = []
    for name, matchers in _METRIC.findall(query):
        metric = _metric(name)
        if metric is None and name not in OURS | recorded():
            wrong.append(name)
        elif metric is not None:
            wrong += [f"{name}{{{found}}}" for found in _wrong_matchers(metric, matchers)]
    return wrong


def _metric(name: str) -> Metric | None:
    stem = re.sub(r"_(bucket|count|sum)$", "", name)
    return BY_NAME.get(name) or (found if (found := BY_NAME.get(stem)) and found.kind == "histogram" else None)


def _wrong_matchers(metric: Metric, matchers: str) -> list[str]:
    wrong = []
    for label, operator, value in _MATCHER.findall(matchers):
        known = metric.labels.get(label)
        if known is None:
            wrong += [] if label in TARGET_LABELS else [label]
        elif isinstance(known, tuple) and known:
            given = value.split("|") if "~" in operator else [value]
            wrong += [f"{label}={one}" for one in given if one not in known]
        else:
            assert known in OPEN or known == ()
    return wrong


def runbook_fences(page: Path, language: str) -> list[str]:
    """Return the blocks of a language on a runbook's page."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block.strip() for block in found]


def unknown_tags(text: str) -> set[str]:
    """Return what looks like an audit tag in a text and is none."""
    found = set(re.findall(r"(?<![\w:/.-])([a-z_]+:[a-z_]+:[a-z_]+)(?![\w:])", text))
    return found - set(TAGS) - recorded()


def shortened(values: Mapping[str, str], **replaced_by: str) -> dict[str, str]:
    """Return the shipped numbers with others in their place; every one must be there."""
    assert set(replaced_by) <= set(values), set(replaced_by) - set(values)
    return {**values, **replaced_by}


def default_values() -> dict[str, str]:
    return alerts.read(alerts.THRESHOLDS)
