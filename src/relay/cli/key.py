"""``relay key``: make, list, rotate, restrict and revoke API keys, beside a running server or without one."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.cli.context import fail, with_house
from relay.cli.networks import checked_networks, networks_or_any, show_networks
from relay.core.clock import iso, now
from relay.core.ids import new_id
from relay.core.principal import KeyKind, expand_scopes
from relay.core.problem import Conflict, Invalid
from relay.identity import rules
from relay.identity.operator import operator
from relay.identity.view import key_view, status_of
from relay.store.api_keys import ApiKeyRecord
from relay.store.workspaces import is_workspace_id

if TYPE_CHECKING:
    from relay.house import House
    from relay.identity.issue import Rotation

_PAGE: Final = 200
_COLUMNS: Final = ("id", "workspace", "kind", "name", "key", "scopes", "expires", "status")

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate, restrict and revoke API keys.")


def _workspace(value: str | None) -> str | None:
    if value is not None and not is_workspace_id(value):
        raise typer.BadParameter("1 to 63 lower-case letters, digits and hyphens, no hyphen first.")
    return value


def _scopes(values: list[str]) -> list[str]:
    try:
        expand_scopes(values)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    return values


def _name(value: str) -> str:
    try:
        return rules.checked_name(value)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None


def _key_id(value: str) -> str:
    if value.startswith("relay_sk_"):  # never repeated: it may be a living key
        raise typer.BadParameter("give the id (key_…); `relay key list` shows it beside the last four characters.")
    return value


_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the key alone.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_KeyId = Annotated[str, typer.Argument(metavar="ID", callback=_key_id, help="The key's id, key_…; not the key itself.")]


@app.command("create")
def create(
    *,
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", callback=_workspace, help="Made if it does not exist yet.")
    ],
    scope: Annotated[
        list[str], typer.Option("--scope", "-s", callback=_scopes, help="A scope or a bundle; give it once for each.")
    ],
    kind: Annotated[KeyKind, typer.Option(help="Who will hold the key.")] = "agent",
    expires: Annotated[
        int, typer.Option("--expires", min=1, max=rules.MAX_DAYS, metavar="DAYS", help="Lifetime in days.")
    ] = rules.DEFAULT_DAYS,
    name: Annotated[str, typer.Option(callback=_name, help="What the key is for.")] = "",
    network: Annotated[
        list[str] | None,
        typer.Option("--network", callback=checked_networks, help="It may be used from; give it once for each."),
    ] = None,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> None:
    """Make a key and show it, this once."""
    _require_one_form(quiet, as_json)

    async def make(house: "House") -> tuple[ApiKeyRecord, str]:
        return await house.api_keys.create(
            operator(),
            workspace=workspace,
            kind=kind,
            scopes=scope,
            name=name,
            expires_days=expires,
            allowed_networks=network or (),
            request_id=new_id("req"),
        )

    record, key_text = with_house(make, create=True)
    _show_new(record, key_text, quiet=quiet, as_json=as_json)


@app.command("list")
def list_keys(
    *,
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-w", callback=_workspace, help="Of this workspace only.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """List keys, newest first, ended ones included; never the keys themselves."""

    async def every(house: "House") -> list[ApiKeyRecord]:
        found: list[ApiKeyRecord] = []
        cursor: str | None = None
        while True:
            if workspace is None:
                page = await house.api_keys.list_everywhere(cursor=cursor, limit=_PAGE)
            else:
                page = await house.api_keys.list(workspace, cursor=cursor, limit=_PAGE)
            found.extend(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return found

    records = with_house(every)
    moment = now()
    if as_json:
        _print_json({"items": [key_view(record, moment) for record in records]})
        return
    _show_table([_row(record, moment) for record in records])


@app.command("rotate")
def rotate(
    key_id: _KeyId,
    *,
    overlap: Annotated[
        int,
        typer.Option(
            min=0, max=rules.MAX_OVERLAP_HOURS, metavar="HOURS", help="How long the old key lives on; 0 ends it now."
        ),
    ] = rules.DEFAULT_OVERLAP_HOURS,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> None:
    """Replace a key by a successor with the same kind, scopes, name and lifetime."""
    _require_one_form(quiet, as_json)

    async def follow(house: "House") -> "Rotation":
        try:
            return await house.api_keys.rotate(operator(), key_id, overlap_hours=overlap, request_id=new_id("req"))
        except Conflict as conflict:
            successor = conflict.extensions.get("successor_id")
            fail(conflict.detail + (f" Its successor is {successor}." if successor else ""))

    made = with_house(follow)
    ends = iso(made.predecessor.expires_at)
    more = {"predecessor_id": made.predecessor.id, "predecessor_expires_at": ends}
    _show_new(made.record, made.key_text, quiet=quiet, as_json=as_json, more=more)


@app.command("revoke")
def revoke(key_id: _KeyId, *, as_json: _Json = False) -> None:
    """End a key now; a running server notices within a second."""
    record = with_house(lambda house: house.api_keys.revoke(operator(), key_id, request_id=new_id("req")))
    assert record.revoked_at is not None
    if as_json:
        _print_json({"id": record.id, "revoked_at": iso(record.revoked_at)})
    else:
        typer.echo(f"{record.id} revoked {iso(record.revoked_at)}")


@app.command("allow")
def allow(
    key_id: _KeyId,
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NETWORK]...", callback=checked_networks, help="Addresses or networks, 203.0.113.0/24."
        ),
    ] = None,
    *,
    anywhere: Annotated[bool, typer.Option("--any", help="From any network.")] = False,
    as_json: _Json = False,
) -> None:
    """Set the networks that a key may be used from; a running server notices within a second.

    Its workspace's list holds as well: both must have the caller's address.
    """
    wanted = networks_or_any(networks, anywhere)
    record = with_house(
        lambda house: house.api_keys.restrict_key(operator(), key_id, wanted, address=None, request_id=new_id("req"))
    )
    show_networks(record.id, record.allowed_networks, as_json)


def _require_one_form(quiet: bool, as_json: bool) -> None:
    if quiet and as_json:
        raise typer.BadParameter("--quiet and --json exclude each other.")


def _show_new(
    record: ApiKeyRecord, key_text: str, *, quiet: bool, as_json: bool, more: dict[str, str] | None = None
) -> None:
    if quiet:
        typer.echo(key_text)
        return
    view = key_view(record, now())
    if as_json:
        _print_json({**view, "key": key_text, **(more or {})})
        return
    facts = {name: view[name] for name in ("id", "workspace", "kind", "name", "scopes", "expires_at")}
    for label, value in {"key": key_text, **facts, **(more or {})}.items():
        typer.echo(f"{label + ':':<24}{' '.join(value) if isinstance(value, list) else value}")
    typer.echo("The key is shown this once and kept nowhere.", err=True)


def _row(record: ApiKeyRecord, moment: int) -> tuple[str, ...]:
    return (
        record.id,
        record.workspace_id,
        record.kind,
        record.name,
        f"{record.prefix}…{record.last4}",
        " ".join(record.scopes),
        iso(record.expires_at)[:16] + "Z",
        status_of(record, moment),
    )


def _show_table(rows: list[tuple[str, ...]]) -> None:
    """Print a table to a terminal, tab-separated lines to anything else."""
    console = Console()
    if not console.is_terminal:
        for row in (_COLUMNS, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))  # as text: a name in square brackets is no markup
    console.print(table)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
