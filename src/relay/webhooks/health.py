"""How an endpoint fares: failures in a row, pauses, and the end of one that is gone or fails for days."""

from dataclasses import replace
from typing import Final, Literal

from relay.audit.record import event
from relay.core.event import EventDraft
from relay.store.deliveries import DeliveriesOfAllWorkspaces, DeliveryRepository
from relay.store.endpoints import EndpointRepository, EndpointRow
from relay.store.writer import Tx
from relay.webhooks.outbox import Outbox
from relay.webhooks.schedule import GONE, Schedule

Reason = Literal["switched_off", "gone", "failing"]

REASONS: Final[dict[str, str]] = {
    "switched_off": "Disabled by request.",
    "gone": "The receiver answered 410 Gone.",
    "failing": "Every attempt has failed for five days.",
}
DISABLED: Final = "endpoint_disabled"
DELETED: Final = "endpoint_deleted"


def note_failure(tx: Tx, outbox: Outbox, schedule: Schedule, row: EndpointRow, at: int, code: int) -> None:
    """Count a failed attempt with that status (0 for none): pause the locked endpoint, or disable it."""
    if row.status != "enabled":
        return
    failures, since = row.failures + 1, row.failing_since if row.failing_since is not None else at
    reason: Reason | None = None
    if code == GONE:
        reason = "gone"
    elif at - since >= schedule.give_up:
        reason = "failing"
    if reason is not None:
        disable(tx, outbox, replace(row, failures=failures, failing_since=since), reason, at)
        return
    pause = schedule.pause_after(failures)
    EndpointRepository(row.workspace_id).set_health(
        tx,
        row.id,
        failures=failures,
        failing_since=since,
        paused_until=None if pause is None else at + pause,
    )


def note_success(tx: Tx, row: EndpointRow) -> None:
    """Forget a locked endpoint's failures before a success."""
    if row.failures:
        EndpointRepository(row.workspace_id).recover(tx, row.id)


def resume(tx: Tx, row: EndpointRow) -> None:
    """End a locked endpoint's pause: whoever asks for a delivery now has mended something and shall not wait."""
    if row.paused_until is not None:
        EndpointRepository(row.workspace_id).set_health(
            tx, row.id, failures=row.failures, failing_since=row.failing_since, paused_until=None
        )


def close_stranded(tx: Tx, endpoint: str, workspace: str, at: int) -> None:
    """Make dead letters of what came for an endpoint while it was disabled or deleted."""
    row = EndpointRepository(workspace).lock(tx, endpoint)
    if row is None:
        DeliveriesOfAllWorkspaces.close(tx, endpoint, at=at, reason=DELETED)
    elif row.status != "enabled":
        DeliveryRepository(workspace).give_up(tx, endpoint, at=at, reason=DISABLED)


def disable(
    tx: Tx, outbox: Outbox, row: EndpointRow, reason: Reason, at: int, *, principal: str = "", request_id: str = ""
) -> EndpointRow:
    """Disable a locked endpoint: what was still to be delivered becomes dead letters, which can be replayed."""
    changed = replace(row, status="disabled", disabled_reason=reason, disabled_at=at, changed_at=at, paused_until=None)
    EndpointRepository(row.workspace_id).change(tx, changed)
    DeliveryRepository(row.workspace_id).give_up(tx, row.id, at=at, reason=DISABLED)
    outbox.routes_changed(tx)
    tx.record(endpoint_event("disabled", changed, principal, request_id, notice={"reason": reason}))
    return changed


def endpoint_event(
    what: str, row: EndpointRow, principal: str, request_id: str, *, notice: dict[str, str] | None = None
) -> EventDraft:
    """Return the audit event of a change of an endpoint."""
    return event(
        f"webhooks:endpoint:{what}",
        workspace_id=row.workspace_id,
        principal=principal,
        request_id=request_id,
        target=row.id,
        outcome=row.disabled_reason or "" if what == "disabled" else "",
        notice=notice,
    )
