"""The Grafana dashboards: made from their tables, in Grafana's form, over metrics and runbooks that exist."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from relay.telemetry.catalogue import BY_NAME, OPEN, Metric
from scripts.dashboards import DASHBOARDS, FOLDER, THRESHOLDS, main, text_of

TOP = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "dashboard.schema.json").read_text())
NAMES = pytest.mark.parametrize("name", DASHBOARDS)
_SUFFIX = re.compile(r"_(bucket|sum|count)$")
_SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'([a-z_]+)(=~|=|!=|!~)"([^"]*)"')
_GIVEN_BY_PROMETHEUS = {"job", "instance", "le"}


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def expressions(name: str) -> list[str]:
    return [target["expr"] for panel in panels(name) for target in panel["targets"]]


@NAMES
def test_what_is_committed_is_what_the_tables_make(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == text_of(DASHBOARDS[name])
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DASHBOARDS)


@NAMES
def test_it_has_the_form_that_grafana_publishes(name: str) -> None:
    jsonschema.validate(dashboard(name), SCHEMA)


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "no version": lambda board: board.pop("schemaVersion"),
    "too wide": lambda board: board["panels"][1]["gridPos"].update(w=25),
    "no kind of panel": lambda board: board["panels"][1].update(type=""),
    "no settings": lambda board: board["panels"][1].pop("fieldConfig"),
    "odd variable": lambda board: board["templating"]["list"][0].update(type="odd"),
    "misspelt field": lambda board: board["panels"][1].update(tittle="x"),
    "misspelt setting": lambda board: board["panels"][1]["fieldConfig"]["defaults"].update(unitt="s"),
    "odd pointer": lambda board: board.update(graphTooltip=3),
    "no query": lambda board: board["panels"][1]["targets"][0].pop("expr"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_the_schema_refuses_what_grafana_would_not_read(what: str) -> None:
    board = dashboard("overview")
    SPOILT[what](board)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(board, SCHEMA)


@NAMES
def test_no_panel_covers_another_and_ids_are_unique(name: str) -> None:
    every = dashboard(name)["panels"]
    ids = [panel["id"] for panel in every]
    assert len(ids) == len(set(ids))
    for one, other in combinations((panel["gridPos"] for panel in every), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


@NAMES
def test_every_panel_says_what_it_shows_and_in_which_unit(name: str) -> None:
    titles = [panel["title"] for panel in panels(name)]
    assert len(titles) == len(set(titles))
    for panel in panels(name):
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for link in panel["links"]:
            runbook = link["url"].removeprefix("${runbooks}/")
            assert (TOP / "docs" / "runbooks" / runbook).is_file(), runbook


@NAMES
def test_nothing_in_it_names_a_host_or_a_data_source(name: str) -> None:
    board = dashboard(name)
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    runbooks = variables.pop("runbooks")
    sources = [panel["datasource"] for panel in panels(name)]
    sources += [target["datasource"] for panel in panels(name) for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    text = json.dumps({**board, "templating": {"list": list(variables.values())}})
    assert "://" not in text and not re.search(r"\d+\.\d+\.\d+\.\d+", text)
    alerts = (TOP / "deploy" / "prometheus" / "rules" / "security.yml").read_text()
    assert f"{runbooks['query']}/SecurityViolation.md" in alerts


@NAMES
def test_every_query_is_over_metrics_and_labels_that_exist(name: str) -> None:
    for expression in expressions(name):
        for metric_name, matchers in _SELECTOR.findall(expression):
            if metric_name == "up":
                continue
            metric = BY_NAME.get(metric_name) or BY_NAME[_SUFFIX.sub("", metric_name)]
            for label, operator, value in _MATCHER.findall(matchers):
                _check(metric, label, value.split("|") if "~" in operator else [value])
            assert 'job=~"$job"' in matchers and 'instance=~"$instance"' in matchers, expression
        for by in re.findall(r"by \(([a-z_, ]+)\)", expression):
            known = {label for found in _metrics_of(expression) for label in found.labels} | _GIVEN_BY_PROMETHEUS
            assert set(by.split(", ")) <= known, expression


def _metrics_of(expression: str) -> list[Metric]:
    names = (_SUFFIX.sub("", found) if found not in BY_NAME else found for found, _ in _SELECTOR.findall(expression))
    return [BY_NAME[found] for found in names if found in BY_NAME]


def _check(metric: Metric, label: str, values: list[str]) -> None:
    if label in _GIVEN_BY_PROMETHEUS:
        return
    known = metric.labels[label]
    assert known in OPEN or set(values) <= set(known), (metric.name, label, values)


@NAMES
def test_shared_gauges_are_never_added_up_and_counters_only_as_rates(name: str) -> None:
    for expression in expressions(name):
        for found in re.finditer(r"([a-z_]+)\{[^}]*\}(\[[^\]]*\])?", expression):
            metric = BY_NAME.get(found[1])
            if metric is None:
                continue
            before = expression[: found.start()]
            if metric.shared:
                assert re.search(r"(max(?: by \([a-z_, ]+\))? ?\(|count\()$", before), expression
            if metric.kind == "counter":
                assert found[2] is not None and re.search(r"(rate|increase)\($", before), expression


@NAMES
def test_the_legend_names_labels_that_the_query_keeps(name: str) -> None:
    for panel in panels(name):
        for target in panel["targets"]:
            kept = {label for by in re.findall(r"by \(([a-z_, ]+)\)", target["expr"]) for label in by.split(", ")}
            assert set(re.findall(r"\{\{([a-z_]+)\}\}", target["legendFormat"])) <= kept, target


def test_the_runbooks_are_where_the_table_of_the_alerts_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "mine.toml", tmp_path / "made"
    said = THRESHOLDS.read_text()
    mine.write_text(re.sub(r'^runbooks = ".*"$', 'runbooks = "https://wiki.example.org/relay"', said, flags=re.M))
    assert main(["--thresholds", str(mine), "--output", str(out)]) == 0
    assert {file.stem for file in out.iterdir()} == set(DASHBOARDS)
    for name in DASHBOARDS:
        shipped = (FOLDER / f"{name}.json").read_text()
        made = json.loads((out / f"{name}.json").read_text())
        [place] = [one["query"] for one in made["templating"]["list"] if one["name"] == "runbooks"]
        assert place == "https://wiki.example.org/relay" and place not in shipped
    mine.write_text("[where]\n")
    assert main(["--thresholds", str(mine), "--output", str(out)]) == 1
    assert str(mine) in capsys.readouterr().err


def test_the_provisioning_is_yaml_without_a_host() -> None:
    folder = TOP / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "relay.yml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["url"] == "$PROMETHEUS_URL" and source["uid"]
    scrape = yaml.safe_load((TOP / "deploy" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "relay.yml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"].startswith("/etc/grafana/")
