"""Metrics of conversations. How turns end is counted with the audit log, in :mod:`relay.audit.counting`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Final, Literal

from relay.core.clock import MICROSECONDS, now
from relay.store.chat import CallRow
from relay.store.writer import Tx
from relay.telemetry.catalogue import CALL_ENDS
from relay.telemetry.metrics import Metrics

_ENDS: Final = frozenset(CALL_ENDS)


class ChatCounts:
    """Counts what happens in conversations; ``ChatCounts(Metrics.off())`` counts nothing."""

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.histogram("relay_chat_turn_duration_seconds")
        self._calls = metrics.counter("relay_chat_calls_total")
        self._waits = metrics.histogram("relay_chat_wait_seconds")
        self._resumed = metrics.counter("relay_chat_resumed_total")
        self._streams = metrics.gauge("relay_chat_streams")
        self._open = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Time the work on a turn, which is the block."""
        began = monotonic()
        try:
            yield
        finally:
            self._seconds.observe(monotonic() - began)

    def called(self, tx: Tx, row: CallRow, status: str) -> None:
        """Count a call that stood as ``row`` and has come to its end, once ``tx`` is durable; no other is counted."""
        if status in _ENDS:
            tx.after_commit.append(partial(self._called, row, status))

    def _called(self, row: CallRow, status: str) -> None:
        self._calls.add(status)
        if row.attempt_id is not None:  # there was an attempt that had not come to its end: it waited
            self._waits.observe(max(0, now() - row.created_at) / MICROSECONDS)

    def resumed(self, cause: Literal["decision", "takeover"]) -> None:
        """Count a turn that goes on."""
        self._resumed.add(cause)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Count an event stream as open for as long as the block lasts."""
        self._stream(1)
        try:
            yield
        finally:
            self._stream(-1)

    def _stream(self, change: int) -> None:
        self._open += change
        self._streams.set(self._open)
