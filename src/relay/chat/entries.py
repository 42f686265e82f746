"""What the entries of a session say, as they are sealed. They are only ever added, and read as they were written."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from pydantic_core import to_json

from relay.chat.views import CallStatus, Origin, TurnStatus
from relay.llm.messages import Usage

EntryKind = Literal["user", "assistant", "call", "note", "turn"]


@dataclass(frozen=True, slots=True)
class UserEntry:
    """What the owner said, and from which address. ``media`` are the types of the pictures, which lie beside it."""

    text: str
    media: tuple[str, ...] = ()
    client: str = ""


@dataclass(frozen=True, slots=True)
class Called:
    """A call as it was asked for: ``id`` is Relay's own, ``function`` and ``arguments`` are what the model wrote."""

    id: str
    function: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A step of the local planner's: its parameters may refer to the results of earlier ones by their step ids."""

    id: str
    action: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AssistantEntry:
    """One answer of a model, or of the local planner with what it has ``planned`` for the whole turn."""

    text: str
    model: str
    calls: tuple[Called, ...] = ()
    usage: Usage = field(default_factory=Usage)
    cut: bool = False
    untrusted: bool = False
    planned: tuple[Planned, ...] = ()


@dataclass(frozen=True, slots=True)
class CallEntry:
    """A call as it stood. ``wanted`` are its parameters while it has yet to be performed; ``params`` are masked.

    ``revision`` counts how often its owner has edited it.
    """

    id: str
    action: str
    status: CallStatus
    params: dict[str, Any]
    summary: str
    effect: str
    wanted: dict[str, Any] | None = None
    revision: int = 0
    attempt_id: str | None = None
    approval_id: str | None = None
    digest: str | None = None
    expires_at: int | None = None
    preview: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: tuple[str, str] | None = None
    untrusted: bool = False
    origins: dict[str, list[Origin]] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether it has begun and not ended: it waits for an approval, or for its time, or it runs."""
        return self.status in WAITING and self.wanted is None

    @property
    def is_due(self) -> bool:
        """Whether it has yet to be performed."""
        return self.status == "running" and self.wanted is not None


@dataclass(frozen=True, slots=True)
class NoteEntry:
    """A sentence of Relay's own about the turn, with a stable code."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class TurnEntry:
    """A turn has come to another status. ``retry_after`` counts from then on."""

    status: TurnStatus
    error: tuple[str, str] | None = None
    retry_after: int | None = None


Body = UserEntry | AssistantEntry | CallEntry | NoteEntry | TurnEntry

WAITING: Final[frozenset[str]] = frozenset({"pending_approval", "running"})

_KINDS: Final[dict[type[Any], EntryKind]] = {
    UserEntry: "user",
    AssistantEntry: "assistant",
    CallEntry: "call",
    NoteEntry: "note",
    TurnEntry: "turn",
}
_READERS: Final[dict[str, TypeAdapter[Any]]] = {name: TypeAdapter(kind) for kind, name in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry with its place. ``body`` is None once what it said was erased after its retention."""

    seq: int
    turn_id: str
    kind: str
    at: int
    body: Body | None


def kind_of(body: Body) -> EntryKind:
    """Return the kind of an entry by what it says."""
    return _KINDS[type(body)]


def pack(body: Body) -> bytes:
    """Return what an entry says as it is sealed. Text that is no Unicode has been made storable before."""
    return to_json(body)


def unpack(kind: str, plaintext: bytes) -> Body:
    """Return what :func:`pack` was given."""
    found: Body = _READERS[kind].validate_json(plaintext)
    return found
