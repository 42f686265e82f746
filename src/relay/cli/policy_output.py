"""How a replay is printed: as it goes, so that the number of flips does not matter."""

import json

import typer

from relay.policy.replay import Flip, Replayed, Ruling
from relay.policy.view import flip_view, replayed_view


class ReplayOutput:
    """Prints flips as they are found, a line each, or as the items of one JSON object."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._printed = 0

    def flip(self, flip: Flip) -> None:
        """Print one flip."""
        view = flip_view(flip)
        if self._as_json:
            typer.echo(
                ("," if self._printed else '{"items": [') + "\n" + json.dumps(view, ensure_ascii=False), nl=False
            )
        else:
            before, after = _words(flip.before), _words(flip.after)
            typer.echo(f"{view['occurred_at']}  {flip.row.action}  {flip.row.principal_id}  {before} -> {after}")
            typer.echo(f"    was: {flip.before.reason}\n    now: {flip.after.reason}")
        self._printed += 1

    def end(self, found: Replayed) -> None:
        """Print what was found in all."""
        if self._as_json:
            rest = json.dumps(replayed_view(found), ensure_ascii=False, indent=2).removeprefix("{")
            typer.echo(("\n" if self._printed else '{"items": [') + "]," + rest)
            return
        for (before, after), count in sorted(found.transitions.items()):
            typer.echo(f"{count} from {before} to {after}")
        unreadable = f", {found.unreadable} could not be read" if found.unreadable else ""
        lacking = f", {found.not_judged} not judged: decided without counters" if found.not_judged else ""
        typer.echo(f"{found.flips} of {found.replayed} decisions would flip{unreadable}{lacking}")


def _words(ruling: Ruling) -> str:
    if not ruling.needs_approval:
        return ruling.effect
    who = ", another person among them" if ruling.other_person else ""
    return f"{ruling.effect} ({ruling.approvers}{who})"
