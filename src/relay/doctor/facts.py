"""What the checks judge: facts about one installation, gathered once. Nothing in here is secret.

A group of facts that could not be gathered is a text that says why; whoever asks for it meets
:class:`~relay.doctor.check.Unseen`.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, TypeVar

from relay.doctor.check import Unseen
from relay.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Machine:
    """What Relay runs on. ``files`` are the bytes free where the data folder is or will be, and the size of it all."""

    today: date
    python: tuple[int, int]
    sqlite: tuple[int, int, int]
    openssl: tuple[int, int]
    free_bytes: int
    free_files: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder: its name within the folder that was looked through, permission bits, and owner."""

    name: str
    mode: int
    owner: int


@dataclass(frozen=True, slots=True)
class Folder:
    """The data folder, ``entries`` being everything in it; ``owner`` and ``mode`` are its own, ``us`` is this user."""

    path: Path
    mode: int
    owner: int
    us: int
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Backups:
    """The folder that ``BACKUP_FOLDER`` names. ``newest_age`` is in seconds, None where it holds no file."""

    exists: bool
    newest_age: float | None = None
    newest_size: int = 0
    exposed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecretUse:
    """One secret, and since when it is in use, in microseconds."""

    name: str
    since: int


@dataclass(frozen=True, slots=True)
class Key:
    """An API key that opens something. Times are in microseconds."""

    id: str
    kind: str
    workspace: str
    scopes: frozenset[str]
    name: str
    created_at: int
    expires_at: int
    last_used_at: int | None


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit log. ``broken`` says why it does not verify; times are in microseconds, None where there is none."""

    size: int
    broken: str | None = None
    last_event_at: int | None = None
    first_unsigned_at: int | None = None


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """What PostgreSQL says of itself. ``clock_ahead`` is in seconds, ``processes`` counts Relay's writers."""

    version: int
    clock_ahead: float
    superuser: bool
    processes: int


@dataclass(frozen=True, slots=True)
class Store:
    """What stands in an installed database at the newest schema. ``wrong_keys`` says which root keys do not fit."""

    keys: tuple[Key, ...] = ()
    disabled_endpoints: tuple[str, ...] = ()
    audit: Audit = Audit(0)
    wrong_keys: tuple[str, ...] = ()
    secrets: tuple[SecretUse, ...] = ()


State = Literal["none", "old", "current", "newer"]


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The database itself: how its schema stands to this version's, and whether an installation lives in it."""

    schema: State
    installed: bool
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks look at."""

    at: int
    problems: tuple[str, ...]
    machine: Machine
    settings_seen: Settings | str
    redis_answers: bool | None = None
    folder_seen: Folder | str = "there is no data folder yet"
    backups_seen: Backups | str = "BACKUP_FOLDER is not set"
    database_seen: DatabaseState | str = "the database was not looked at"
    postgres_seen: PostgresServer | str = "the database is not PostgreSQL"
    store_seen: Store | str = "the database was not looked at"

    @property
    def settings(self) -> Settings:
        """The settings, which may still be refused together; Unseen when one of them is."""
        return _seen(self.settings_seen)

    @property
    def folder(self) -> Folder:
        """The data folder; Unseen while there is none."""
        return _seen(self.folder_seen)

    @property
    def backups(self) -> Backups:
        """The folder of backups; Unseen where none is named."""
        return _seen(self.backups_seen)

    @property
    def database(self) -> DatabaseState:
        """The state of the database; Unseen when it does not answer."""
        return _seen(self.database_seen)

    @property
    def postgres(self) -> PostgresServer:
        """PostgreSQL's own facts; Unseen with SQLite."""
        return _seen(self.postgres_seen)

    @property
    def store(self) -> Store:
        """What stands in the database; Unseen without an installation at the newest schema."""
        return _seen(self.store_seen)


def _seen(found: T | str) -> T:
    if isinstance(found, str):
        raise Unseen(found)
    return found
