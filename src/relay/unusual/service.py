"""Everything that watches how keys are used, as a process has it: one object to build, start, tell and stop."""

from collections.abc import Mapping

from relay.core.clock import DAY
from relay.core.principal import Principal
from relay.settings import Settings
from relay.store.database import Database
from relay.store.vault import Vault
from relay.unusual.detector import Detector
from relay.unusual.many_keys import ManyKeys
from relay.unusual.rules import Sensitivity
from relay.unusual.sightings import Sightings


class UnusualUse:
    """Is told of callers by the gate and reads the rest in the log. ``effects`` maps actions to their effects.

    With ``UNUSUAL_USE=none`` nothing is noted, read or kept; ``INVALID_KEYS_PER_BLOCK=0`` turns the rest off.
    """

    def __init__(self, settings: Settings, database: Database, vault: Vault, effects: Mapping[str, str]) -> None:
        self._on = bool(settings.unusual_use)
        self._networks = "new_network" in settings.unusual_use
        self._sightings = Sightings()
        self._many_keys = ManyKeys(database, settings.invalid_keys_per_block)
        self.detector = Detector(database, vault, sensitivity(settings), effects, self._sightings)

    def admitted(self, principal: Principal, client: str) -> None:
        """Take in that a request of a principal was admitted from an address. Never waits or raises."""
        if self._networks:
            self._sightings.note(principal, client)

    def refused(self, key_text: str, client: str) -> None:
        """Take in that a key was not valid. Never waits or raises."""
        self._many_keys.refused(key_text, client)

    async def start(self) -> None:
        """Begin to look."""
        if self._on:
            await self.detector.start()

    async def stop(self) -> None:
        """Stop looking, and write what was found."""
        await self._many_keys.stop()
        await self.detector.stop()


def sensitivity(settings: Settings) -> Sensitivity:
    """Return what the settings say about the rules."""
    return Sensitivity(
        rules=frozenset(settings.unusual_use),
        learning=settings.unusual_learning_days * DAY,
        floor=settings.unusual_actions_per_hour,
        percent=settings.unusual_percent,
        denials=settings.unusual_denials_per_hour,
    )
