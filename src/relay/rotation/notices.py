"""Telling of secrets: an event of the installation, and one in each workspace whose endpoints ask to hear of it."""

from typing import Any

from relay.audit.record import event
from relay.store.endpoints import EndpointsOfAllWorkspaces
from relay.store.writer import Tx
from relay.webhooks.types import expand

ROTATED = "secrets:secret:rotated"
RETIRED = "secrets:secret:retired"
DUE = "secrets:secret:due"


def tell(
    tx: Tx,
    tag: str,
    type: str,
    *,
    target: str,
    principal: str = "",
    outcome: str = "",
    notice: dict[str, Any],
    details: dict[str, Any] | None = None,
) -> None:
    """Record it for the installation, and in every workspace that asks for events of ``type``."""
    asking = {workspace for _, workspace, wanted in EndpointsOfAllWorkspaces.routes(tx) if type in expand(wanted)}
    for workspace in ("", *sorted(asking)):
        tx.record(
            event(
                tag,
                workspace_id=workspace,
                principal=principal,
                target=target,
                outcome=outcome,
                details=details if not workspace else None,
                notice=notice,
            )
        )
