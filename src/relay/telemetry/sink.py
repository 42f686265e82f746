"""Where log lines go: standard error, by a thread, so that nobody who reads it slowly can hold a request up.

What waits is bounded. A reader that has stopped (a paused terminal, a full pipe) costs lines and nothing else: they are
counted, and the count is a line of its own once there is room. Logs are best effort for the same reason: a process that
is killed loses the lines of its last moments. What must not be lost stands in the audit log.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
GATHER_SECONDS: Final = 0.02
LAST_SECONDS: Final = 2.0
_CHUNK: Final = 65_536
_BUSY_SECONDS: Final = 0.05


class Sink:
    """Writes lines to a file descriptor. ``dropped_line`` makes the line that tells how many could not be."""

    def __init__(self, fd: int, dropped_line: Callable[[int], str], *, most: int = MAX_WAITING_BYTES) -> None:
        self._fd = fd
        self._dropped_line = dropped_line
        self._most = most
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._closing = False
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="relay-logs", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Have a line written soon; dropped and counted when too much waits already. Never waits."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._size + len(data) > self._most:
                self._dropped += 1
                return
            self._lines.append(data)
            self._size += len(data)
            if not self._wake.is_set():
                self._idle.clear()
                self._wake.set()

    def flush(self, seconds: float = LAST_SECONDS) -> bool:
        """Wait until what was put before is written, at most ``seconds``; say whether it is."""
        return self._idle.wait(seconds)

    def close(self) -> None:
        """Write what waits, for at most two seconds; what the reader does not take then is lost."""
        self._closing = True
        self.flush()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if not self._closing:
                # A wake-up for each line would cost more than the line: let some come together.
                time.sleep(GATHER_SECONDS)
            chunk = self._next()
            if chunk:
                self._write(chunk)

    def _next(self) -> bytes:
        """Return some of what waits; nothing when there is nothing, and then the thread sleeps."""
        with self._lock:
            if self._dropped:
                note, self._dropped = self._dropped_line(self._dropped), 0
                self._lines.append(note.encode() + b"\n")
                self._size += len(self._lines[-1])
            taken: list[bytes] = []
            size = 0
            while self._lines and size < _CHUNK:
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._size -= size
            if not taken:
                self._wake.clear()
                self._idle.set()
            return b"".join(taken)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Somebody who shares the descriptor made it non-blocking.
                time.sleep(_BUSY_SECONDS)
            except OSError:
                # Nobody reads any more, and there is nowhere else to say it.
                with contextlib.suppress(OSError):
                    time.sleep(_BUSY_SECONDS)
                return
