"""``relay workspace``: from which networks the keys of a workspace may be used."""

from typing import Annotated

import typer

from relay.cli.context import with_house
from relay.cli.networks import checked_networks, networks_or_any, show_networks
from relay.core.ids import new_id
from relay.identity.operator import operator

app = typer.Typer(no_args_is_help=True, help="Restrict workspaces to networks.")


@app.callback()
def workspace() -> None:
    """Restrict workspaces to networks."""


@app.command("allow")
def allow(
    name: Annotated[str, typer.Argument(metavar="WORKSPACE", help="The workspace's id.")],
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NETWORK]...", callback=checked_networks, help="Addresses or networks, 203.0.113.0/24."
        ),
    ] = None,
    *,
    anywhere: Annotated[bool, typer.Option("--any", help="From any network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Set the networks that a workspace's keys may be used from; a running server notices within a second."""
    wanted = networks_or_any(networks, anywhere)
    allowed = with_house(
        lambda house: house.api_keys.restrict_workspace(
            operator(), name, wanted, address=None, request_id=new_id("req")
        )
    )
    show_networks(name, allowed, as_json)
