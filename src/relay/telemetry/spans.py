"""Spans, without the library that exports them: code says what it does, and pays next to nothing while nobody traces.

A span is a child of the one around it. Where there is none, :func:`span` does nothing: traces begin at the edge, at a
step of a run and at a delivery, with :func:`root`. Attributes are ids, names of the catalogue and outcomes; parameters,
addresses and what others say never are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Literal, Protocol

from relay.telemetry import context
from relay.telemetry.traceparent import TraceParent

Value = str | int | float | bool
Kind = Literal["server", "client", "consumer", "producer", "internal"]


class Recording(Protocol):
    """One span under way."""

    @property
    def place(self) -> TraceParent:
        """The span's own ids, as others are told of it."""
        ...

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> "Recording":
        """Begin a span within this one."""
        ...

    def set(self, **attributes: Value) -> None:
        """Add attributes; ``__`` in a name stands for a point."""
        ...

    def name(self, name: str) -> None:
        """Give the span another name."""
        ...

    def fail(self, kind: str) -> None:
        """Mark the span as failed, with a code or a type; no text of an error."""
        ...

    def end(self) -> None:
        """End the span."""
        ...


class Tracer(Protocol):
    """Begins traces."""

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: TraceParent | None,
        cause: TraceParent | None,
        attributes: Mapping[str, Value],
    ) -> Recording:
        """Begin a span below ``parent``, a trace of its own without one; ``cause`` is linked."""
        ...

    def remember(self, request_id: str, place: TraceParent) -> None:
        """Remember for a while where a request is recorded."""
        ...

    def cause_of(self, request_id: str) -> TraceParent | None:
        """Return where a request was recorded, None when it was not or that is forgotten."""
        ...


_current: ContextVar[Recording | None] = ContextVar("relay_span", default=None)
_tracer: ContextVar[Tracer | None] = ContextVar("relay_tracer", default=None)
_passed_on: ContextVar[TraceParent | None] = ContextVar("relay_traceparent", default=None)


class _Nothing:
    """A span that nobody records."""

    place = TraceParent("0" * 32, "0" * 16, sampled=False)

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> Recording:
        return self

    def set(self, **attributes: Value) -> None:
        return

    def name(self, name: str) -> None:
        return

    def fail(self, kind: str) -> None:
        return

    def end(self) -> None:
        return


NOTHING: Recording = _Nothing()


def place() -> TraceParent | None:
    """Return where the code is in a trace: the span around it, or what the caller has said where nobody traces."""
    recording = _current.get()
    return _passed_on.get() if recording is None else recording.place


@contextmanager
def span(name: str, kind: Kind = "internal", **attributes: Value) -> Iterator[Recording]:
    """Record the block as a span within the one around it; an exception marks it as failed, with its type alone."""
    around = _current.get()
    if around is None:
        yield NOTHING
        return
    with _under_way(around.child(name, kind, attributes)) as recording:
        yield recording


def use(tracer: Tracer | None) -> None:
    """Have :func:`root` begin traces with this tracer, in this task and those that are made from now on."""
    _tracer.set(tracer)


def cause_of(request_id: str) -> TraceParent | None:
    """Return where a request of this process was recorded, None for one that was not or is long past."""
    tracer = _tracer.get()
    return None if tracer is None else tracer.cause_of(request_id)


def recorded_place() -> str:
    """Return :func:`place` as text for work that goes on later, maybe elsewhere; empty where nothing is recorded."""
    recording = _current.get()
    return "" if recording is None else recording.place.text()


@contextmanager
def root(
    name: str,
    kind: Kind = "consumer",
    *,
    about: Mapping[str, Value],
    parent: TraceParent | None = None,
    cause: TraceParent | None = None,
) -> Iterator[Recording]:
    """Record the block as a span whose parent is not around it: a request that is over, of another process perhaps.

    ``cause`` is what it is linked with instead, as a trace of its own.
    """
    tracer = _tracer.get()
    if tracer is None:
        token = _passed_on.set(parent)
        try:
            yield NOTHING
        finally:
            _passed_on.reset(token)
        return
    with _under_way(tracer.begin(name, kind, parent, cause, about)) as recording:
        yield recording


@contextmanager
def _under_way(recording: Recording) -> Iterator[Recording]:
    token = _current.set(recording)
    own = recording.place
    try:
        with context.bound(trace_id=own.trace_id, span_id=own.span_id):
            yield recording
    except BaseException as error:
        recording.fail(type(error).__name__)
        raise
    finally:
        _current.reset(token)
        recording.end()


def enter(recording: Recording | None, passed_on: TraceParent | None) -> Token[Recording | None]:
    """Have the rest of the task, up to :func:`leave`, be within ``recording``; without one a parent is passed on."""
    _passed_on.set(passed_on)
    found = recording.place if recording is not None else passed_on
    if found is not None:
        context.bind(trace_id=found.trace_id, span_id=found.span_id)
    return _current.set(recording)


def leave(token: Token[Recording | None]) -> None:
    """Undo :func:`enter`."""
    _current.reset(token)
    _passed_on.set(None)
