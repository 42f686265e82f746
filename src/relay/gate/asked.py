"""What must be known to begin an attempt that waits, beyond its row and parameters; kept sealed beside them."""

from dataclasses import dataclass, fields
from typing import Self

from pydantic_core import from_json, to_json

from relay.core.origins import Origins
from relay.gate.ask import Ask, Intent
from relay.store.attempts import AttemptRow


@dataclass(frozen=True, slots=True)
class Asked:
    """The circumstances of the asking. ``seen_version`` is what the preview found, ``asked_at`` when it was decided
    about first; see ``Intent``. ``origins`` are sealed with the rest, so that the decision after an approval is made
    upon the same ones as that before it.
    """

    client: str
    untrusted_content: bool
    tries_allowed: int
    timeout: float | None
    seen_version: str | None
    asked_at: int
    origins: Origins | None = None

    @classmethod
    def of(cls, intent: Intent) -> Self:
        """Return what an intent leaves to be known."""
        ask = intent.ask
        return cls(
            client=ask.client,
            untrusted_content=ask.untrusted_content,
            tries_allowed=ask.tries_allowed,
            timeout=ask.timeout,
            seen_version=intent.seen_version,
            asked_at=intent.asked_at,
            origins=ask.origins,
        )

    def sealed_form(self) -> bytes:
        """Return JSON for the envelope; without origins, where there are none."""
        plain = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "origins"}
        if self.origins is not None:
            plain["origins"] = self.origins.sets()
        return to_json(plain)

    @classmethod
    def from_sealed(cls, plaintext: bytes) -> Self:
        """Return what :meth:`sealed_form` was made of."""
        plain = from_json(plaintext)
        sets = plain.pop("origins", None)
        return cls(**plain, origins=None if sets is None else Origins.of(sets))

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
            origins=self.origins,
        )
