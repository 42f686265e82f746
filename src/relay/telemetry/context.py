"""What the code is working on: ids that every log line and span carries, from the edge to the upstream call.

They follow ``await`` and the tasks that are made meanwhile. Values are ids that Relay made, or a request id that passed
the edge; nothing else a caller sent belongs here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Final, TypedDict, Unpack

Bound = Mapping[str, str]

NAMES: Final = (
    "request_id",
    "trace_id",
    "span_id",
    "principal",
    "workspace",
    "run_id",
    "step_id",
    "attempt_id",
    "action",
    "delivery_id",
)
"""What can be bound, in the order in which log lines have it."""


class Ids(TypedDict, total=False):
    """The names of :data:`NAMES`, for whoever binds them."""

    request_id: str
    trace_id: str
    span_id: str
    principal: str
    workspace: str
    run_id: str
    step_id: str
    attempt_id: str
    action: str
    delivery_id: str


_NOTHING: Final[Bound] = {}
_bound: ContextVar[Bound] = ContextVar("relay_bound", default=_NOTHING)


def current() -> Bound:
    """Return what is bound; not to be changed."""
    return _bound.get()


def begin(**ids: Unpack[Ids]) -> Token[Bound]:
    """Bind ``ids`` and nothing else: a request that came in on a used connection inherits nothing from the last."""
    return _bound.set(ids)  # type: ignore[arg-type]  # every value of a TypedDict of texts is a text


def restore(token: Token[Bound]) -> None:
    """Bind again what was bound before the :func:`begin` that returned ``token``."""
    _bound.reset(token)


def bind(**ids: Unpack[Ids]) -> None:
    """Bind ``ids`` beside what is bound, until the task or the surrounding :func:`bound` ends."""
    _bound.set({**_bound.get(), **ids})  # type: ignore[dict-item]


@contextmanager
def bound(**ids: Unpack[Ids]) -> Iterator[None]:
    """Bind ``ids`` beside what is bound, within the block."""
    token = _bound.set({**_bound.get(), **ids})  # type: ignore[dict-item]
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def alone(**ids: Unpack[Ids]) -> Iterator[None]:
    """Bind ``ids`` and nothing else within the block: work that somebody else's request may have woken."""
    token = begin(**ids)
    try:
        yield
    finally:
        _bound.reset(token)
