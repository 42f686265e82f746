"""The secrets of an installation as rows, and the processes that hold them. Everything here is the installation's."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from relay.core.clock import MICROSECONDS
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import api_keys, audit_head, generations, installation, peppers
from relay.store.tables.secrets import processes, secret_keys
from relay.store.writer import Tx

LIVING: Final = 60 * MICROSECONDS
"""How long after it was last seen a process counts as living; it works on its own knowledge for less than half that."""


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A secret by its id; ``state`` is known, current, old or retired. Times are microseconds."""

    kind: str
    id: str
    state: str
    check_value: str
    first_seen_at: int
    current_at: int | None = None
    ends_at: int | None = None
    retired_at: int | None = None
    endorsement: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A living process: the secrets that it holds (``kind:id``), and which one of each kind it works with."""

    id: str
    kind: str
    holds: frozenset[str]
    uses: Mapping[str, str]
    started_at: int
    seen_at: int


@dataclass(frozen=True, slots=True)
class PepperRow:
    """A pepper that is not retired; ``current_at`` is set once keys are hashed with it."""

    id: str
    created_at: int
    current_at: int | None


_SECRET: Final = tuple(secret_keys.c[field.name] for field in fields(SecretRow))
_PROCESS: Final = tuple(processes.c[field.name] for field in fields(ProcessRow))
_ALL: Final = select(*_SECRET).order_by(secret_keys.c.kind, secret_keys.c.first_seen_at, secret_keys.c.id)
_ROWS: Final = Query(_ALL)
_THIS: Final = (secret_keys.c.kind == bindparam("k"), secret_keys.c.id == bindparam("i"))
_LOCK: Final = Query(select(generations.c.value).where(generations.c.name == "secrets").with_for_update())
_BUMP: Final = Query(update(generations).where(generations.c.name == "secrets").values(value=generations.c.value + 1))
_CURRENT: Final = Query(
    select(secret_keys.c.id)
    .where(secret_keys.c.kind == bindparam("k"), secret_keys.c.state == "current")
    .with_for_update(read=True)
)
_ADD: Final = Query(insert(secret_keys))
_PROMOTE: Final = Query(update(secret_keys).where(*_THIS).values(state="current", current_at=bindparam("at")))
_DEMOTE: Final = Query(
    update(secret_keys)
    .where(secret_keys.c.kind == bindparam("k"), secret_keys.c.state == "current")
    .values(state="old", ends_at=bindparam("ends"))
)
_RETIRE: Final = Query(
    update(secret_keys).where(*_THIS).values(state="retired", retired_at=bindparam("at"), endorsement=bindparam("note"))
)
_FORGET: Final = Query(delete(secret_keys).where(*_THIS))
_CHECKS: Final = {
    "encryption": Query(update(installation).values(kek_check=bindparam("value"))),
    "signing": Query(update(installation).values(secret_key_check=bindparam("value"))),
}
_ENTER: Final = Query(insert(processes))
_BEAT: Final = Query(
    update(processes)
    .where(processes.c.id == bindparam("p"))
    .values(holds=bindparam("held"), uses=bindparam("used"), seen_at=bindparam("at"))
)
_LEAVE: Final = Query(delete(processes).where(processes.c.id == bindparam("p")))
_SOLE: Final = Query(delete(processes).where(processes.c.kind == bindparam("k"), processes.c.id != bindparam("p")))
_GONE: Final = Query(delete(processes).where(processes.c.seen_at < bindparam("before")))
_HERE: Final = Query(select(*_PROCESS).where(processes.c.seen_at >= bindparam("after")).order_by(processes.c.id))
_SIZE: Final = Query(select(audit_head.c.size))
_PEPPERS: Final = (
    select(peppers.c.id, peppers.c.created_at, peppers.c.current_at)
    .where(peppers.c.retired_at.is_(None))
    .order_by(func.coalesce(peppers.c.current_at, 0).desc(), peppers.c.id.desc())
)
_PEPPER_ROWS: Final = Query(_PEPPERS)
_ADD_PEPPER: Final = Query(insert(peppers))
_USE_PEPPER: Final = Query(update(peppers).where(peppers.c.id == bindparam("i")).values(current_at=bindparam("at")))
_RETIRE_PEPPER: Final = Query(update(peppers).where(peppers.c.id == bindparam("i")).values(retired_at=bindparam("at")))
_NEEDING: Final = (
    api_keys.c.pepper_id == bindparam("pepper"),
    api_keys.c.revoked_at.is_(None),
    api_keys.c.expires_at > bindparam("at"),
)
_NEED_PEPPER: Final = Query(select(func.count()).select_from(api_keys).where(*_NEEDING))
_BUMP_KEYS: Final = Query(update(generations).where(generations.c.name == "keys").values(value=generations.c.value + 1))


async def read_secrets(reader: Reader) -> list[SecretRow]:
    """Return every secret, each kind's oldest first."""
    return [SecretRow(*row) for row in await reader.all(_ALL)]


async def read_peppers(reader: Reader) -> list[PepperRow]:
    """Return the peppers that are not retired, the one that keys are hashed with first."""
    return [PepperRow(*row) for row in await reader.all(_PEPPERS)]


def current_of(tx: Tx, kind: str) -> str | None:
    """Return the id of the current secret of a kind, which stays current until the transaction ends."""
    row = tx.one(_CURRENT, k=kind)
    return str(row[0]) if row else None


class Secrets:
    """The secrets and processes in a transaction, which no other rotation can change until it ends."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        tx.one(_LOCK)
        self.rows: Final = [SecretRow(*row) for row in tx.all(_ROWS)]

    def of(self, kind: str) -> list[SecretRow]:
        """Return the secrets of a kind, the oldest first."""
        return [row for row in self.rows if row.kind == kind]

    def find(self, kind: str, id: str) -> SecretRow | None:
        """Return a secret, or None."""
        return next((row for row in self.of(kind) if row.id == id), None)

    def current(self, kind: str) -> SecretRow | None:
        """Return the current secret of a kind; None where there is none yet."""
        return next((row for row in self.of(kind) if row.state == "current"), None)

    def add(self, kind: str, id: str, check_value: str, at: int, *, current_at: int | None = None) -> None:
        """Insert a secret, as the current one where ``current_at`` says since when."""
        self._tx.run(
            _ADD,
            kind=kind,
            id=id,
            state="known" if current_at is None else "current",
            check_value=check_value,
            first_seen_at=at,
            current_at=current_at,
            ends_at=None,
            retired_at=None,
            endorsement=None,
        )
        self._bump()

    def promote(self, row: SecretRow, at: int, *, ends_at: int | None = None) -> None:
        """Make a secret the current one of its kind; the one before becomes old, until ``ends_at`` where it ends."""
        self._tx.run(_DEMOTE, k=row.kind, ends=ends_at)
        self._tx.run(_PROMOTE, k=row.kind, i=row.id, at=at)
        if row.kind in _CHECKS:
            self._tx.run(_CHECKS[row.kind], value=row.check_value)
        self._bump()

    def retire(self, row: SecretRow, at: int, endorsement: str | None = None) -> None:
        """Mark a secret as needed by nothing any more."""
        self._tx.run(_RETIRE, k=row.kind, i=row.id, at=at, note=endorsement)
        self._bump()

    def forget(self, row: SecretRow) -> None:
        """Remove a secret that was never used."""
        self._tx.run(_FORGET, k=row.kind, i=row.id)
        self._bump()

    def enter(self, process: ProcessRow) -> None:
        """Add a process, and take out those that are gone."""
        self._tx.run(_GONE, before=process.seen_at - LIVING)
        holds, uses = _text(process.holds), json.dumps(dict(process.uses))
        self._tx.run(
            _ENTER,
            id=process.id,
            kind=process.kind,
            holds=holds,
            uses=uses,
            started_at=process.started_at,
            seen_at=process.seen_at,
        )

    def living(self, at: int) -> list[ProcessRow]:
        """Return the processes that were seen a short while ago."""
        return [
            ProcessRow(row[0], row[1], frozenset(json.loads(row[2])), json.loads(row[3]), row[4], row[5])
            for row in self._tx.all(_HERE, after=at - LIVING)
        ]

    def log_size(self) -> int:
        """Return how many events the audit log has."""
        row = self._tx.one(_SIZE)
        return int(row[0]) if row else 0

    def peppers(self) -> list[PepperRow]:
        """As :func:`read_peppers`."""
        return [PepperRow(*row) for row in self._tx.all(_PEPPER_ROWS)]

    def add_pepper(self, pepper_id: str, envelope: bytes, at: int) -> None:
        """Insert a pepper that no key is hashed with yet."""
        self._tx.run(_ADD_PEPPER, id=pepper_id, envelope=envelope, created_at=at, retired_at=None, current_at=None)
        self._bump_keys()

    def use_pepper(self, pepper_id: str, at: int) -> None:
        """Have keys hashed with this pepper from now on."""
        self._tx.run(_USE_PEPPER, i=pepper_id, at=at)
        self._bump_keys()

    def retire_pepper(self, pepper_id: str, at: int) -> None:
        """Look no key up with this pepper any more."""
        self._tx.run(_RETIRE_PEPPER, i=pepper_id, at=at)
        self._bump_keys()

    def keys_under(self, pepper_id: str, at: int) -> int:
        """Return how many living keys are hashed with a pepper."""
        row = self._tx.one(_NEED_PEPPER, pepper=pepper_id, at=at)
        return int(row[0]) if row else 0

    def _bump_keys(self) -> None:
        self._tx.run(_BUMP_KEYS)
        self._bump()

    def _bump(self) -> None:
        self._tx.run(_BUMP)


def beat(tx: Tx, process_id: str, holds: Iterable[str], uses: Mapping[str, str], at: int) -> bool:
    """Say that a process lives, and what it holds and uses; False when it was taken for gone."""
    return tx.run(_BEAT, p=process_id, held=_text(holds), used=json.dumps(dict(uses)), at=at) == 1


def leave(tx: Tx, process_id: str) -> None:
    """Take a process out that ends."""
    tx.run(_LEAVE, p=process_id)


def only_one(tx: Tx, kind: str, process_id: str) -> None:
    """Take every other process of a kind out; for whoever holds a lock that proves them gone."""
    tx.run(_SOLE, k=kind, p=process_id)


def _text(holds: Iterable[str]) -> str:
    return json.dumps(sorted(holds))
