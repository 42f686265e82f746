"""Cursors of pages: where the last one ended. Whoever makes one up sees no more than their own sessions."""

from typing import Final

from relay.core.problem import BadRequest
from relay.store.chat import SessionRow

_NONE: Final = "This cursor is none that a page was answered with."


def cursor_after(session: SessionRow) -> str:
    """Return the cursor of a page that ended with a session."""
    return f"{session.created_at}.{session.id}"


def place_of(cursor: str | None) -> tuple[int, str] | None:
    """Return creation and hash of the session that a page ended with, None without one; 400 for what is no cursor."""
    if cursor is None:
        return None
    created, dot, hashed = cursor.partition(".")
    if not (created.isascii() and created.isdigit() and len(created) <= 18 and dot and hashed.isalnum()):
        raise BadRequest(_NONE)
    return int(created), hashed


def number_of(cursor: str | None) -> int:
    """Return the number of the entry that a page ended with, 0 without one; 400 for what is no cursor."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 9):
        raise BadRequest(_NONE)
    return int(cursor)
