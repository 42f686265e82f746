"""One model of the settings as the service asks it: its breaker, its price, and the library once it is loaded."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from relay.llm.breaker import Breaker
from relay.llm.choice import Choice
from relay.llm.counts import Counts
from relay.llm.failure import NoAnswer
from relay.llm.messages import Piece, Question

if TYPE_CHECKING:
    from relay.llm.translate import Said
    from relay.llm.wire import Wire

log = logging.getLogger("relay.llm")


class Candidate:
    """A model that may be asked. Its library is imported in a thread, by :meth:`load` or with the first question."""

    def __init__(self, choice: Choice, counts: Counts, load: "Callable[[Choice], Wire]") -> None:
        self.choice: Final = choice
        self.breaker: Final = Breaker(lambda state: counts.breaker(choice.label, state))
        self._counts = counts
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
                log.warning("the %s model %s", label, failure)
                raise
            finally:
                self._counts.asked(label, outcome, time.monotonic() - begun)
