"""What a chat session is to whoever looks at it: its sessions, turns, calls and events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.llm.messages import Image, Usage

TurnStatus = Literal["running", "awaiting_approval", "done", "failed", "cancelled"]
CallStatus = Literal[
    "pending_approval",
    "running",
    "succeeded",
    "failed",
    "unknown",
    "denied",
    "expired",
    "cancelled",
    "previewed",
    "refused",
]
Source = Literal["user", "context", "result", "untrusted_result", "attachment", "model"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a caller sends: words, pictures, and the session they belong to (None begins one).

    ``text`` has passed the rules for text from outside and ``images`` are what they say they are.
    """

    text: str
    request_id: str
    client: str
    session_id: str | None = None
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from. ``attempt_id`` and ``pointer`` (RFC 6901) lead to the field of a result, ``message`` to
    the entry of the session that the words stand in. ``model``: it stands in nothing that entered the session.
    """

    source: Source
    attempt_id: str | None = None
    pointer: str | None = None
    message: int | None = None


@dataclass(frozen=True, slots=True)
class CallView:
    """An action that the conversation has asked for, as it stands.

    ``params`` are masked. ``result`` is what the action returned, with links and images made harmless: data, never
    instructions; ``untrusted`` says that it may hold content from outside. ``preview`` is what the action would do,
    where it waits or was only previewed. ``digest`` is that of the step that waits. ``origins`` says of each
    parameter (JSON Pointer) where its value came from.
    """

    id: str
    action: str
    status: CallStatus
    params: dict[str, Any]
    summary: str
    effect: str
    attempt_id: str | None = None
    approval_id: str | None = None
    digest: str | None = None
    expires_at: int | None = None
    preview: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: tuple[str, str] | None = None
    untrusted: bool = False
    origins: dict[str, list[Origin]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnView:
    """One turn of a session: what was said, what was called, what was answered.

    ``message`` is the answer's text so far, links and images made harmless; ``untrusted`` says that content from
    outside may have had a say in it. ``error`` is a stable code and a sentence, for a turn that failed, and
    ``retry_after`` in how many seconds it may help to say it again, None where nobody knows. ``spent`` is what models
    have cost in the session so far, in billionths of a US dollar. ``planned`` says that no model has answered, but
    Relay's own planner.
    """

    id: str
    session_id: str
    status: TurnStatus
    message: str
    calls: Sequence[CallView]
    usage: Usage
    model: str
    untrusted: bool
    error: tuple[str, str] | None = None
    retry_after: int | None = None
    spent: int = 0
    planned: bool = False


@dataclass(frozen=True, slots=True)
class EntryView:
    """An entry of a session as its owner reads it: ``user``, ``assistant``, ``call`` or ``note``."""

    seq: int
    turn_id: str
    kind: str
    at: int
    text: str
    images: int = 0
    call: CallView | None = None


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its owner sees it. ``spent`` is in billionths of a US dollar."""

    id: str
    created_at: int
    last_used_at: int
    expires_at: int
    turns: int
    status: TurnStatus | None
    untrusted: bool
    spent: int


@dataclass(frozen=True, slots=True)
class Event:
    """What happened in a session. ``id`` is what a ``Last-Event-ID`` names, None for what cannot be resumed after.

    ``kind`` and ``data``: ``session`` {session_id}, ``delta`` {turn_id, offset, text}, ``message`` {turn_id, text} (the
    whole, in place of all deltas), ``call`` (a call as it stands, whenever that changes), ``turn`` {turn_id, status,
    message, usage, …: as the answer of ``POST /chat/``}, ``end`` {reason}. Calls and turns have the form that
    :mod:`relay.chat.shown` gives them: ``shown_call(view).model_dump()``, ``shown_turn(view).model_dump()``.
    """

    kind: str
    data: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class TurnHandle:
    """A turn that has begun. ``after`` is the :class:`Event` id after which its events come; ``created``: so has the
    session, with it.
    """

    session_id: str
    turn_id: str
    after: str
    created: bool
