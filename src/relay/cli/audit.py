"""``relay audit``: read, verify, export and anchor the audit log, beside a running server or without one."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.cli.context import fail, with_house
from relay.cli.options import OnlyWorkspace
from relay.core.clock import iso, parse_iso
from relay.core.ids import new_id

if TYPE_CHECKING:
    from relay.audit.log import Entry, Filters
    from relay.house import House

_MAX_NOTE_BYTES: Final = 65_536
_COLUMNS: Final = ("seq", "occurred_at", "workspace_id", "principal", "tag", "action", "outcome", "target")

app = typer.Typer(no_args_is_help=True, help="Read, verify, export and anchor the audit log.")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _time(value: str | None) -> str | None:
    try:
        if value is not None:
            parse_iso(value)
    except ValueError:
        raise typer.BadParameter("an RFC 3339 time with its offset, for instance 2030-01-02T03:04:05Z.") from None
    return value


def _tag(value: str | None) -> str | None:
    from relay.audit.tags import TAGS

    if value is None or value in TAGS:
        return value
    if value.endswith("*") and any(tag.startswith(value[:-1]) for tag in TAGS):
        return value
    raise typer.BadParameter(f"unknown tag; known are {', '.join(sorted(TAGS))}.")


_Time = Annotated[str | None, typer.Option(callback=_time, metavar="TIME", help="An RFC 3339 time.")]


@app.command("list")
def list_events(
    *,
    workspace: OnlyWorkspace = None,
    tag: Annotated[str | None, typer.Option(callback=_tag, help="A tag, or its beginning followed by *.")] = None,
    principal: Annotated[str | None, typer.Option(help="Who did it.")] = None,
    action: Annotated[str | None, typer.Option(help="The action's name.")] = None,
    outcome: Annotated[str | None, typer.Option(help="What became of it.")] = None,
    since: _Time = None,
    until: _Time = None,
    q: Annotated[str | None, typer.Option(help="A text in ids, names or tags.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended.")] = None,
    as_json: _Json = False,
) -> None:
    """List events, newest first; the installation's own too unless a workspace is named."""
    from relay.audit.log import Filters, parse_cursor
    from relay.audit.view import entry_view

    try:
        filters = Filters(
            tag=tag,
            principal=principal,
            action=action,
            outcome=outcome,
            since=parse_iso(since) if since else None,
            until=parse_iso(until) if until else None,
            q=q,
        )
        if cursor is not None:
            parse_cursor(cursor)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    entries, following = with_house(_reading(workspace, filters, limit, cursor))
    if as_json:
        _print_json({"items": [entry_view(entry) for entry in entries], "next_cursor": following})
        return
    views = map(entry_view, entries)
    _show_table(_COLUMNS, [tuple(str(view[name]) for name in _COLUMNS) for view in views])
    if following is not None:
        typer.echo(f"There is more: --cursor {following}", err=True)


def _reading(
    workspace: str | None, filters: "Filters", limit: int, cursor: str | None
) -> "Callable[[House], Awaitable[tuple[list[Entry], str | None]]]":
    from relay.audit.log import MAX_LIMIT

    async def read(house: "House") -> "tuple[list[Entry], str | None]":
        scoped = house.audit_log.of(workspace) if workspace else house.audit_log.everything()
        found: list[Entry] = []
        following = cursor
        while True:
            page = await scoped.page(filters, limit=min(limit - len(found), MAX_LIMIT), cursor=following)
            found.extend(page.entries)
            following = page.next_cursor
            if following is None or len(found) == limit:
                return found, following

    return read


@app.command("verify")
def verify(
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="An export; needs no server.")
    ] = None,
    *,
    head: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A signed head from earlier, kept elsewhere.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="VKEY", help="For FILE: the key that must have signed it. Else: an earlier key, too."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Verify every event of the log, or of an exported FILE without database and keys. Exit status 1 when it fails."""
    note = _read_note(head) if head is not None else None
    if file is not None:
        if key and len(key) > 1:
            raise typer.BadParameter("a FILE is signed with one key.")
        _verify_file(file, note, key[0] if key else None, as_json)
    else:
        _verify_database(note, tuple(key or ()), as_json)


def _read_note(path: Path) -> str:
    from relay.audit.notes import from_text

    with path.open("rb") as stream:
        raw = stream.read(_MAX_NOTE_BYTES)
    return from_text(raw.decode(errors="replace"))


def _verify_file(file: Path, note: str | None, key: str | None, as_json: bool) -> None:
    from relay.audit.offline import verify_export

    with file.open("rb") as stream:
        found = verify_export(stream, key=key, head=note)
    if as_json:
        view = {"ok": found.ok, "size": found.size, "head": found.head, "origin": found.origin, "vkey": found.vkey}
        problem = {} if found.ok else {"problem": {"line": found.line, "reason": found.reason}}
        _print_json({**view, "pinned": found.pinned, **problem})
    elif found.ok:
        typer.echo(f"ok: {found.size} events of {found.origin}, head {found.head}")
        if not found.pinned:
            typer.echo(
                "The signature was checked with the key in the file only, which whoever made the file chose; "
                f"give the key that you know with --key. The file names\n{found.vkey}"
            )
    else:
        typer.echo(f"NOT ok: line {found.line}: {found.reason}")
    if not found.ok:
        raise typer.Exit(1)


def _verify_database(note: str | None, keys: tuple[str, ...], as_json: bool) -> None:
    from relay.audit.verify import verify_log
    from relay.audit.view import verification_view

    found = with_house(
        lambda house: verify_log(house.database.reader, house.heads.keys.trust(note, *keys), envelopes=house.envelopes)
    )
    if as_json:
        _print_json(verification_view(found))
    elif found.finding is None:
        typer.echo(f"ok: {found.size} events, head {found.head}")
        typer.echo(f"{found.heads} signed heads agree; {found.details} details opened, {found.details_erased} erased")
    else:
        typer.echo(f"NOT ok: event {found.finding.seq}: {found.finding.reason}")
    if not found.ok:
        raise typer.Exit(1)


@app.command("export")
def export(
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", dir_okay=False, help="Else standard output.")] = None,
) -> None:
    """Write the whole log as JSON Lines with a signed head at its end, for ``relay audit verify FILE``.

    Details are left out. A file appears under its name only when it is complete, readable by its owner alone.
    """
    if output is None:
        with_house(_exporting(lambda text: _discard(sys.stdout.buffer.write(text.encode()))))
        return
    part = output.with_name(output.name + ".part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as stream:
            vkey = with_house(_exporting(lambda text: _discard(stream.write(text.encode()))))
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(output)
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}")
    finally:
        part.unlink(missing_ok=True)
    typer.echo(f"{output} is written. Keep the key that verifies it elsewhere:\n{vkey}", err=True)


def _exporting(write: Callable[[str], None]) -> "Callable[[House], Awaitable[str]]":
    from relay.audit.chain import ChainBroken
    from relay.audit.export import export_log
    from relay.audit.heads import HeadContradicted

    async def run(house: "House") -> str:
        try:
            async for piece in export_log(house.database.reader, house.heads):
                write(piece)
        except (ChainBroken, HeadContradicted) as error:
            fail(f"the log does not hold, and nothing was signed: {error}")
        return house.heads.signer.vkey

    return run


def _discard(_: object) -> None:
    return


@app.command("head")
def head(*, as_json: _Json = False) -> None:
    """Sign the log's head now and print it, to be kept where nobody who owns the database can change it."""
    from relay.audit.heads import HeadContradicted

    async def sign(house: "House") -> tuple[str | None, str]:
        try:
            return await house.heads.sign_now(), house.heads.signer.vkey
        except HeadContradicted as error:
            fail(f"the log does not hold, and nothing was signed: {error}")

    note, vkey = with_house(sign)
    if note is None:
        fail("the log is empty")
    if as_json:
        _print_json({"note": note, "vkey": vkey})
    else:
        typer.echo(note, nl=False)


@app.command("failures")
def failures(*, limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50, as_json: _Json = False) -> None:
    """Show how often strangers were refused, by minute, reason, route and block of addresses, newest first."""
    from relay.audit.anonymous import failure_counts

    counts = with_house(lambda house: failure_counts(house.database.reader, limit))
    columns = ("minute", "count", "reason", "route", "block")
    rows = [(iso(found.minute), found.count, found.reason, found.route, found.block) for found in counts]
    if as_json:
        _print_json({"items": [dict(zip(columns, row, strict=True)) for row in rows]})
        return
    _show_table(columns, [tuple(map(str, row)) for row in rows])


@app.command("erase")
def erase(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id, aud_….")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase the details of one event for ever. The event stays, and the erasing is recorded."""
    from relay.audit.erase import NothingToErase, erase_details

    if not yes:
        typer.confirm(f"Erase the details of {event_id} for ever?", abort=True)

    async def run(house: "House") -> None:
        try:
            await erase_details(house.database, event_id, principal="operator", request_id=new_id("req"))
        except NothingToErase as error:
            fail(str(error))

    with_house(run)
    typer.echo(f"the details of {event_id} are erased")


def _show_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table to a terminal, tab-separated lines to anything else."""
    console = Console()
    if not console.is_terminal:
        for row in (columns, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))  # as text: a name in square brackets is no markup
    console.print(table)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
