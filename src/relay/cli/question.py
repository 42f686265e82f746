"""``relay question``: what models were asked and answered, where ``AI_RECORD=true`` has kept it."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from relay.cli.context import fail, with_house
from relay.cli.options import OnlyWorkspace, require_workspace
from relay.core.clock import iso
from relay.core.ids import new_id
from relay.identity.operator import operator
from relay.telemetry.lines import plain

if TYPE_CHECKING:
    from relay.audit.log import Entry
    from relay.house import House
    from relay.llm.kept import Kept, KeptQuestions

_COLUMNS: Final = ("id", "occurred_at", "workspace", "principal", "purpose", "model", "outcome", "request_id")

app = typer.Typer(no_args_is_help=True, help="Read what models were asked and answered, where AI_RECORD keeps it.")


def _line(value: str | None) -> str | None:
    from relay.audit.log import checked_text

    try:
        return value if value is None else checked_text(value)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None


_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_questions(
    *,
    workspace: OnlyWorkspace = None,
    principal: Annotated[str | None, typer.Option(callback=_line, help="Who asked.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: _Json = False,
) -> None:
    """List the questions that are kept, newest first, without what they say."""
    views = [_view(entry) for entry in with_house(lambda house: _newest(house, limit, workspace, principal))]
    if as_json:
        _print_json({"items": views})
    elif views:
        typer.echo("\t".join(_COLUMNS))
        for view in views:
            typer.echo("\t".join(plain(str(view[name])) for name in _COLUMNS))
    else:
        typer.echo("no question is kept; AI_RECORD=true keeps those to come", err=True)


@app.command("show")
def show(
    event_id: Annotated[
        str, typer.Argument(metavar="ID", callback=_line, help="Of the question's audit event, aud_….")
    ],
    *,
    texts: Annotated[bool, typer.Option("--texts", help="Print what was said, not only how long it was.")] = False,
    reason: Annotated[str | None, typer.Option(callback=_line, help="Why you read it; it is recorded.")] = None,
    as_json: _Json = False,
) -> None:
    """Show a question and its answer: who said how much, and with --texts what. The audit trail says who read it.

    Exit status 1 when it is not kept, or is not what the audit trail has the digests of.
    """
    kept = with_house(lambda house: _read(house, event_id, texts, reason))
    view = {**_view(kept.entry), "agrees": kept.agrees, "question": kept.question, "answer": kept.answer}
    if as_json:
        _print_json(view)
    else:
        for name in (*_COLUMNS, "tokens"):
            typer.echo(f"{name}\t{plain(str(view[name]))}")
        typer.echo(f"digests\t{'those' if kept.agrees else 'NOT those'} of the audit trail")
        _show_talk(kept)
    if not kept.agrees:
        fail("this is NOT what the audit trail has the digests of")


async def _newest(house: "House", limit: int, workspace: str | None, principal: str | None) -> "list[Entry]":
    if workspace is not None:
        await require_workspace(house, workspace)
    return await _kept(house).newest(limit, workspace=workspace, principal=principal)


async def _read(house: "House", event_id: str, texts: bool, reason: str | None) -> "Kept":
    from relay.llm.kept import NotKept, Reading

    try:
        return await _kept(house).read(event_id, Reading(operator().id, new_id("req"), texts, reason))
    except NotKept as error:
        fail(str(error))


def _kept(house: "House") -> "KeptQuestions":
    from relay.llm.kept import KeptQuestions

    return KeptQuestions(house.database, house.vault, house.audit_log)


def _view(entry: "Entry") -> dict[str, Any]:
    event, details = entry.event, entry.details or {}
    return {
        "id": event.id,
        "occurred_at": iso(event.occurred_at),
        "workspace": event.workspace_id,
        "principal": event.principal,
        "purpose": details.get("purpose", ""),
        "session": details.get("session", ""),
        "model": event.target,
        "outcome": event.outcome,
        "request_id": event.request_id,
        "tokens": f"{details.get('input_tokens', 0)} in, {details.get('output_tokens', 0)} out",
    }


def _show_talk(kept: "Kept") -> None:
    offered = ", ".join(function["name"] for function in kept.question["functions"])
    typer.echo(f"functions\t{plain(offered)}")
    for number, message in enumerate([*kept.question["messages"], {"role": "answer", **kept.answer}], 1):
        typer.echo(f"\n{number} {message['role']} {plain(message.get('name', ''))}".rstrip())
        _show_text(message["text"])
        for call in message.get("calls", ()):
            typer.echo(f"  calls {plain(call['name'])}")
            _show_text(call["arguments"])
        for image in message.get("images", ()):
            typer.echo(f"  picture {image['media_type']}, {image['bytes']} bytes, SHA-256 {image['sha256']}")


def _show_text(text: str) -> None:
    # Line by line, with what is not printable as an escape: a model's words must not steer a terminal.
    for line in text.split("\n") if text else ():
        typer.echo(f"  {plain(line)}")


def _print_json(value: dict[str, Any]) -> None:
    # In ASCII, for the same reason.
    typer.echo(json.dumps(value, indent=2))
