"""Comparing the secrets that are held with those that a database needs, without entering it: nothing is written."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from relay.audit.heads import head_signer
from relay.audit.trust import PastKey, Trust, endorsed
from relay.doctor.facts import SecretUse
from relay.rotation.identify import KINDS, Secret, identify
from relay.settings import Settings, SettingsError
from relay.settings.key_folder import FILES, SETTINGS, KeyFolder, SecretKind
from relay.settings.keys import ensure_keys
from relay.store.reader import Reader
from relay.store.rotation import SecretRow, read_peppers, read_secrets
from relay.store.tables import installation
from relay.store.writer import StoreUnavailable

_ROOTS: Final[tuple[SecretKind, ...]] = ("signing", "encryption")


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What is wrong with the secrets that are held, what the log's heads are compared with, and ages of what is used.

    ``trust`` is None where the signing key is not the database's.
    """

    wrong: tuple[str, ...]
    trust: Trust | None
    uses: tuple[SecretUse, ...]


async def unlock(reader: Reader, settings: Settings) -> Unlocked:
    """Compare the secrets of the settings and of the data folder with what the database names."""
    row = await reader.one(
        select(installation.c.id, installation.c.created_at, installation.c.secret_key_check, installation.c.kek_check)
    )
    if row is None:
        raise StoreUnavailable("the installation is gone")
    rows = await read_secrets(reader)
    uses = await _uses(reader, rows, int(row[1]))
    try:
        held = _held(settings)
    except SettingsError as error:
        return Unlocked(tuple(error.problems), None, uses)
    checks = {"signing": str(row[2]), "encryption": str(row[3])}
    wrong = [sentence for kind in _ROOTS for sentence in _wrong(kind, rows, checks[kind], held)]
    return Unlocked(tuple(wrong), _trust(rows, held, checks["signing"], str(row[0])), uses)


def _held(settings: Settings) -> list[Secret]:
    """Return every secret of this installation that is here; SettingsError for what is missing or must not be read."""
    given = {"signing": settings.secret_key, "encryption": settings.oauth_encryption_key}
    for kind in _ROOTS:
        path = settings.data_dir / "keys" / FILES[kind]
        if given[kind] is None and not path.exists():
            # Asked for here, since looking for the key further on makes its folder.
            raise SettingsError([f"{SETTINGS[kind]}: {path} is missing"])
    return identify(KeyFolder(settings, ensure_keys(settings, database_has_data=True)).held())


def _wrong(kind: SecretKind, rows: list[SecretRow], check: str, held: list[Secret]) -> list[str]:
    ours = {secret.check_value for secret in held if secret.kind == kind}
    current = _current(rows, kind)
    if (check if current is None else current.check_value) not in ours:
        return [f"{SETTINGS[kind]} is not the key that the database was set up with"]
    return [
        f"{SETTINGS[kind]}_PREVIOUS: the key {row.id} is still needed"
        for row in rows
        if row.kind == kind and row.state == "old" and row.check_value not in ours
    ]


def _current(rows: list[SecretRow], kind: str) -> SecretRow | None:
    return next((row for row in rows if row.kind == kind and row.state == "current"), None)


def _trust(rows: list[SecretRow], held: list[Secret], check: str, name: str) -> Trust | None:
    vkeys = {
        secret.check_value: head_signer(secret.value, name).vkey
        for secret in held
        if secret.kind == "signing" and isinstance(secret.value, bytes)
    }
    signing = sorted((row for row in rows if row.kind == "signing"), key=lambda row: -(row.current_at or 0))
    current = _current(signing, "signing")
    vkey = vkeys.get(check if current is None else current.check_value)
    if vkey is None:
        return None
    changing = [PastKey(vkeys[row.check_value]) for row in signing if row.state == "old" and row.check_value in vkeys]
    notes = [row.endorsement for row in signing if row.endorsement]
    return Trust((vkey,), past=(*changing, *endorsed(notes, vkey)))


async def _uses(reader: Reader, rows: list[SecretRow], began_at: int) -> tuple[SecretUse, ...]:
    found = []
    for kind in KINDS:
        row = _current(rows, kind)
        if row is not None:
            found.append(SecretUse(SETTINGS[kind], row.current_at or row.first_seen_at))
        elif kind in _ROOTS:
            found.append(SecretUse(SETTINGS[kind], began_at))
    for pepper in (await read_peppers(reader))[:1]:
        found.append(SecretUse("pepper", pepper.current_at or pepper.created_at))
    return tuple(found)
