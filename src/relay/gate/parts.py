"""The gate put together: every stage once, on one database."""

from dataclasses import dataclass
from typing import Final

from relay.approvals.intake import Intake
from relay.catalog import Catalog
from relay.core.clock import DAY, HOUR
from relay.gate.attempts import Attempts
from relay.gate.authenticate import Credentials
from relay.gate.checks import Checks
from relay.gate.decide import Counted
from relay.gate.dispatch import Dispatch
from relay.gate.effect import Effects
from relay.gate.hold import Holds
from relay.gate.limit import ActionLimits
from relay.gate.perform import Performer
from relay.gate.preview import Previews
from relay.gate.probe import Probes
from relay.gate.resume import Resumer
from relay.gate.sweep import Sweep
from relay.policy.interface import Policy
from relay.queue.protocol import Queue
from relay.store.database import Database
from relay.store.vault import Vault
from relay.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things are kept or wait: microseconds, but ``hold_back``, which is in seconds."""

    retention: int = 30 * DAY
    idempotency: int = DAY
    preview: int = HOUR
    approval: int = DAY
    hold_back: int = 0


class GateParts:
    """Wires the stages. Construction does no I/O; :attr:`dispatch` and :attr:`sweep` are the owner's to start."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        catalog: Catalog,
        policy: Policy,
        credentials: Credentials,
        checks: Checks,
        limits: ActionLimits,
        queue: Queue,
        intake: Intake,
        lifetimes: Lifetimes,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics.off()
        policy = Counted(policy, metrics)
        self.attempts: Final = Attempts(
            database,
            vault,
            checks,
            retention=lifetimes.retention,
            idempotency_ttl=lifetimes.idempotency,
            on_full=limits.full,
        )
        previews = Previews(database, vault, checks, ttl=lifetimes.preview)
        self.holds: Final = Holds(
            database,
            self.attempts,
            checks,
            intake,
            approval_ttl=lifetimes.approval,
            hold_back=lifetimes.hold_back,
        )
        probes = Probes(catalog, policy, checks)
        effects = Effects(catalog, self.attempts, limits, previews, metrics)
        self.performer: Final = Performer(
            catalog, policy, credentials, checks, self.attempts, previews, self.holds, effects, probes
        )
        self.resumer: Final = Resumer(
            database,
            vault,
            catalog,
            policy,
            credentials,
            checks,
            self.attempts,
            self.holds,
            effects,
            probes,
            self.performer,
        )
        self.dispatch: Final = Dispatch(database, queue, self.resumer)
        self.sweep: Final = Sweep(database)
