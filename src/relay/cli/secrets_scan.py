"""``relay secrets scan``: credentials in files, in what is staged, in a repository's history; revoking Relay's own."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from relay.cli.context import fail
from relay.telemetry.lines import plain

if TYPE_CHECKING:
    from relay.house import House
    from relay.scanning.scan import Finding, Report

_USAGE: Final = 2


def scan(
    path: Annotated[Path, typer.Argument(help="File or folder.", show_default="the current folder")] = Path(),
    history: Annotated[
        bool, typer.Option("--history", help="Every version of every file, and every message, that git has.")
    ] = False,
    staged: Annotated[bool, typer.Option("--staged", help="What the next commit would add.")] = False,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Revoke, without asking, keys of this installation that are found alive.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for credentials where none belong: keys of Relay, and those of many other services by their shape.

    Nothing that is found is printed or sent anywhere. In a git repository files that git ignores are left out. A
    made-up credential is left alone on a line that says `pragma: allowlist secret`, or with its fingerprint in
    `.relay-secrets-allow`. Keys of Relay that live in this installation are offered for revocation on a terminal.

    Ends with status 1 when something was found, or could not be looked at.
    """
    if history and staged:
        fail("give either --history or --staged, not both", _USAGE)
    report = _scanned(path, history=history, staged=staged)
    living = _living(report.findings)
    revoked = _revoke(living, ask=not revoke) if living and (revoke or _may_ask(as_json)) else set()
    if as_json:
        typer.echo(json.dumps(_as_json(report, set(living), revoked)))
    else:
        _print(report, set(living), revoked)
    if report.findings or report.left_out:
        raise typer.Exit(1)


def _scanned(path: Path, *, history: bool, staged: bool) -> "Report":
    from relay.scanning import scan as scanning
    from relay.scanning.git import NoRepository, UnreadableRepository

    look = scanning.scan_history if history else scanning.scan_staged if staged else scanning.scan_path
    try:
        return look(path)
    except NoRepository as error:
        fail(str(error), _USAGE)
    except UnreadableRepository as error:
        fail(plain(str(error)))
    except OSError as error:
        fail(f"{path}: {error.strerror}", _USAGE)


def _living(findings: "Sequence[Finding]") -> dict[str, str]:
    """Return ids and texts of the keys among the findings that live in this installation, where there is one."""
    texts = sorted({finding.relay_key for finding in findings if finding.relay_key})
    if not texts:
        return {}

    async def look(house: "House") -> dict[str, str]:
        found = {text: await house.api_keys.living_id(text) for text in texts}
        return {key_id: text for text, key_id in found.items() if key_id is not None}

    return _in_installation(look) or {}


def _revoke(living: dict[str, str], *, ask: bool) -> set[str]:
    if ask and not typer.confirm(f"Revoke {_counted(len(living), 'key')} of this installation now?", err=True):
        return set()

    async def revoke(house: "House") -> set[str]:
        return {key_id for key_id, text in living.items() if await house.api_keys.revoke_leaked(text, "scan")}

    return _in_installation(revoke) or set()


def _in_installation(function: Any) -> Any:
    """Run ``function`` on the installation that the settings describe; None, said aloud, when there is none."""
    from relay.house import NoInstallation, open_house
    from relay.settings import SettingsError, load_settings
    from relay.store.writer import StoreUnavailable
    from relay.telemetry.logs import configure_logging

    configure_logging("warning")

    async def run() -> Any:
        async with open_house(load_settings(), create=False) as house:
            return await function(house)

    try:
        return asyncio.run(run())
    except NoInstallation:
        return None
    except (SettingsError, StoreUnavailable) as error:
        typer.echo(f"whether keys of Relay live could not be found out: {error}", err=True)
        return None


def _may_ask(as_json: bool) -> bool:
    return not as_json and sys.stdin.isatty() and sys.stderr.isatty()


def _print(report: "Report", living: set[str], revoked: set[str]) -> None:
    for finding in report.findings:
        typer.echo(str(finding))
    for line in report.left_out:
        typer.echo(f"not scanned: {plain(line)}", err=True)
    for key_id in sorted(living):
        typer.echo(f"{key_id} {'is revoked now' if key_id in revoked else 'LIVES: relay key revoke ' + key_id}")
    typer.echo(f"{_counted(len(report.findings), 'finding')} in {_counted(report.scanned, 'text')}", err=True)


def _as_json(report: "Report", living: set[str], revoked: set[str]) -> dict[str, Any]:
    return {
        "findings": [
            {
                "path": finding.path,
                "line": finding.line,
                "kind": finding.kind,
                "fingerprint": finding.fingerprint,
                "commit": finding.commit,
            }
            for finding in report.findings
        ],
        "scanned": report.scanned,
        "left_out": report.left_out,
        "living_keys": sorted(living),
        "revoked_keys": sorted(revoked),
    }


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
