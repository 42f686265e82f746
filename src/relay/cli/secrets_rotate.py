"""``relay secrets rotate``: one secret in the place of another, beside running servers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.context import with_house
from relay.core.clock import DAY, HOUR, iso, now
from relay.identity.operator import operator

if TYPE_CHECKING:
    from relay.house import House
    from relay.rotation.rotate import Report, Rotation


class Kind(StrEnum):
    """What may be rotated."""

    encryption = "encryption"
    signing = "signing"
    webhook = "webhook"
    pepper = "pepper"


def rotate(
    *,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(
            help="What to rotate, again and again for more; the key-encryption key unless something is named."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every kind that can be rotated now.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Change nothing; show ages and who holds what.")] = False,
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for other processes.")] = 90.0,
    overlap_hours: Annotated[
        int, typer.Option(min=0, max=720, help="How long the webhook secret before is accepted; 0 ends it now.")
    ] = 72,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Go over to another key while servers run, and re-wrap every envelope under it.

    Run it again after it was stopped: it goes on. Progress goes to standard error. Exit status 1 when something still
    has to be done before the old key may go, for instance a process that does not hold the new one.
    """
    if everything and kind:
        raise typer.BadParameter("name kinds or say --all, not both.")
    if status:
        _show_status(with_house(_status), as_json)
        return
    wanted = list(Kind) if everything else list(dict.fromkeys(kind or [Kind.encryption]))
    outcomes = with_house(lambda house: _rotate(house, wanted, everything, wait, overlap_hours * HOUR))
    if as_json:
        typer.echo(json.dumps({"items": outcomes}, indent=2))
    else:
        for outcome in outcomes:
            typer.echo(_sentence(outcome))
    if not all(outcome["ok"] for outcome in outcomes):
        raise typer.Exit(1)


async def _rotate(
    house: "House", wanted: list[Kind], skip_nothing: bool, wait: float, overlap: int
) -> list[dict[str, Any]]:
    from relay.rotation.rotate import NothingToRotate, Rotation, RotationRefused

    rotation = Rotation(
        house.database,
        house.envelopes,
        house.keyring,
        house.installation,
        principal=operator().id,
        progress=_Progress().show,
        wait=wait,
    )
    outcomes: list[dict[str, Any]] = []
    for kind in wanted:
        try:
            report = await _step(rotation, kind, overlap)()
        except NothingToRotate as error:
            outcomes.append({"kind": kind.value, "ok": skip_nothing, "rotated": False, "reason": str(error)})
        except RotationRefused as error:
            outcomes.append({"kind": kind.value, "ok": False, "rotated": False, "reason": str(error)})
        except OSError as error:
            reason = f"{error.filename or house.settings.data_dir}: {error.strerror}; run this again"
            outcomes.append({"kind": kind.value, "ok": False, "rotated": False, "reason": reason})
        else:
            outcomes.append(_outcome(kind, report))
    return outcomes


def _step(rotation: "Rotation", kind: Kind, overlap: int) -> "Callable[[], Awaitable[Report]]":
    steps: dict[Kind, Callable[[], Awaitable[Report]]] = {
        Kind.encryption: rotation.encryption,
        Kind.signing: rotation.signing,
        Kind.webhook: lambda: rotation.webhook(overlap=overlap),
        Kind.pepper: rotation.pepper,
    }
    return steps[kind]


def _outcome(kind: Kind, report: "Report") -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": kind.value,
        "ok": report.ok,
        "rotated": report.changed,
        "secret": report.secret,
        "key": report.key,
        "waiting": report.waiting,
    }
    if kind is Kind.encryption:
        done = report.envelopes
        found["envelopes"] = {
            "seen": done.seen,
            "rewrapped": done.rewrapped,
            "skipped": done.skipped,
            "broken": done.broken,
            "examples": done.examples,
        }
    return found


def _sentence(outcome: dict[str, Any]) -> str:
    if "reason" in outcome:
        return f"{outcome['kind']}: {outcome['reason']}"
    text = f"{outcome['kind']}: {outcome['key']} is the current one"
    if (done := outcome.get("envelopes")) is not None:
        under = done["seen"] - done["broken"]
        text += f"; {under} envelopes are under it: {done['rewrapped']} re-wrapped now"
        if not outcome["rotated"] and not done["rewrapped"]:
            text += " (nothing to do: to rotate, set a new OAUTH_ENCRYPTION_KEY and this one as _PREVIOUS)"
        elif under > done["rewrapped"]:
            text += ", the others sealed with it or re-wrapped before"
    return text + (f"; {outcome['waiting']}" if outcome["waiting"] else "")


class _Progress:
    """Prints each step once, and of those that repeat no more than a line a second."""

    def __init__(self) -> None:
        self._again = float("-inf")

    def show(self, step: str, what: str) -> None:
        """Print a step to standard error."""
        if step == "rewrapping":
            at = asyncio.get_running_loop().time()
            if at < self._again:
                return
            self._again = at + 1.0
        typer.echo(f"{step}: {what}", err=True)


async def _status(house: "House") -> dict[str, Any]:
    from relay.rotation.ages import ages
    from relay.store.rotation import Secrets

    at, period = now(), house.settings.secret_period_days * DAY
    living = await house.database.writer.run(lambda tx: Secrets(tx).living(at))
    return {
        "secrets": [
            {
                "secret": age.secret,
                "key": age.id,
                "since": iso(age.since),
                "due_at": iso(age.since + period),
                "state": age.state(at, period),
            }
            for age in ages(house.keyring)
        ],
        "others": [
            {"kind": row.kind, "key": row.id, "state": row.state, "ends_at": iso(row.ends_at) if row.ends_at else None}
            for row in house.keyring.rows
            if row.state in ("known", "old")
        ],
        "processes": [
            {
                "id": process.id,
                "kind": process.kind,
                "started_at": iso(process.started_at),
                "holds": sorted(process.holds),
                "uses": dict(process.uses),
            }
            for process in living
            if process.id != house.keyring.id
        ],
    }


def _show_status(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo("secret\tkey\tstate\tsince\tdue")
    for row in found["secrets"]:
        typer.echo("\t".join((row["secret"], row["key"], row["state"], row["since"], row["due_at"])))
    for row in found["others"]:
        typer.echo(f"{row['kind']} {row['key']} {_beside(row)}", err=True)
    for process in found["processes"]:
        typer.echo(f"{process['kind']} {process['id']}, since {process['started_at']}, is running", err=True)


def _beside(row: dict[str, Any]) -> str:
    """Return what a secret is that stands beside the current one of its kind."""
    if row["state"] == "known":
        return "is known, and not used yet"
    if row["ends_at"] is not None:
        return f"is still accepted until {row['ends_at']}" if row["ends_at"] > iso(now()) else "is accepted no more"
    return f"is an earlier one, which stays until `relay secrets rotate --kind {row['kind']}` has ended"
