"""Entering an installation: prove that this process holds what the database needs, and say that it is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay.core.clock import now
from relay.core.ids import new_id
from relay.rotation.identify import Secret
from relay.settings.errors import SettingsError
from relay.settings.key_folder import SETTINGS, KeyFolder, SecretKind
from relay.store.database import Database
from relay.store.installation import Installation, ensure_installation, find_installation
from relay.store.rotation import ProcessRow, SecretRow, Secrets
from relay.store.writer import Tx

_CHECKED: Final[tuple[SecretKind, ...]] = ("signing", "encryption")


@dataclass(frozen=True, slots=True)
class Entered:
    """The installation, and the current secret of each kind at that moment."""

    installation: Installation
    uses: Mapping[str, str]


async def enter(
    database: Database, held: Sequence[Secret], folder: KeyFolder, process_id: str, process_kind: str
) -> Entered:
    """Enter the process into the database that its secrets belong to; the first one of all gives it its secrets.

    :class:`SettingsError`, with nothing written, when a secret that is current or still needed is not held.
    """
    at = now()

    def unit(tx: Tx) -> Entered:
        secrets, stored = Secrets(tx), find_installation(tx)
        if problems := [line for kind in _CHECKED for line in _missing(secrets, stored, kind, held)]:
            raise SettingsError(problems)
        if stored is None:
            fresh = {kind: _first(held, kind).check_value for kind in _CHECKED}
            stored = ensure_installation(tx, Installation(new_id("ins"), fresh["signing"], fresh["encryption"]), at)
        uses: dict[str, str] = {kind: _settle(secrets, stored, kind, held, folder, at) for kind in _CHECKED}
        holds = frozenset(secret.name for secret in held)
        secrets.enter(ProcessRow(process_id, process_kind, holds, uses, at, at))
        return Entered(stored, uses)

    return await database.writer.run(unit)


def register_webhook(secrets: Secrets, held: Sequence[Secret], folder: KeyFolder, at: int) -> bool:
    """Enter the secret of ``/webhooks/relay`` where it is new; return whether that changed anything.

    A new one that the settings give is the current one at once, and the one before ends with the day that they say.
    """
    secret = next((secret for secret in held if secret.kind == "webhook"), None)
    if secret is None or secrets.find("webhook", secret.id) is not None:
        return False
    current = secrets.current("webhook")
    if current is not None and folder.embedded("webhook") and any(one.id == current.id for one in held):
        return False  # the one that a rotation has made and not promoted yet
    secrets.add("webhook", secret.id, secret.check_value, at, current_at=at if current is None else None)
    if current is not None:
        row = SecretRow("webhook", secret.id, "known", secret.check_value, at)
        secrets.promote(row, at, ends_at=folder.webhook_previous_end or at)
    return True


def _missing(secrets: Secrets, stored: Installation | None, kind: SecretKind, held: Sequence[Secret]) -> list[str]:
    """Return a sentence for each secret of this kind that something needs and that is not held."""
    ours = [secret for secret in held if secret.kind == kind]
    current = secrets.current(kind)
    check = _check_value(stored, kind) if stored is not None else None
    wanted = current.check_value if current is not None else check
    name = SETTINGS[kind]
    if wanted is not None and not any(secret.check_value == wanted for secret in ours):
        return [f"{name}: this is not the key that the database was set up with; give the old one"]
    return [
        f"{name}_PREVIOUS: the key {row.id} is still needed; give it, or end the rotation with `relay secrets rotate`"
        for row in secrets.of(kind)
        if row.state == "old" and not any(secret.id == row.id for secret in ours)
    ]


def _settle(
    secrets: Secrets, stored: Installation, kind: SecretKind, held: Sequence[Secret], folder: KeyFolder, at: int
) -> str:
    """Return the current secret of a kind, entering what is new: the first one as current, a given one as known."""
    current = secrets.current(kind)
    if current is None:
        wanted = _check_value(stored, kind)
        first = next(secret for secret in held if secret.kind == kind and secret.check_value == wanted)
        secrets.add(kind, first.id, first.check_value, at, current_at=stored.created_at or at)
        used = first.id
    else:
        used = current.id
    configured = _first(held, kind)
    if not folder.embedded(kind) and configured.id != used and secrets.find(kind, configured.id) is None:
        secrets.add(kind, configured.id, configured.check_value, at)
    return used


def _first(held: Sequence[Secret], kind: SecretKind) -> Secret:
    return next(secret for secret in held if secret.kind == kind)


def _check_value(stored: Installation, kind: SecretKind) -> str:
    return stored.kek_check if kind == "encryption" else stored.secret_key_check
