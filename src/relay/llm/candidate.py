"""One model of the settings as the service asks it: its breaker, its price, and the library once it is loaded."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from relay.llm.breaker import Breaker, State
from relay.llm.choice import Choice
from relay.llm.counts import Counts
from relay.llm.failure import NoAnswer
from relay.llm.messages import Piece, Question
from relay.llm.vendor_words import excerpt

if TYPE_CHECKING:
    from relay.llm.translate import Said
    from relay.llm.wire import Wire

log = logging.getLogger("relay.llm")


class Candidate:
    """A model that may be asked. Its library is imported in a thread, by :meth:`load` or with the first question."""

    def __init__(self, choice: Choice, counts: Counts, load: "Callable[[Choice], Wire]") -> None:
        self.choice: Final = choice
        self._counts = counts
        self._resting = False
        self._place = urlsplit(choice.base_url).netloc
        self.breaker: Final = Breaker(self._changed)
        self._load = load
        self._wire: Wire | None = None
        self._loading = asyncio.Lock()

    async def load(self) -> "Wire":
        """Return what speaks to the model, loading it the first time."""
        async with self._loading:
            if self._wire is None:
                try:
                    self._wire = await asyncio.to_thread(self._load, self.choice)
                except Exception as error:  # a library that does not load may say so in any way
                    log.exception("the library of the %s model does not load", self.choice.label)
                    raise NoAnswer("refused") from error
            return self._wire

    async def close(self) -> None:
        """Close the connections."""
        if self._wire is not None:
            await self._wire.close()

    async def asked(self, question: Question, max_tokens: int, *, streamed: bool) -> "AsyncGenerator[Piece | Said]":
        """Yield what the model answers, once; the breaker and the metrics hear of it. :class:`NoAnswer` as it comes."""
        if (pause := self.breaker.wait()) > 0:
            raise NoAnswer("resting", pause)
        label, begun, first = self.choice.label, time.monotonic(), True
        outcome = "cancelled"
        with self.breaker.trial() as trial:
            try:
                wire = await self.load()
                begun = time.monotonic()
                answering = (wire.stream if streamed else wire.ask)(question, max_tokens)
                async with aclosing(answering):
                    async for item in answering:
                        if isinstance(item, Piece):
                            if first:
                                self._counts.first_piece(label, time.monotonic() - begun)
                                first = False
                            yield item
                            continue
                        outcome = "answered"
                        trial.succeeded()
                        yield item
            except NoAnswer as failure:
                outcome = failure.reason
                if failure.counts:
                    trial.failed()
                self._log(failure)
                raise
            finally:
                self._counts.asked(label, outcome, time.monotonic() - begun)

    def _log(self, failure: NoAnswer) -> None:
        """Say in the log what callers are not told: where, with which status, and in which words of the service."""
        status = f"HTTP {failure.status} from " if failure.status is not None else ""
        words = excerpt(failure.refusal, self.choice.key)
        told = f": {words}" if words else ""
        log.warning("the %s model %s (%s%s)%s", self.choice.label, failure, status, self._place, told)

    def _changed(self, state: State) -> None:
        label = self.choice.label
        self._counts.breaker(label, state)
        if state == "open" and not self._resting:
            self._resting = True
            log.warning("the %s model (%s) has failed too often: its breaker has opened", label, self._place)
        elif state == "closed" and self._resting:
            self._resting = False
            log.warning("the %s model (%s) answers again: its breaker has closed", label, self._place)
