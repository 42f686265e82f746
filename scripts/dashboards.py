"""Writes ``deploy/grafana/dashboards`` from the tables in ``scripts.grafana``: ``python -m scripts.dashboards``.

``--thresholds FILE`` takes the place of the runbooks from another table of the alerts' numbers, ``--output FOLDER``
writes elsewhere. The form is Grafana's classic dashboard model. A test compares what stands there with what this makes.
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from scripts.grafana.actions import ACTIONS
from scripts.grafana.chat import CHAT
from scripts.grafana.overview import OVERVIEW
from scripts.grafana.panels import Dashboard, Panel
from scripts.grafana.security import SECURITY
from scripts.grafana.webhooks import WEBHOOKS

TOP: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = TOP / "deploy" / "grafana" / "dashboards"
THRESHOLDS: Final = TOP / "deploy" / "prometheus" / "thresholds.toml"
DASHBOARDS: Final = {"overview": OVERVIEW, "security": SECURITY, "actions": ACTIONS, "webhooks": WEBHOOKS, "chat": CHAT}
"""Every dashboard, by the name of its file."""
SELECTION: Final = 'job=~"$job",instance=~"$instance"'
SCHEMA_VERSION: Final = 36
COLUMNS: Final = 24
HEIGHTS: Final = {"stat": 4, "table": 5, "timeseries": 8, "bars": 8}
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
TYPES: Final = {"stat": "stat", "table": "table", "timeseries": "timeseries", "bars": "timeseries"}


def text_of(board: Dashboard, thresholds: Path = THRESHOLDS) -> str:
    """Return the file of a dashboard, whose runbooks are where the table says."""
    return json.dumps(model_of(board, thresholds), indent=2, ensure_ascii=False) + "\n"


def model_of(board: Dashboard, thresholds: Path = THRESHOLDS) -> dict[str, Any]:
    """Return a dashboard as Grafana reads it."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["relay"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "1m",
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "links": [
            {
                "title": "Relay",
                "type": "dashboards",
                "icon": "external link",
                "tooltip": "",
                "url": "",
                "tags": ["relay"],
                "asDropdown": False,
                "targetBlank": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "annotations": {"list": []},
        "templating": {"list": _variables(thresholds)},
        "panels": _panels(board),
    }


def _variables(thresholds: Path) -> list[dict[str, Any]]:
    return [
        {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0},
        _values("job", "Job", "label_values(relay_build_info, job)"),
        _values("instance", "Instance", 'label_values(relay_build_info{job=~"$job"}, instance)'),
        {
            "type": "textbox",
            "name": "runbooks",
            "label": "Runbooks",
            "description": "Where the pages of docs/runbooks can be read.",
            "query": _runbooks(thresholds),
            "hide": 2,
        },
    ]


def _values(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
        "hide": 0,
    }


def _runbooks(thresholds: Path) -> str:
    """Return where the runbooks are, as the alerts say it too."""
    with thresholds.open("rb") as file:
        return str(tomllib.load(file)["where"]["runbooks"])


def _panels(board: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    y = 0
    for row in board.rows:
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        found.append(
            {
                "id": len(found) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        y, x, height = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                y, x, height = y + height, 0, 0
            found.append(_panel(panel, len(found) + 1, x, y))
            x, height = x + panel.width, max(height, HEIGHTS[panel.kind])
        y += height
    return found


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": TYPES[panel.kind],
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHTS[panel.kind], "w": panel.width, "x": x, "y": y},
        "targets": [_target(panel, position) for position in range(len(panel.queries))],
        "options": _options(panel),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "links": [_link(name) for name in panel.runbooks],
        "transformations": [],
    }


def _target(panel: Panel, position: int) -> dict[str, Any]:
    expression, legend = panel.queries[position]
    at_once = panel.kind in ("stat", "table")
    return {
        "refId": chr(ord("A") + position),
        "datasource": SOURCE,
        "expr": expression.replace("SEL", SELECTION),
        "legendFormat": legend,
        "instant": at_once,
        "range": not at_once,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        mode = "background" if panel.steps else "none"
        return {"reduceOptions": reduce, "colorMode": mode, "graphMode": "none", "textMode": "auto"}
    if panel.kind == "table":
        return {"showHeader": True}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": panel.unit, "color": {"mode": "palette-classic"}}
    if panel.steps:
        steps = [{"value": value, "color": color} for value, color in panel.steps]
        found |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        found |= {"min": 0, "custom": {"drawStyle": "line", "fillOpacity": 5, "spanNulls": False}}
    if panel.kind == "bars":
        found |= {"min": 0, "custom": {"drawStyle": "bars", "fillOpacity": 60, "stacking": {"mode": "normal"}}}
    return found


def _link(runbook: str) -> dict[str, Any]:
    return {
        "title": f"Runbook: {runbook}",
        "type": "link",
        "icon": "doc",
        "tooltip": "",
        "url": f"${{runbooks}}/{runbook}.md",
        "tags": [],
        "asDropdown": False,
        "targetBlank": True,
        "includeVars": False,
        "keepTime": False,
    }


def main(arguments: list[str] | None = None) -> int:
    """Write every dashboard."""
    parser = argparse.ArgumentParser(description="Write the dashboards.")
    parser.add_argument("--thresholds", type=Path, default=THRESHOLDS, help="the alerts' table; default %(default)s")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to; default %(default)s")
    given = parser.parse_args(arguments)
    try:
        files = {f"{name}.json": text_of(board, given.thresholds) for name, board in DASHBOARDS.items()}
    except (OSError, ValueError, KeyError) as error:
        print(f"{given.thresholds}: {error}", file=sys.stderr)
        return 1
    given.output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (given.output / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
