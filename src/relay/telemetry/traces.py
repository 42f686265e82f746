"""Recording spans and keeping them until they are exported: ids, times and a few attributes, never what was said.

What waits is bounded: while nobody takes spans, new ones are dropped and counted. Whether a request is traced is
decided here and by chance alone; what a caller says in its ``traceparent`` gives the trace its id and decides nothing,
or anybody could have every request of theirs recorded. What follows from a traced request is traced with it.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from relay.telemetry.redaction import redact_text
from relay.telemetry.spans import Kind, Value
from relay.telemetry.traceparent import TraceParent

MAX_WAITING: Final = 4096
MAX_REMEMBERED: Final = 4096
MAX_ATTRIBUTES: Final = 32
MAX_VALUE: Final = 200
QUIET: Final = frozenset({"/health", "/ready", "/metrics"})
"""Routes whose requests are not exported: orchestrators and scrapers ask them all the time."""


class Span:
    """One span; what :class:`~relay.telemetry.spans.Recording` promises."""

    __slots__ = ("attributes", "began", "cause", "ended", "failed", "kind", "parent", "place", "title", "traces")

    def __init__(
        self,
        traces: "Traces",
        title: str,
        kind: Kind,
        place: TraceParent,
        parent: str,
        cause: TraceParent | None,
        attributes: Mapping[str, Value],
    ) -> None:
        self.traces = traces
        self.title = title
        self.kind = kind
        self.place = place
        self.parent = parent
        self.cause = cause
        self.attributes: dict[str, Value] = {}
        self.set(**attributes)
        self.failed = ""
        self.began = time.time_ns()
        self.ended = 0

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> "Span":
        """Begin a span within this one."""
        own = TraceParent(self.place.trace_id, _span_id(), self.place.sampled)
        return Span(self.traces, name, kind, own, self.place.span_id, None, attributes)

    def set(self, **attributes: Value) -> None:
        """Add attributes; ``__`` in a name stands for a point."""
        for name, value in attributes.items():
            if len(self.attributes) < MAX_ATTRIBUTES:
                self.attributes[name.replace("__", ".")] = value

    def name(self, name: str) -> None:
        """Give the span another name."""
        self.title = name

    def fail(self, kind: str) -> None:
        """Mark the span as failed."""
        self.failed = kind

    def end(self) -> None:
        """End the span and have it exported, if its trace is; the first call counts."""
        if self.ended:
            return
        self.ended = max(time.time_ns(), self.began)
        if self.place.sampled and self.attributes.get("http.route") not in QUIET:
            self.traces.keep(self)


class Traces:
    """Begins traces and keeps their spans. ``ratio`` is the part of the requests that is traced, 0 to 1.

    ``wake`` is called when there is enough to export.
    """

    def __init__(self, ratio: float, *, most: int = MAX_WAITING, enough: int = MAX_WAITING // 8) -> None:
        self._ratio = ratio
        self._most = most
        self._enough = enough
        self.waiting: deque[Span] = deque()
        self.dropped = 0
        self._requests: dict[str, TraceParent] = {}
        self.wake: Callable[[], None] = lambda: None

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: TraceParent | None,
        cause: TraceParent | None,
        attributes: Mapping[str, Value],
    ) -> Span:
        """Begin a span below ``parent``, a trace of its own without one; ``cause`` is linked."""
        decided = None if kind == "server" else parent or cause
        by_chance = random.random() < self._ratio  # noqa: S311 - it guards nothing
        sampled = by_chance if decided is None else decided.sampled
        place = TraceParent(parent.trace_id if parent is not None else _trace_id(), _span_id(), sampled)
        return Span(self, name, kind, place, parent.span_id if parent is not None else "", cause, attributes)

    def remember(self, request_id: str, place: TraceParent) -> None:
        """Remember where a request is recorded; the oldest is forgotten when there are too many."""
        self._requests[request_id] = place
        if len(self._requests) > MAX_REMEMBERED:
            self._requests.pop(next(iter(self._requests)))

    def cause_of(self, request_id: str) -> TraceParent | None:
        """Return where a request was recorded, None when it was not or that is forgotten."""
        return self._requests.get(request_id)

    def keep(self, span: Span) -> None:
        """Keep a span that has ended until it is exported."""
        if len(self.waiting) >= self._most:
            self.dropped += 1
            return
        self.waiting.append(span)
        if len(self.waiting) >= self._enough:
            self.wake()


def safe(value: Value) -> Value:
    """Return an attribute's value as it may leave: without secrets, of bounded length."""
    return redact_text(value[: 2 * MAX_VALUE])[:MAX_VALUE] if isinstance(value, str) else value


def _trace_id() -> str:
    return f"{random.getrandbits(128) or 1:032x}"


def _span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"
