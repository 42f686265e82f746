"""``relay kill-switch``: stop what runs, and let it run again, beside a running server or without one."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from relay.cli.context import fail, with_house
from relay.cli.key_shared import key_id_option
from relay.core.ids import new_id
from relay.identity.operator import operator
from relay.policy.installed import installed_services
from relay.policy.kill_switch import KillSwitch
from relay.policy.stops import stop_view
from relay.store.api_keys import find_by_id
from relay.store.kill_switch import EVERYWHERE, Stop, StopKind

if TYPE_CHECKING:
    from relay.house import House

_COLUMNS: Final = ("workspace", "scope", "since", "by", "reason")

app = typer.Typer(no_args_is_help=True, help="Stop everything, a workspace, a key, an action or a connector.")

_NO_REASON: Final = "The operator gave no reason."
_Reason = Annotated[str, typer.Option(help="Why; it is recorded, and shown to whoever is stopped.")]
_Everything = Annotated[
    bool, typer.Option("--everything", help="Every action in every workspace; also meant when nothing is named.")
]
_Workspace = Annotated[
    str | None,
    typer.Option("--workspace", "-w", help="This workspace; with --action or --connector, that in this one only."),
]
_Key = Annotated[
    str | None,
    typer.Option(
        "--key", callback=key_id_option, help="This key, key_…, and every key that it made; chat: the chat's."
    ),
]
_Action = Annotated[str | None, typer.Option("--action", help="This action, in every workspace unless one is given.")]
_Connector = Annotated[
    str | None, typer.Option("--connector", help="This connector, in every workspace unless one is given.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("on")
def turn_on(
    *,
    everything: _Everything = False,
    workspace: _Workspace = None,
    key: _Key = None,
    action: _Action = None,
    connector: _Connector = None,
    reason: _Reason = _NO_REASON,
    as_json: _Json = False,
) -> None:
    """Stop something: running servers begin nothing of it any more, and what waits is cancelled."""
    _turn(True, _asked(everything, workspace, key, action, connector), reason, as_json)


@app.command("off")
def turn_off(
    *,
    everything: _Everything = False,
    workspace: _Workspace = None,
    key: _Key = None,
    action: _Action = None,
    connector: _Connector = None,
    reason: _Reason = _NO_REASON,
    as_json: _Json = False,
) -> None:
    """Let something run again that was stopped; what was cancelled stays cancelled."""
    _turn(False, _asked(everything, workspace, key, action, connector), reason, as_json)


@app.command("list")
def list_stops(*, as_json: _Json = False) -> None:
    """List what is stopped."""
    _show(with_house(lambda house: _kill_switch(house).on_everywhere()), as_json)


def _asked(
    everything: bool, workspace: str | None, key: str | None, action: str | None, connector: str | None
) -> tuple[StopKind, str, str]:
    """Return kind, subject and workspace; the workspace of a key is for the database to say."""
    given: list[tuple[StopKind, str | None]] = [("key", key), ("action", action), ("connector", connector)]
    named = [(kind, value) for kind, value in given if value is not None]
    if key is not None and key.startswith("relay_sk_"):  # never repeated: it may be a living key
        raise typer.BadParameter("give the id (key_…); `relay key list` shows it beside the last four characters.")
    if everything + len(named) > 1:
        raise typer.BadParameter("name one thing: --everything, --workspace, --key, --action or --connector.")
    if workspace is not None and (everything or key is not None):
        raise typer.BadParameter("--workspace stands alone, or goes with --action or --connector only.")
    if named:
        return named[0][0], named[0][1], workspace or EVERYWHERE
    if workspace is not None:
        return "workspace", workspace, workspace
    return "everything", "", EVERYWHERE


def _turn(on: bool, asked: tuple[StopKind, str, str], reason: str, as_json: bool) -> None:
    kind, subject, workspace = asked
    nothing: list[bool] = []

    async def turn(house: "House") -> list[Stop]:
        kill_switch, where = _kill_switch(house), workspace
        if kind == "key":
            found = await find_by_id(house.database.reader, subject)
            where = found.record.workspace_id if found is not None else EVERYWHERE
        before = await kill_switch.on_everywhere()
        await kill_switch.turn(
            operator(),
            on=on,
            kind=kind,
            subject=subject,
            workspace=where,
            reason=reason,
            request_id=new_id("req"),
        )
        after = await kill_switch.on_everywhere()
        if not on and after == before:
            nothing.append(True)
        return after

    _show(with_house(turn), as_json)
    if nothing:
        fail("that was not stopped by the operator, and nothing has changed; say off with the options of on")


def _kill_switch(house: "House") -> KillSwitch:
    from relay.engine import build_catalog  # not at the top: it brings the whole server

    settings = house.settings
    catalog = build_catalog(settings, (settings.host, settings.port))
    return KillSwitch(house.database, catalog, installed_services(settings))


def _show(stops: Sequence[Stop], as_json: bool) -> None:
    views = [stop_view(stop) for stop in stops]
    if as_json:
        typer.echo(json.dumps({"items": views}, ensure_ascii=False, indent=2))
        return
    if not views:
        typer.echo("nothing is stopped", err=True)
        return
    typer.echo("\t".join(_COLUMNS))
    for view in views:
        ((kind, subject),) = view["scope"].items()
        scope = kind if subject is True else f"{kind} {subject}"
        typer.echo("\t".join((view["workspace"] or "*", scope, view["since"], view["by"], view["reason"])))
