"""What the commands of ``relay key`` share: how keys are named, and how new ones are shown."""

import json
from typing import Annotated, Any

import typer

from relay.core.clock import now
from relay.core.principal import expand_scopes
from relay.core.problem import Invalid
from relay.identity import rules
from relay.identity.view import key_view
from relay.store.api_keys import ApiKeyRecord


def scopes_option(values: list[str]) -> list[str]:
    """Return names of scopes and bundles; wrong usage for any other."""
    try:
        expand_scopes(values)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    return values


def name_option(value: str) -> str:
    """Return the name of a key; wrong usage for one that cannot be."""
    try:
        return rules.checked_name(value)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None


def key_id_argument(value: str) -> str:
    """Return the id of a key; wrong usage for a key itself, which is never repeated."""
    if value.startswith("relay_sk_"):  # never repeated: it may be a living key
        raise typer.BadParameter("give the id (key_…); `relay key list` shows it beside the last four characters.")
    return value


def key_id_option(value: str | None) -> str | None:
    """Return the id of a key where one is given; wrong usage for a key itself."""
    return None if value is None else key_id_argument(value)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the key alone.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeyId = Annotated[
    str, typer.Argument(metavar="ID", callback=key_id_argument, help="The key's id, key_…; not the key itself.")
]


def require_one_form(quiet: bool, as_json: bool) -> None:
    """Refuse two forms of output at once."""
    if quiet and as_json:
        raise typer.BadParameter("--quiet and --json exclude each other.")


def show_new(
    record: ApiKeyRecord, key_text: str, *, quiet: bool, as_json: bool, more: dict[str, str] | None = None
) -> None:
    """Show a key that was just made, this once."""
    if quiet:
        typer.echo(key_text)
        return
    view = key_view(record, now(), traps_shown=True)
    if as_json:
        print_json({**view, "key": key_text, **(more or {})})
        return
    facts = {name: view[name] for name in ("id", "workspace", "kind", "name", "scopes", "expires_at")}
    for label, value in {"key": key_text, **facts, **(more or {})}.items():
        typer.echo(f"{label + ':':<24}{' '.join(value) if isinstance(value, list) else value}")
    typer.echo("The key is shown this once and kept nowhere.", err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON object for machines and people."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
