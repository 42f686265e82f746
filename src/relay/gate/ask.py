"""What a door hands to the gate, what the gate makes of it, and what the door gets back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from relay.catalog import ActionSpec, Rendering
from relay.core.action import Decision, Failure, Step
from relay.core.origins import Origins
from relay.core.principal import Principal
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish to run one action: by preview, or by name and parameters. ``client`` is the caller's address.

    ``untrusted_content`` says that content from outside may have had a say in it. ``origins`` says where its parameters
    came from, None where it comes from no conversation. ``tries_allowed`` is how many more times the effect may be
    tried where a repetition cannot do it twice, ``timeout`` how many seconds each try may take, the action's own when
    None. ``still`` says, within a transaction, whether the asker still holds what it asks for, and keeps it so until
    the commit: nothing is begun, nor made to wait, once it says no. What only ``reads_version`` is never held back, and
    refused where it would need an approval.
    ``key_lasts`` has the idempotency key remembered for as long as what the attempt was given and has led to, for an
    asker that may come back however late.
    """

    request_id: str
    client: str
    action: str | None = None
    params: dict[str, Any] | None = None
    preview_id: str | None = None
    idempotency_key: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    untrusted_content: bool = False
    tries_allowed: int = 0
    timeout: float | None = None
    still: Callable[[Tx], bool] | None = None
    reads_version: bool = False
    origins: Origins | None = None
    key_lasts: bool = False


class AskerReplaced(Exception):
    """The asker's run or turn is not its own any more: taken over, ended or deleted. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An idempotency key as it is stored: hash of the key, fingerprint of the request, and under whose ids."""

    key_hash: str
    fingerprint: str
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """One action on its way through the gate: who wants what, why they ask, and what policy says.

    ``asked_at`` is the moment of the first decision about it, in microseconds: later ones count what the principal has
    done as of then. ``seen_version`` is the version that was found of what the step changes, None where there is none
    to find.
    """

    principal: Principal
    ask: Ask
    spec: ActionSpec
    step: Step
    decision: Decision
    asked_at: int
    idempotency: Idempotency | None = None
    seen_version: str | None = None

    @property
    def timeout(self) -> float:
        """Seconds that the effect may take."""
        return self.spec.timeout if self.ask.timeout is None else min(self.spec.timeout, self.ask.timeout)


@dataclass(frozen=True, slots=True)
class AttemptState:
    """An attempt as it stands. ``result`` is None until it succeeded, and again after its retention.

    An attempt that has been allowed and has not begun is ``running`` with ``held_until``, the moment (microseconds)
    before which it does not begin. ``tries`` counts how often it began.
    """

    attempt_id: str
    status: str
    action: str
    version: int
    effect: str
    digest: str
    requested_by: str
    result: dict[str, Any] | None
    failure: Failure | None
    duration_ms: int | None
    created_at: int
    finished_at: int | None
    approval_id: str | None = None
    held_until: int | None = None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Considered:
    """A validated and decided step that nobody has asked to run yet."""

    spec: ActionSpec
    step: Step
    decision: Decision
    rendering: Rendering
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class PreviewState:
    """A stored preview, as its maker sees it. ``seen_version`` is that of what the step changes, if it was read."""

    preview_id: str
    considered: Considered
    expires_at: int
    seen_version: str | None = None
