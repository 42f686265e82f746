"""A circuit breaker: a model that has failed time and again is left alone for a while, then tried with one question."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

FAILURES: Final = 5
"""How many failures in a row open it."""
FIRST_PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 60.0

State = Literal["closed", "half_open", "open"]


class Trial:
    """What became of one question: nothing that says anything about the model, unless told otherwise."""

    verdict: bool | None = None

    def succeeded(self) -> None:
        self.verdict = True

    def failed(self) -> None:
        self.verdict = False


class Breaker:
    """Counts failures in a row. ``changed`` hears of every new state; ``clock`` is monotonic, in seconds.

    Closed, everything passes. After :data:`FAILURES` failures in a row it is open for :data:`FIRST_PAUSE`, and twice
    as long after each try that fails again, up to :data:`LONGEST_PAUSE`. After the pause one question is let through
    at a time; its success closes the breaker.
    """

    def __init__(self, changed: Callable[[State], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = changed
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._opened: float | None = None
        self._probing = False
        changed("closed")

    def wait(self) -> float:
        """Return for how many seconds nothing passes; 0 when a question may be asked now."""
        if self._opened is None:
            return 0.0
        left = self._opened + self._pause - self._clock()
        return max(left, 1.0) if self._probing or left > 0 else 0.0

    @contextmanager
    def trial(self) -> Iterator[Trial]:
        """Ask one question; only where :meth:`wait` says 0, with no await in between."""
        trial, probe = Trial(), self._opened is not None
        if probe:
            self._probing = True
            self._changed("half_open")
        try:
            yield trial
        finally:
            if probe:
                self._probing = False
            self._judge(trial.verdict, probe=probe)

    def _judge(self, verdict: bool | None, *, probe: bool) -> None:
        if verdict is True:
            self._failures, self._pause, self._opened = 0, FIRST_PAUSE, None
            self._changed("closed")
        elif verdict is False:
            self._failures += 1
            if probe:
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
            if probe or (self._opened is None and self._failures >= FAILURES):
                self._opened = self._clock()
                self._changed("open")
