"""What callers of the chat send, and the answers that are not a turn, a call or a session."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from relay.chat.attachments import MAX_ATTACHMENTS, MAX_BASE64, Attachment
from relay.chat.shown import EntryItem, SessionItem
from relay.core.validation import printable

MAX_MESSAGE: Final = 16_384
MAX_COMMENT: Final = 1_000
MAX_PAGE: Final = 100
DEFAULT_PAGE: Final = 20
# The message with every character written as a pair of \uXXXX, the names, and what JSON itself takes.
BODY_LIMIT: Final = MAX_ATTACHMENTS * MAX_BASE64 + 12 * MAX_MESSAGE + 64 * 1024

# Whatever its form, an id that leads nowhere is a 404 and tells nothing.
_SessionId = Annotated[str, Field(max_length=200)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChatRequest(_In):
    """What is said. Without ``session_id`` it begins a session; no caller can choose the id of one."""

    message: Annotated[
        str, Field(min_length=1, max_length=MAX_MESSAGE, examples=["Email ada@example.com about lunch saying hello"])
    ]
    session_id: _SessionId | None = None
    attachments: Annotated[list[Attachment], Field(max_length=MAX_ATTACHMENTS)] = []


class SessionsQuery(_In):
    """A page of sessions, newest first."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Field(max_length=200)] | None = None


class EntriesQuery(_In):
    """A page of a session's entries, oldest first."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Field(max_length=200)] | None = None


class CallDecision(_In):
    """A decision. ``digest`` is that of the step that was looked at, 64 lower-case hex digits."""

    digest: Annotated[str, Field(max_length=200, examples=["0" * 64])]
    comment: Annotated[str, AfterValidator(printable), Field(max_length=MAX_COMMENT)] = ""


class CallEdit(_In):
    """The parameters that shall take the place of the draft's, all of them."""

    params: dict[str, Any]


class SessionList(BaseModel):
    """Sessions of the caller's."""

    items: list[SessionItem]
    next_cursor: str | None


class SessionAnswer(BaseModel):
    """A session with a page of what was said and done in it."""

    session: SessionItem
    entries: list[EntryItem]
    next_cursor: str | None


class SessionDeleted(BaseModel):
    """The session is gone, with everything in it."""

    session_id: str
    deleted: Literal[True] = True


class CallDecided(BaseModel):
    """How request and attempt stand after a decision; what was approved then runs, and the conversation goes on."""

    call_id: str
    approval_id: str
    approval_status: str
    approvals: int
    approvers: int
    attempt_id: str
    status: str
