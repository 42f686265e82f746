"""What the policy commands share: what policies are written against, files that are read, problems that are shown."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from relay.cli.context import fail, refuse
from relay.cli.options import checked_workspace
from relay.core.problem import Invalid
from relay.settings import Settings, SettingsError

if TYPE_CHECKING:
    from relay.catalog import Catalog
    from relay.policy.check import CatalogSchema
    from relay.policy.compiled import CompiledPolicies
    from relay.policy.reach import Reach
    from relay.policy.text import Problem

STANDARD_INPUT: Final = Path("-")


@dataclass(frozen=True, slots=True)
class Desk:
    """What policies of this installation are written against."""

    catalog: "Catalog"
    schema: "CatalogSchema"
    reach: "Reach"


def open_desk(settings: Settings) -> Desk:
    """Return the desk of an installation that need not exist yet, or end with status 1."""
    from relay.engine import build_catalog
    from relay.policy.installed import installed_reach, installed_schema

    try:
        catalog = build_catalog(settings, (settings.host, settings.port))
        return Desk(catalog, installed_schema(catalog, settings), installed_reach(settings))
    except SettingsError as error:
        refuse(error)


Workspace = Annotated[str, typer.Option("--workspace", "-w", callback=checked_workspace, help="Of this workspace.")]
MaybeWorkspace = Annotated[
    str | None, typer.Option("--workspace", "-w", callback=checked_workspace, help="Of this workspace.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Policies; - is standard input.")]


def read_policies(path: Path) -> str:
    """Return the text of a file of policies, or standard input's for ``-``; ends with status 1 as :func:`read_text`."""
    from relay.policy.text import MAX_BYTES

    return read_text(path, MAX_BYTES)


def read_text(path: Path, limit: int) -> str:
    """Return a file's text, or standard input's for ``-``; ends with status 1 when it is too large or no UTF-8."""
    try:
        if path == STANDARD_INPUT:
            raw = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as stream:
                raw = stream.read(limit + 1)
        if len(raw) > limit:
            fail(f"{path}: longer than {limit // 1024} KiB")
        return raw.decode()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        fail(f"{path}: this is not UTF-8")


def compiled(text: str, name: str, schema: "CatalogSchema") -> "CompiledPolicies":
    """Return a text's policies, or end with status 1 and ``name:line:column: reason`` for each problem."""
    from relay.policy.checked import check

    found = check(text, schema)
    if found.policies is None:
        show_problems(name, found.problems)
        raise typer.Exit(1)
    return found.policies


def show_problems(name: str, problems: "tuple[Problem, ...]") -> None:
    """Print problems as compilers do, to standard error."""
    for problem in problems:
        typer.echo(f"{name}:{problem.line}:{problem.column}: {problem.reason}", err=True)


def end_refused(name: str, refused: Invalid) -> NoReturn:
    """End with status 1 and a line for each thing that is wrong."""
    errors = refused.extensions.get("errors", [])
    lines = [
        f"{name}:{error['line']}:{error['column']}: {error['reason']}" if "line" in error else error["message"]
        for error in errors
    ]
    fail("\n".join(lines) or refused.detail)


def print_json(value: dict[str, Any]) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
