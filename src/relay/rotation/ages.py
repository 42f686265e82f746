"""How old each secret is, and when it should be rotated. Ages are known by check values; no secret is stored for it."""

from dataclasses import dataclass
from typing import Final

from relay.core.clock import DAY, MICROSECONDS
from relay.rotation.identify import KINDS
from relay.rotation.keyring import Keyring
from relay.settings.key_folder import SETTINGS

WARN_DAYS: Final = 14


@dataclass(frozen=True, slots=True)
class Age:
    """Since when a secret has been in use, in microseconds; ``id`` is its own, ``secret`` the setting's name."""

    secret: str
    id: str
    since: int

    def seconds(self, at: int) -> float:
        """Return how old it is."""
        return max(0, at - self.since) / MICROSECONDS

    def state(self, at: int, period: int) -> str:
        """Return ``fresh``, ``soon`` within 14 days of its period's end, or ``due``; ``period`` is in microseconds."""
        if at >= self.since + period:
            return "due"
        return "soon" if at >= self.since + period - WARN_DAYS * DAY else "fresh"


def ages(keyring: Keyring) -> list[Age]:
    """Return the age of every secret that is in use, as the database was last read."""
    found = []
    for kind in KINDS:
        row = keyring.current(kind)
        if row is not None:
            found.append(Age(SETTINGS[kind], row.id, row.current_at or row.first_seen_at))
    if keyring.peppers:
        pepper = keyring.peppers[0]
        found.append(Age("pepper", pepper.id, pepper.current_at or pepper.created_at))
    return found
