"""Reading the documentation as tests need it: pages, fences, headings, inline code, and what an example came to."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from relay.cli.main import app

TOP = Path(__file__).parents[1]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
EXECUTED = (
    "README.md",
    "docs/quickstart.md",
    "docs/DEVELOPMENT.md",
    "docs/policies.md",
    "docs/webhooks-receiving.md",
    "docs/budgets.md",
    "docs/kill-switch.md",
    "docs/metrics.md",
    "docs/chat.md",
)
ADDRESS = "http://127.0.0.1:8000"
ANYTHING = "…"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Fence:
    """A fenced block. ``shown`` is the text of the ``text`` fence right below it, None when there is none."""

    page: str
    line: int
    language: str
    text: str
    shown: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(TOP).as_posix()


def read(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8")


def fences(name: str) -> list[Fence]:
    """Return the fences of a page, in order."""
    text = read(name)
    found = list(_FENCE.finditer(text))
    below = {match.end(): text[match.end() :].lstrip("\n") for match in found}
    shown = {
        match.end(): nearest[2] if (nearest := _FENCE.match(below[match.end()])) and nearest[1] == "text" else None
        for match in found
    }
    return [
        Fence(name, text.count("\n", 0, match.start()) + 1, match[1], match[2], shown[match.end()]) for match in found
    ]


def prose(name: str) -> str:
    """Return a page without its fences, the lines where they were."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), read(name))


def headings(name: str) -> list[str]:
    return [match[2].strip() for match in _HEADING.finditer(prose(name))]


def anchors(name: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    plain = (re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading) for heading in headings(name))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def section(name: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of the same level."""
    parts = re.split(r"^## ", read(name), flags=re.MULTILINE)
    found = [part.partition("\n")[2] for part in parts if part.partition("\n")[0].strip() == heading]
    assert len(found) == 1, f"{name} has {len(found)} headings {heading!r}"
    return found[0]


def spans(name: str) -> list[str]:
    """Return the inline code of a page."""
    return _SPAN.findall(prose(name))


def rows(name: str) -> list[list[str]]:
    """Return the cells of every row of every table of a page."""
    lines = [line for line in prose(name).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def first_cells(name: str) -> set[str]:
    """Return the inline code in the first cells of a page's tables."""
    return {span for row in rows(name) for span in _SPAN.findall(row[0])}


def command_called(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command (or group) that words after ``relay`` lead to, and the words that are left for it."""
    command: Any = typer.main.get_command(app)
    left = list(words)
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    return command, left


def options_of(command: Any) -> set[str]:
    found = {name for item in command.params for name in item.opts if name.startswith("-")}
    return found | {"--help"}


def differs(shown: str, said: str) -> str | None:
    """Say where ``said`` is not what was shown, None when it is. Blanks do not count; ``…`` stands for anything."""
    wanted, given = ("".join(text.split()) for text in (shown, said))
    first, *rest = wanted.split(ANYTHING)
    if not given.startswith(first):
        return f"does not begin with {first!r}"
    place = len(first)
    for part in rest[:-1]:
        found = given.find(part, place)
        if found < 0:
            return f"lacks {part!r}"
        place = found + len(part)
    last = rest[-1] if rest else None
    if last is None:
        return None if len(given) == place else f"goes on with {given[place:]!r}"
    return None if given.endswith(last) and len(given) - len(last) >= place else f"does not end with {last!r}"


def checkout(folder: Path) -> Path:
    """Make a folder that looks to examples like a checkout after ``make run``."""
    command = folder / ".venv/bin/relay"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m relay "$@"\n')
    command.chmod(0o700)
    (folder / ".env.example").write_text(read(".env.example"))
    return folder


def run_examples(name: str, folder: Path, url: str, env: Mapping[str, str]) -> list[tuple[Fence, str]]:
    """Run the ``sh`` fences of a page in order, in one shell, and return what each printed.

    Fails when a command fails: nothing after it is run.
    """
    blocks = [fence for fence in fences(name) if fence.language == "sh"]
    mark = f"=== {os.urandom(8).hex()} ==="
    script = folder / "examples.sh"
    script.write_text("set -eu\n" + "".join(f"{block.text}\necho '{mark}'\n" for block in blocks).replace(ADDRESS, url))
    ended = subprocess.run(
        ["sh", script.name], cwd=folder, env=dict(env), capture_output=True, text=True, timeout=240, check=False
    )
    said = ended.stdout.split(mark + "\n")
    assert ended.returncode == 0, f"{blocks[len(said) - 1]}: {said[-1]}\n{ended.stderr}"
    return list(zip(blocks, said[:-1], strict=True))
