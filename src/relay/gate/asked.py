"""What must be known to begin an attempt that waits, beyond its row and parameters; kept sealed beside them."""

from dataclasses import asdict, dataclass
from typing import Self

from pydantic_core import from_json, to_json

from relay.gate.ask import Ask, Intent
from relay.store.attempts import AttemptRow


@dataclass(frozen=True, slots=True)
class Asked:
    """The circumstances of the asking. ``seen_version`` is what the preview found, ``asked_at`` when it was decided
    about first; see ``Intent``.
    """

    client: str
    untrusted_content: bool
    tries_allowed: int
    timeout: float | None
    seen_version: str | None
    asked_at: int

    @classmethod
    def of(cls, intent: Intent) -> Self:
        """Return what an intent leaves to be known."""
        ask = intent.ask
        return cls(
            ask.client, ask.untrusted_content, ask.tries_allowed, ask.timeout, intent.seen_version, intent.asked_at
        )

    def sealed_form(self) -> bytes:
        """Return JSON for the envelope."""
        return to_json(asdict(self))

    @classmethod
    def from_sealed(cls, plaintext: bytes) -> Self:
        """Return what :meth:`sealed_form` was made of."""
        return cls(**from_json(plaintext))

    def ask(self, row: AttemptRow) -> Ask:
        """Return the ask of an attempt that goes on."""
        return Ask(
            request_id=row.request_id,
            client=self.client,
            action=row.action,
            run_id=row.run_id,
            step_id=row.step_id,
            untrusted_content=self.untrusted_content,
            tries_allowed=self.tries_allowed,
            timeout=self.timeout,
        )
