"""``relay doctor``: what would stop this installation from being exposed, with the fix for each."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from relay.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from relay.doctor.check import Report

_MARKS: Final = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "skip": "skip"}


def doctor(
    *,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask the deployment at this address from outside instead, without any key."),
    ] = None,
    burst: Annotated[
        bool, typer.Option("--burst", help="With --url: send up to 120 requests at once, to see a limit refuse.")
    ] = False,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="With --url: PEM file of the authorities that may vouch for it."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="IP", help="With --url: connect there in place of what the name resolves to."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check what an attacker would look for, and print what to do about it. Exit status 1 when a check fails.

    Nothing is changed, and no key is needed; works beside a running server, before the first start, and while the
    database is away.
    """
    configure_logging("critical")  # what fails is said once, as a finding
    if url is None and (burst or ca_file is not None or address is not None):
        raise typer.BadParameter("--burst, --ca-file and --address go with --url.")
    report = _local() if url is None else _outside(url, ca_file, address, burst=burst)
    _print_json(report, strict) if as_json else _print(report)
    raise typer.Exit(0 if report.ok(strict=strict) else 1)


def _local() -> "Report":
    from relay.doctor.check import judge_all
    from relay.doctor.gather import gather
    from relay.doctor.registry import CHECKS

    return judge_all(CHECKS, asyncio.run(gather()))


def _outside(url: str, ca_file: Path | None, address: str | None, *, burst: bool) -> "Report":
    from relay.doctor.check import judge_all
    from relay.doctor.outside.ask import ask
    from relay.doctor.outside.registry import CHECKS
    from relay.egress.target import BadTarget, parse_target

    try:
        parse_target(url)
        parts = urlsplit(url)
    except BadTarget as error:
        raise typer.BadParameter(str(error)) from None
    if parts.path not in ("", "/") or parts.query:
        raise typer.BadParameter("--url is the address of a deployment: it has no path and no query.")
    return judge_all(CHECKS, asyncio.run(ask(url, ca_file=ca_file, address=address, burst=burst)))


def _print_json(report: "Report", strict: bool) -> None:
    view = {"ok": report.ok(strict=strict), "findings": [asdict(finding) for finding in report.findings]}
    typer.echo(json.dumps(view, indent=2))  # in ASCII: a terminal obeys more than the characters that JSON escapes


def _print(report: "Report") -> None:
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        typer.echo(f"{_MARKS[finding.status]}  {finding.name:<{width}}  {_line(finding.detail or finding.title)}")
        if finding.status in ("fail", "warn"):
            typer.echo(f"      {'':<{width}}  fix: {finding.fix}")
    numbers = [
        f"{report.count('pass')} passed",
        f"{report.count('warn')} to think about",
        f"{report.count('fail')} failed",
    ]
    typer.echo("\n" + ", ".join(numbers) + (f", {report.count('skip')} not looked at" if report.count("skip") else ""))


def _line(text: str) -> str:
    # A file's name may hold anything, and a terminal obeys some of it.
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
