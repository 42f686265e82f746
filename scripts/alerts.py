"""Render the alert rules from their templates and one table of numbers: ``python -m scripts.alerts``.

``--thresholds FILE`` takes another table, ``--output FOLDER`` writes elsewhere. A placeholder is ``@name@`` for a value
as it stands, or ``@name.seconds@`` for a duration in seconds. A name that the table does not have, or a value that no
template uses, is an error and nothing is written.
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
HEADER: Final = "# Made by `python -m scripts.alerts` from templates/{name} and thresholds.toml: change those.\n"

_PLACEHOLDER: Final = re.compile(r"@([a-z_]+)(\.seconds)?@")
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

    files = {
        file.name: HEADER.format(name=file.name) + _PLACEHOLDER.sub(value_of, file.read_text(encoding="utf-8"))
        for file in sorted(templates.glob("*.yml"))
    }
    if unused := set(values) - used:
        raise Unusable(f"no template uses {', '.join(sorted(unused))}")
    return files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Render the alert rules.")
    parser.add_argument("--thresholds", type=Path, default=THRESHOLDS, help="the table; default %(default)s")
    parser.add_argument("--output", type=Path, default=RULES, help="the folder to write to; default %(default)s")
    given = parser.parse_args(arguments)
    try:
        files = render(read(given.thresholds))
    except (OSError, ValueError) as error:
        print(f"{given.thresholds}: {error}", file=sys.stderr)
        return 1
    given.output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (given.output / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
