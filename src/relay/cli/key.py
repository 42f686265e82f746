"""``relay key``: make, list, rotate, restrict and revoke API keys, beside a running server or without one."""

from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.cli import key_life
from relay.cli.context import fail, with_house
from relay.cli.key_shared import (
    Json,
    KeyId,
    Quiet,
    key_id_argument,
    name_option,
    print_json,
    require_one_form,
    scopes_option,
    show_new,
)
from relay.cli.networks import checked_networks, networks_or_any, show_networks
from relay.cli.options import OnlyWorkspace, checked_workspace
from relay.core.clock import iso, now
from relay.core.ids import new_id
from relay.core.principal import KeyKind
from relay.core.problem import Conflict
from relay.identity import rules
from relay.identity.operator import operator
from relay.identity.view import key_view, status_of
from relay.store.api_keys import ApiKeyRecord, find_by_id

if TYPE_CHECKING:
    from relay.house import House
    from relay.identity.issue import Rotation

_PAGE: Final = 200
_COLUMNS: Final = ("id", "workspace", "kind", "name", "key", "scopes", "expires", "status")

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate, weaken, quarantine and revoke API keys.")


def _parent(value: str | None) -> str | None:
    return None if value is None else key_id_argument(value)


@app.command("create")
def create(
    *,
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", callback=checked_workspace, help="Made if it does not exist yet.")
    ],
    scope: Annotated[
        list[str],
        typer.Option("--scope", "-s", callback=scopes_option, help="A scope or a bundle; give it once for each."),
    ],
    kind: Annotated[KeyKind, typer.Option(help="Who will hold the key.")] = "agent",
    expires: Annotated[
        int, typer.Option("--expires", min=1, max=rules.MAX_DAYS, metavar="DAYS", help="Lifetime in days.")
    ] = rules.DEFAULT_DAYS,
    name: Annotated[str, typer.Option(callback=name_option, help="What the key is for.")] = "",
    network: Annotated[
        list[str] | None,
        typer.Option("--network", callback=checked_networks, help="It may be used from; give it once for each."),
    ] = None,
    honey: Annotated[
        bool, typer.Option("--honey", help="A trap: it opens nothing, and its use raises an alarm.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    require_one_form(quiet, as_json)

    async def make(house: "House") -> tuple[ApiKeyRecord, str]:
        return await house.api_keys.create(
            operator(),
            workspace=workspace,
            kind=kind,
            scopes=scope,
            name=name,
            expires_days=expires,
            allowed_networks=network or (),
            honey=honey,
            request_id=new_id("req"),
        )

    record, key_text = with_house(make, create=True)
    show_new(record, key_text, quiet=quiet, as_json=as_json)


@app.command("list")
def list_keys(
    *,
    workspace: OnlyWorkspace = None,
    children: Annotated[
        str | None,
        typer.Option("--children", metavar="ID", callback=_parent, help="The child tokens of this key instead."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List keys, newest first, ended ones included; never the keys themselves."""

    async def every(house: "House") -> list[ApiKeyRecord]:
        found: list[ApiKeyRecord] = []
        cursor: str | None = None
        where = await _workspace_of(house, children) if children is not None else workspace
        while True:
            if where is None:
                page = await house.api_keys.list_everywhere(cursor=cursor, limit=_PAGE)
            else:
                page = await house.api_keys.list(where, cursor=cursor, limit=_PAGE, parent=children)
            found.extend(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return found

    records = with_house(every)
    moment = now()
    if as_json:
        print_json({"items": [key_view(record, moment, traps_shown=True) for record in records]})
        return
    _show_table([_row(record, moment) for record in records])


@app.command("rotate")
def rotate(
    key_id: KeyId,
    *,
    overlap: Annotated[
        int,
        typer.Option(
            min=0, max=rules.MAX_OVERLAP_HOURS, metavar="HOURS", help="How long the old key lives on; 0 ends it now."
        ),
    ] = rules.DEFAULT_OVERLAP_HOURS,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Replace a key by a successor with the same kind, scopes, name and lifetime."""
    require_one_form(quiet, as_json)

    async def follow(house: "House") -> "Rotation":
        try:
            return await house.api_keys.rotate(operator(), key_id, overlap_hours=overlap, request_id=new_id("req"))
        except Conflict as conflict:
            successor = conflict.extensions.get("successor_id")
            fail(conflict.detail + (f" Its successor is {successor}." if successor else ""))

    made = with_house(follow)
    ends = iso(made.predecessor.expires_at)
    more = {"predecessor_id": made.predecessor.id, "predecessor_expires_at": ends}
    show_new(made.record, made.key_text, quiet=quiet, as_json=as_json, more=more)


@app.command("revoke")
def revoke(key_id: KeyId, *, as_json: Json = False) -> None:
    """End a key now; a running server notices within a second."""
    record = with_house(lambda house: house.api_keys.revoke(operator(), key_id, request_id=new_id("req")))
    assert record.revoked_at is not None
    if as_json:
        print_json({"id": record.id, "revoked_at": iso(record.revoked_at)})
    else:
        typer.echo(f"{record.id} revoked {iso(record.revoked_at)}")


@app.command("allow")
def allow(
    key_id: KeyId,
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NETWORK]...", callback=checked_networks, help="Addresses or networks, 203.0.113.0/24."
        ),
    ] = None,
    *,
    anywhere: Annotated[bool, typer.Option("--any", help="From any network.")] = False,
    as_json: Json = False,
) -> None:
    """Set the networks that a key may be used from; a running server notices within a second.

    Its workspace's list holds as well: both must have the caller's address.
    """
    wanted = networks_or_any(networks, anywhere)
    record = with_house(
        lambda house: house.api_keys.restrict_key(operator(), key_id, wanted, address=None, request_id=new_id("req"))
    )
    show_networks(record.id, record.allowed_networks, as_json)


async def _workspace_of(house: "House", key_id: str) -> str:
    found = await find_by_id(house.database.reader, key_id)
    if found is None:
        fail("There is no such key.")
    return found.record.workspace_id


def _row(record: ApiKeyRecord, moment: int) -> tuple[str, ...]:
    return (
        record.id,
        record.workspace_id,
        record.kind,
        record.name,
        f"{record.prefix}…{record.last4}",
        " ".join(record.scopes),
        iso(record.expires_at)[:16] + "Z",
        status_of(record, moment) + (" (honey)" if record.honey else ""),
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


key_life.register(app)
