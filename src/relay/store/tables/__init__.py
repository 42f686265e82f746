"""Every table, by what it serves; importing this registers them all."""

from relay.store.tables import (
    approvals,  # noqa: F401 - registers its tables
    budgets,  # noqa: F401 - registers its tables
    chat,  # noqa: F401 - registers its tables
    policy,  # noqa: F401 - registers its tables
    secrets,  # noqa: F401 - registers its tables
    unusual,  # noqa: F401 - registers its tables
    webhooks_in,  # noqa: F401 - registers its tables
    webhooks_out,  # noqa: F401 - registers its tables
)
from relay.store.tables.columns import metadata
from relay.store.tables.gateway import (
    anonymous_failures,
    api_keys,
    attempts,
    audit_events,
    audit_head,
    envelopes,
    generations,
    idempotency,
    installation,
    peppers,
    plans,
    previews,
    run_events,
    run_steps,
    runs,
    signed_heads,
    workspaces,
)

__all__ = [
    "anonymous_failures",
    "api_keys",
    "attempts",
    "audit_events",
    "audit_head",
    "envelopes",
    "generations",
    "idempotency",
    "installation",
    "metadata",
    "peppers",
    "plans",
    "previews",
    "run_events",
    "run_steps",
    "runs",
    "signed_heads",
    "workspaces",
]
