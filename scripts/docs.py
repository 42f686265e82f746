"""The parts of the documentation that are made from the code: ``python -m scripts.docs`` writes them.

``docs/configuration.md``, ``docs/commands.md`` and ``docs/webhook-events.md`` are whole pages, and
``docs/webhook-events.json`` holds the schemas of these events; in ``docs/actions.md``, ``docs/limits.md`` and
``docs/metrics.md`` each part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. A test compares what
stands there with what this module says.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from relay.catalog import ActionSpec, Catalog
from relay.cli.main import app as relay_app
from relay.engine import build_catalog
from relay.limits.rules import RULES
from relay.settings import load_settings
from relay.settings.docs import configuration_markdown
from relay.telemetry.catalogue import METRICS, Metric
from relay.webhooks.types import CATALOGUE, EventType

TOP: Final = Path(__file__).resolve().parent.parent
_COMMANDS: Final = """# The command line

This page is generated from the code: `python -m scripts.docs`. Commands act on the installation that `RELAY_DATA_DIR`
and `DATABASE_URL` name, also beside a running server. Exit status: 0 done, 1 the answer is no (a failed check, a
refusal), 2 wrong usage. In a checkout the command is `.venv/bin/relay`.
"""
_PART: Final = re.compile(r"(?s)(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->\n)")


def catalog() -> Catalog:
    """Return the actions of an installation with default settings."""
    return build_catalog(load_settings({}, Path("/")), ("127.0.0.1", 8000))


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with the words by which it is called."""
    yield from _leaves("relay", get_command(relay_app))


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(command, TyperGroup):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from _leaves(f"{path} {name}", inner)


def commands_markdown() -> str:
    """Return the page ``docs/commands.md``."""
    return _COMMANDS + "".join(_command(path, command) for path, command in commands())


def _command(path: str, command: Any) -> str:
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    rows = [_argument(item) for item in command.params if isinstance(item, TyperArgument)]
    rows += [_option(item) for item in command.params if isinstance(item, TyperOption) and not item.hidden]
    table = "".join(f"| {' | '.join(_cell(cell) for cell in row)} |\n" for row in rows)
    head = "| option | meaning | default |\n|---|---|---|\n"
    return f"\n## {path}\n\n{_prose(text)}\n" + (f"\n{head}{table}" if rows else "")


def _argument(item: TyperArgument) -> tuple[str, str, str]:
    return f"`{item.metavar or (item.name or '').upper()}`", item.help or "", "required" if item.required else "none"


def _option(item: TyperOption) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in [*item.opts, *item.secondary_opts])
    if item.required:
        default = "required"
    elif item.is_flag or item.default in (None, "", [], ()):
        default = ("on" if item.default else "off") if item.is_flag else "none"
    else:
        default = f"`{item.default}`"
    return names, item.help or "", default


def action_parts() -> dict[str, str]:
    """Return the generated part of ``docs/actions.md`` for each action."""
    return {spec.name: _action(spec) for spec in catalog()}


def _action(spec: ActionSpec) -> str:
    facts = (
        f"{spec.summary}\n\nEffect `{spec.effect}`, scope `{spec.scope}`, time-out {spec.timeout:g} s, "
        f"{'idempotent' if spec.idempotent else 'not idempotent'}, version {spec.version}"
        f"{'' if spec.concurrency is None else f', at most {spec.concurrency} at once in a workspace'}"
        f"{', untrusted result' if spec.untrusted_result else ''}."
    )
    params = spec.params.model_json_schema()
    result = spec.result.model_json_schema(mode="serialization")
    inner = "".join(
        f"\nEach `{name}`:\n\n{_members(schema, defaults=True)}"
        for name, schema in params.get("$defs", {}).items()
        if "properties" in schema
    )
    return (
        f"{facts}\n\nParameters:\n\n{_members(params, defaults=True)}{inner}\n"
        f"Result:\n\n{_members(result, defaults=False)}"
    )


def _members(schema: dict[str, Any], *, defaults: bool) -> str:
    head = "| name | type | default | meaning |\n|---|---|---|---|\n" if defaults else "| name | type |\n|---|---|\n"
    rows = []
    for name, member in schema["properties"].items():
        cells = [f"`{name}`", _type(member)]
        if defaults:
            cells += [_default(name, member, schema), member.get("description", "")]
        rows.append(f"| {' | '.join(map(_cell, cells))} |\n")
    return head + "".join(rows)


def _default(name: str, member: dict[str, Any], schema: dict[str, Any]) -> str:
    if name in schema.get("required", ()):
        return "required"
    value = member.get("default")
    if value is None:
        return "none"
    return f"`{value}`" if value != "" else "empty"


def _type(member: dict[str, Any]) -> str:
    if "anyOf" in member:
        return " or ".join(dict.fromkeys(map(_type, member["anyOf"])))
    if "$ref" in member:
        name = member["$ref"].rpartition("/")[2]
        return "any JSON value" if name == "JsonValue" else f"`{name}`"
    if "enum" in member:
        return ", ".join(f"`{value}`" for value in member["enum"])
    kind = member.get("type", "any JSON value")
    if kind == "array":
        inner = _type(member.get("items", {}))
        inner = f"({inner})" if "," in inner or " or " in inner else inner
        return f"list of {inner}{_bounds(member, 'minItems', 'maxItems', 'entries')}"
    if kind == "object" and isinstance(member.get("additionalProperties"), dict):
        inner = _type(member["additionalProperties"])
        return f"object of ({inner})" if " or " in inner else f"object of {inner}"
    return f"{kind}{_bounds(member, 'minLength', 'maxLength', 'characters')}"


def _bounds(member: dict[str, Any], least: str, most: str, unit: str) -> str:
    low, high = member.get(least), member.get(most)
    if low and high:
        return f", {low} to {high} {unit}"
    return f", at most {high} {unit}" if high else ""


def _cell(text: str) -> str:
    return " ".join(_prose(text).split()).replace("|", "\\|")


def _prose(text: str) -> str:
    return text.replace("``", "`")


def rules_part() -> str:
    """Return the table of rate limits."""
    head = "| rule | limit | per | where | setting | meaning |\n|---|---|---|---|---|---|\n"
    rows = [
        (
            f"`{rule.policy}`",
            f"{rule.limit.count} in {rule.limit.seconds} s",
            rule.per,
            rule.routes,
            f"`{rule.setting.upper()}`",
            rule.meaning,
        )
        for rule in RULES
    ]
    return head + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)


_SETS: Final = {
    "route": "route templates, `(none)`",
    "action": "actions, `(other)`",
    "check": "checks of `relay doctor`",
}


def metrics_part() -> str:
    """Return the table of metrics."""
    head = "| metric | kind | labels | shared | meaning |\n|---|---|---|---|---|\n"
    rows = [
        (f"`{metric.name}`", metric.kind, _labels(metric), "yes" if metric.shared else "", metric.meaning)
        for metric in METRICS
    ]
    return head + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)


def _labels(metric: Metric) -> str:
    return "; ".join(
        f"`{name}`: {_values(values)}" if values else f"`{name}`" for name, values in metric.labels.items()
    )


def _values(values: tuple[str, ...] | str) -> str:
    return _SETS[values] if isinstance(values, str) else ", ".join(f"`{value}`" for value in values)


_EVENTS: Final = """# Event types

This page is generated from the code: `python -m scripts.docs`. It lists what [webhooks](webhooks.md) tell, and what an
endpoint can ask for in `events`. The JSON Schemas stand in `docs/webhook-events.json`.
"""


def events_markdown() -> str:
    """Return the page ``docs/webhook-events.md``."""
    rows = "".join(
        f"| [`{kind.name}`](#{kind.name.replace('.', '')}) | {_cell(kind.description)} |\n" for kind in CATALOGUE
    )
    return f"{_EVENTS}\n| type | when |\n|---|---|\n{rows}" + "".join(map(_event, CATALOGUE))


def _event(kind: EventType) -> str:
    members = "".join(
        f"| `{member.name}` | {_cell(_schema(member.schema))} | {'always' if member.required else 'if any'} |\n"
        for member in kind.members
    )
    example = json.dumps(kind.example(), indent=2)
    return (
        f"\n## {kind.name}\n\n{_prose(kind.description)}\n\n```json\n{example}\n```\n\n"
        f"| member of `data` | value | there |\n|---|---|---|\n{members}"
    )


def _schema(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("format") == "date-time":
        return "time (RFC 3339)"
    if "pattern" in schema:
        prefix, _, _ = schema["pattern"].removeprefix("^").partition("[")
        return f"`{prefix}` and 32 hex digits" if prefix else "64 hex digits"
    return _type(schema)


def events_json() -> str:
    """Return ``docs/webhook-events.json``."""
    return json.dumps({kind.name: kind.schema() for kind in CATALOGUE}, indent=2, ensure_ascii=False) + "\n"


def with_parts(page: str, parts: dict[str, str]) -> str:
    """Return a page with every marked part replaced by what it should say; KeyError for an unknown name."""
    return _PART.sub(lambda match: f"{match[1]}\n{parts[match[2]]}\n{match[3]}", page)


def pages() -> dict[str, str]:
    """Return every page with generated text, by path, as it should be."""
    actions = (TOP / "docs/actions.md").read_text(encoding="utf-8")
    limits = (TOP / "docs/limits.md").read_text(encoding="utf-8")
    metrics = (TOP / "docs/metrics.md").read_text(encoding="utf-8")
    return {
        "docs/configuration.md": configuration_markdown(),
        "docs/commands.md": commands_markdown(),
        "docs/webhook-events.md": events_markdown(),
        "docs/webhook-events.json": events_json(),
        "docs/actions.md": with_parts(actions, action_parts()),
        "docs/limits.md": with_parts(limits, {"rules": rules_part()}),
        "docs/metrics.md": with_parts(metrics, {"metrics": metrics_part()}),
    }


def main() -> int:
    """Write every page that is not current."""
    for path, text in pages().items():
        if not (TOP / path).exists() or (TOP / path).read_text(encoding="utf-8") != text:
            (TOP / path).write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
