"""Lines about security, in a logger of their own: ``relay.security``.

What strangers can bring about as often as they like must not fill a disk: each kind has a number of lines a minute, and
what is beyond is counted and told in one line when the minute is over. Nothing is lost by that: refusals are counted in
the metrics and the table of anonymous failures, and everything else stands in the audit log.
"""

import asyncio
import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

from relay.telemetry.logs import FIELDS

LINES_PER_MINUTE: Final = 20
WINDOW_SECONDS: Final = 60.0

log = logging.getLogger("relay.security")


@dataclass(slots=True)
class _Window:
    since: float
    told: int = 0
    suppressed: int = 0
    level: int = logging.WARNING


class SecurityLog:
    """Writes bounded lines. One instance serves a process; from the event loop or any thread."""

    def __init__(self, *, lines: int = LINES_PER_MINUTE, window_seconds: float = WINDOW_SECONDS) -> None:
        self._lines = lines
        self._window_seconds = window_seconds
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None

    def say(self, kind: str, message: str, *, level: int = logging.WARNING, **fields: str | int) -> None:
        """Write a line, unless there were too many of this kind within the minute. Never waits.

        ``kind`` is a slug from a small set, never what a caller chose.
        """
        at = time.monotonic()
        with self._lock:
            window = self._windows.get(kind)
            if window is None or at - window.since >= self._window_seconds:
                over, window = window, _Window(at, level=level)
                self._windows[kind] = window
            else:
                over = None
            window.told += 1
            spoken = window.told <= self._lines
            if not spoken:
                window.suppressed += 1
        if over is not None:
            _summary(kind, over)
        if spoken:
            log.log(level, message, extra={FIELDS: {"kind": kind, **fields}})
        else:
            self._remember_to_tell()

    def flush(self) -> None:
        """Tell what was suppressed."""
        with self._lock:
            windows, self._windows = self._windows, {}
            self._timer = None
        for kind, window in windows.items():
            _summary(kind, window)

    def _remember_to_tell(self) -> None:
        if self._timer is None:
            with contextlib.suppress(RuntimeError):  # no loop runs in this thread: the next line tells
                self._timer = asyncio.get_running_loop().call_later(self._window_seconds, self.flush)

    def close(self) -> None:
        """Tell what was suppressed, and nothing later."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()


def _summary(kind: str, window: _Window) -> None:
    if window.suppressed:
        log.log(
            window.level,
            "%d more of %s within a minute",
            window.suppressed,
            kind,
            extra={FIELDS: {"kind": kind, "suppressed": window.suppressed}},
        )
