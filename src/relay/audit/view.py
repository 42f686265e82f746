"""An entry and a verification as plain JSON: the same for the HTTP routes and the command line."""

from dataclasses import asdict
from typing import Any

from relay.audit.log import Entry
from relay.audit.verify import Verification
from relay.core.clock import iso


def entry_view(entry: Entry) -> dict[str, Any]:
    """Return every column under its own name, the time as RFC 3339 text, and the details."""
    view = asdict(entry.event)
    view["occurred_at"] = iso(entry.event.occurred_at)
    return {**view, "details": entry.details, "details_state": entry.details_state}


def verification_view(found: Verification) -> dict[str, Any]:
    """Return what a verification found; ``problem`` is there only when something is wrong."""
    view: dict[str, Any] = {
        "ok": found.ok,
        "size": found.size,
        "head": found.head,
        "checked_at": iso(found.checked_at),
        "heads": found.heads,
        "details": found.details,
        "details_erased": found.details_erased,
    }
    if found.finding is not None:
        view["problem"] = {"seq": found.finding.seq, "reason": found.finding.reason}
    return view
