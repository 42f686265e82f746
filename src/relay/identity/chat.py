"""The chat's own door: a key that opens the chat and nothing else, and the pilot mode, which wants none.

Whoever comes through it is the service principal ``chat``. Many may hold the key, so that its sessions belong to
whoever knows their ids.
"""

from typing import Final

from relay.core.clock import now
from relay.core.facts import RequestFacts
from relay.core.principal import CHAT_ID, Principal
from relay.core.problem import Unauthenticated
from relay.crypto.digest import equal, sha256
from relay.identity.dev import dev_facts, needs_no_credential
from relay.settings.model import Settings
from relay.store.database import Database
from relay.store.workspaces import ensure_workspace
from relay.store.writer import Tx

_NOT_FROM_HERE: Final = (
    "This needs an API key. Without one CHAT_PILOT_MODE lets in what a program of this machine sends directly: to a "
    "loopback Host, without Origin, Cookie or forwarding headers, and from no web page of another site."
)


class ChatDoor:
    """Says who comes through the chat's door. Without ``CHAT_API_KEY`` and ``CHAT_PILOT_MODE`` nobody does."""

    def __init__(self, settings: Settings) -> None:
        key = settings.chat_api_key
        self._settings = settings
        self._principal = _principal(settings)
        self._digest = None if key is None else sha256(key.get_secret_value().encode())

    @property
    def standing(self) -> tuple[Principal, ...]:
        """The principal as one that is alive as long as this process is; none where the door is shut."""
        is_open = self._digest is not None or self._settings.chat_pilot_mode
        return (self._principal,) if is_open else ()

    def by_key(self, key_text: str) -> Principal | None:
        """Return the principal if that is the chat's key. How long it takes says nothing about the key."""
        if self._digest is None or not equal(sha256(key_text.encode()), self._digest):
            return None
        return self._principal

    def without_key(self, facts: RequestFacts) -> Principal | None:
        """Return the principal in pilot mode, under all conditions of :func:`relay.identity.dev.dev_principal_for`.

        Where the mode is on, a request that it does not let in is told which it does (401).
        """
        known = dev_facts(self._settings, facts, enabled=self._settings.chat_pilot_mode)
        if needs_no_credential(known):
            return self._principal
        if known.enabled and known.env == "local":
            raise Unauthenticated(_NOT_FROM_HERE, reason="missing_token")
        return None


async def ensure_chat_workspace(database: Database, settings: Settings) -> None:
    """Make ``CHAT_WORKSPACE`` unless it is there, where the door is open: as making a key makes its workspace."""
    moment = now()

    def unit(tx: Tx) -> None:
        ensure_workspace(tx, settings.chat_workspace, moment)

    if ChatDoor(settings).standing:
        await database.writer.run(unit)


def _principal(settings: Settings) -> Principal:
    return Principal(
        id=CHAT_ID,
        kind="service",
        workspace_id=settings.chat_workspace,
        scopes=frozenset(settings.chat_scopes),
        credential_id=CHAT_ID,
        made_by=(),
        auth_method="chat_key",
    )
