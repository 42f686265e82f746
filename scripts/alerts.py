"""Render the alert rules from their templates and one table of numbers: ``python -m scripts.alerts``.

``--thresholds FILE`` takes another table, ``--output FOLDER`` writes elsewhere. A placeholder is ``@name@`` for a value
as it stands, or ``@name.seconds@`` for a duration in seconds. A name that the table does not have, or a value that no
template uses, is an error and nothing is written.

A line ``HAPPENED(counter, window, memory)`` becomes the expression for how often a counter was raised within a window,
without those that were not. ``increase()`` alone does not see a counter that was above 0 already when it was first
scraped, or that grew while it was not: both are told by what was last seen of it, within the memory, before the window.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "deploy/prometheus"
TEMPLATES: Final = FOLDER / "templates"
THRESHOLDS: Final = FOLDER / "thresholds.toml"
RULES: Final = FOLDER / "rules"
NOBODYS: Final = "https://git.example.com/"
HEADER: Final = "# Made by `python -m scripts.alerts` from templates/{name} and thresholds.toml: change those.\n"

_PLACEHOLDER: Final = re.compile(r"@([a-z_]+)(\.seconds)?@")
_HAPPENED: Final = re.compile(r"^( *)HAPPENED\((\w+(?:\{[^{}]*\})?), (\w+), (\w+)\)$", re.MULTILINE)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(?:[0-9]+[smhdw])+")

Values = Mapping[str, str]


class Unusable(ValueError):
    """The table and the templates do not fit; the message says where."""


def seconds(duration: str) -> int:
    """Return the seconds of a Prometheus duration such as ``90s``, ``1h30m`` or ``7d``."""
    if _DURATION.fullmatch(duration) is None:
        raise Unusable(f"{duration!r} is no duration")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", duration))


def read(file: Path) -> dict[str, str]:
    """Return the values of a table by name, whatever section they stand in."""
    values: dict[str, str] = {}
    for section, entries in tomllib.loads(file.read_text(encoding="utf-8")).items():
        for name, value in entries.items():
            if name in values:
                raise Unusable(f"{name} stands there twice, the second time in [{section}]")
            values[name] = str(value)
    return values


def render(values: Values, templates: Path = TEMPLATES) -> dict[str, str]:
    """Return the text of each rules file by its name."""
    used: set[str] = set()

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise Unusable(f"no value for {match[0]}")
        used.add(name)
        return str(seconds(values[name])) if match[2] else values[name]

    files = {}
    for file in sorted(templates.glob("*.yml")):
        text = _PLACEHOLDER.sub(value_of, file.read_text(encoding="utf-8"))
        files[file.name] = HEADER.format(name=file.name) + _HAPPENED.sub(_happened, text)
        if "HAPPENED(" in files[file.name]:
            raise Unusable(f"{file.name} has a HAPPENED that cannot be read")
    if unused := set(values) - used:
        raise Unusable(f"no template uses {', '.join(sorted(unused))}")
    return files


def _happened(match: re.Match[str]) -> str:
    indent, counter, window, memory = match.groups()
    before = f"last_over_time({counter}[{memory}] offset {window})"
    lines = (
        f"increase({counter}[{window}]) > 0",
        f"or {counter} - {before} > 0",
        f"or ({counter} > 0 unless {counter} >= {before})",
    )
    return "\n".join(indent + line for line in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Render the alert rules.")
    parser.add_argument("--thresholds", type=Path, default=THRESHOLDS, help="the table; default %(default)s")
    parser.add_argument("--output", type=Path, default=RULES, help="the folder to write to; default %(default)s")
    given = parser.parse_args(arguments)
    try:
        values = read(given.thresholds)
        files = render(values)
    except (OSError, ValueError) as error:
        print(f"{given.thresholds}: {error}", file=sys.stderr)
        return 1
    given.output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (given.output / name).write_text(text, encoding="utf-8")
    if given.output != RULES and values["runbooks"].startswith(NOBODYS):
        print(
            f"{given.thresholds}: alerts will link to runbooks at {NOBODYS}, where nothing is; "
            "say in `runbooks` where yours can be read",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
