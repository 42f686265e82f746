"""Networks on the command line: ``NETWORK…`` or ``--any``, one of them."""

import json
from collections.abc import Sequence

import typer

from relay.core.problem import Invalid
from relay.identity import rules


def checked_networks(values: list[str] | None) -> list[str] | None:
    """Return networks in one form each; wrong usage for what is none."""
    try:
        return list(rules.checked_networks(values)) if values else None
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None


def networks_or_any(networks: list[str] | None, anywhere: bool) -> list[str]:
    """Return the networks, none for ``--any``; wrong usage unless it is one of both."""
    if bool(networks) == anywhere:
        raise typer.BadParameter("Give networks, or --any.")
    return networks or []


def show_networks(name: str, networks: Sequence[str], as_json: bool) -> None:
    """Print from where a key, or a workspace's keys, may be used."""
    if as_json:
        typer.echo(json.dumps({"id": name, "allowed_networks": list(networks)}, indent=2))
    else:
        typer.echo(f"{name} may be used from {', '.join(networks) if networks else 'any network'}")
