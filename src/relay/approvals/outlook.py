"""What Approvals asks of the gate, which stands above it: whether agreeing would lead to anything at all."""

from dataclasses import dataclass
from typing import Protocol

from relay.store.attempts import AttemptRow


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many persons agree to a step, and whether one of them at least had no part in the requester's credential."""

    persons: int
    other_person: bool


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would become of an attempt under an agreement.

    ``refusal`` is why it could not begin now, as code, sentence and HTTP status; with ``ends`` it never can again.
    ``wanted`` is the agreement that policy asks for where it wants a greater one than there is.
    """

    refusal: tuple[str, str, int] | None = None
    ends: bool = False
    wanted: Agreement | None = None


class Foresight(Protocol):
    """Looks at an attempt that waits as it will be looked at before it begins. Writes nothing."""

    async def outlook(self, attempt: AttemptRow, agreement: Agreement) -> Outlook:
        """Return what would become of the attempt if it began now under this agreement."""
        ...

    async def is_alive(self, credential_id: str) -> bool:
        """Say whether a credential is valid now: what a key has agreed to ends with the key."""
        ...
