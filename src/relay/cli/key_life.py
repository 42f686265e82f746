"""``relay key``, the rest of a key's life: child tokens, fewer scopes, quarantine, leaks."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from relay.cli.context import fail, with_house
from relay.cli.key_shared import (
    Json,
    KeyId,
    Quiet,
    name_option,
    print_json,
    require_one_form,
    scopes_option,
    show_new,
)
from relay.cli.networks import checked_networks
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.problem import Invalid
from relay.identity import rules
from relay.identity.operator import operator
from relay.identity.view import key_view, status_of
from relay.store.api_keys import ApiKeyRecord

if TYPE_CHECKING:
    from relay.house import House
    from relay.identity.leaks import Leak

MOST_READ: Final = 16 * 1024 * 1024


def _actions(values: list[str] | None) -> list[str]:
    try:
        return list(rules.checked_actions(values or ()))
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None


def register(app: typer.Typer) -> None:
    """Add these commands to the group."""
    app.command("child")(child)
    app.command("narrow")(narrow)
    app.command("quarantine")(quarantine)
    app.command("release")(release)
    app.command("report-leak")(report_leak)


def child(
    key_id: KeyId,
    *,
    scope: Annotated[
        list[str],
        typer.Option("--scope", "-s", callback=scopes_option, help="A scope that the key holds; once for each."),
    ],
    seconds: Annotated[
        int,
        typer.Option(
            "--seconds", min=rules.MIN_CHILD_SECONDS, max=rules.MAX_CHILD_SECONDS, help="How long it lives at most."
        ),
    ] = rules.DEFAULT_CHILD_SECONDS,
    action: Annotated[
        list[str] | None,
        typer.Option("--action", callback=_actions, help="It may run this action alone; once for each."),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", callback=checked_networks, help="It may be used from; give it once for each."),
    ] = None,
    name: Annotated[str, typer.Option(callback=name_option, help="What the token is for.")] = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Mint a child token of a key, weaker and short-lived, and show it, this once."""
    require_one_form(quiet, as_json)

    async def mint(house: "House") -> tuple[ApiKeyRecord, str]:
        return await house.api_keys.mint(
            operator(),
            key_id,
            scopes=scope,
            name=name,
            expires_seconds=seconds,
            allowed_networks=network or (),
            allowed_actions=action or (),
            request_id=new_id("req"),
        )

    record, text = with_house(mint)
    show_new(record, text, quiet=quiet, as_json=as_json)


def narrow(
    key_id: KeyId,
    *,
    scope: Annotated[
        list[str],
        typer.Option("--scope", "-s", callback=scopes_option, help="A scope that the key keeps; once for each."),
    ],
    as_json: Json = False,
) -> None:
    """Take scopes away from a key: it keeps those that are given; a running server notices within a second."""
    record = with_house(lambda house: house.api_keys.narrow_key(operator(), key_id, scope, request_id=new_id("req")))
    if as_json:
        print_json({"id": record.id, "scopes": list(record.scopes)})
    else:
        typer.echo(f"{record.id} keeps {' '.join(record.scopes)}")


def quarantine(key_id: KeyId, *, as_json: Json = False) -> None:
    """Take a key out of use until a person releases it; what waits for it is cancelled."""
    _show_state(
        with_house(lambda house: house.api_keys.quarantine(operator(), key_id, request_id=new_id("req"))), as_json
    )


def release(key_id: KeyId, *, as_json: Json = False) -> None:
    """Let a key in quarantine be used again."""
    _show_state(with_house(lambda house: house.api_keys.release(operator(), key_id, request_id=new_id("req"))), as_json)


def report_leak(*, as_json: Json = False) -> None:
    """Revoke every key of this installation that stands in the text on standard input; no key is repeated."""
    from relay.crypto.api_key import API_KEY_PATTERN  # not at the top: listing keys needs no cryptography

    content = sys.stdin.buffer.read(MOST_READ + 1)
    if len(content) > MOST_READ:
        raise typer.BadParameter(f"standard input may have at most {MOST_READ // 1024 // 1024} MiB.")
    text = content.decode("ascii", errors="replace")  # keys are ASCII, whatever stands around them
    tokens = list(dict.fromkeys(found[0] for found in API_KEY_PATTERN.finditer(text)))

    async def report(house: "House") -> list["Leak"]:
        found = [
            await house.api_keys.revoke_leaked(token, "operator", principal=operator().id, request_id=new_id("req"))
            for token in tokens
        ]
        return [leak for leak in found if leak is not None]

    leaks = with_house(report)
    if as_json:
        items = [{**key_view(leak.record, now(), traps_shown=True), "revoked": leak.revoked} for leak in leaks]
        print_json({"items": items, "unknown": len(tokens) - len(leaks)})
    for leak in leaks if not as_json else ():
        typer.echo(f"{leak.record.id} {'revoked' if leak.revoked else 'had ended before'}")
    if not leaks:
        fail(f"no key of this installation stands there; {len(tokens)} texts look like one")


def _show_state(record: ApiKeyRecord, as_json: bool) -> None:
    status = status_of(record, now())
    state: dict[str, Any] = {"id": record.id, "status": status}
    if as_json:
        print_json(state)
    else:
        typer.echo(f"{record.id} is {status}")
