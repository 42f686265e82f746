"""From where keys are used: noted as requests are admitted, at the cost of one look into a dictionary."""

from typing import Final

from relay.audit.anonymous import UNKNOWN, address_block
from relay.core.clock import HOUR, now
from relay.core.principal import Principal
from relay.store.unusual import Sighting

MAX_KNOWN: Final = 20_000
MAX_WAITING: Final = 5_000


class Sightings:
    """Collects pairs of key and network, each once an hour. Nothing is lost but what a process has not handed over
    when it is killed, and what comes beyond 5,000 pairs that wait.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], Sighting] = {}

    def note(self, principal: Principal, client: str) -> None:
        """Note from where an API key is used. Never waits or raises."""
        at = now()
        pair, hour = (principal.credential_id, client), at // HOUR
        if self._known.get(pair) == hour or principal.auth_method != "api_key":
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[pair] = hour
        block = address_block(client)
        if block != UNKNOWN:
            self._keep(Sighting(principal.credential_id, principal.workspace_id, block, at))

    def take(self, most: int) -> list[Sighting]:
        """Return some of what was noted; whoever cannot hand it over gives it back with :meth:`give_back`."""
        return [self._waiting.pop(pair) for pair in list(self._waiting)[:most]]

    def give_back(self, sightings: list[Sighting]) -> None:
        """Keep what was taken for the next time."""
        for one in sightings:
            self._keep(one)

    def _keep(self, one: Sighting) -> None:
        pair = (one.key_id, one.block)
        if pair in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[pair] = one
