"""The one door to language models: redaction, budgets, retries, the fallback, and what is recorded."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from relay.core.problem import ModelUnavailable, SpendingExhausted
from relay.llm.candidate import Candidate
from relay.llm.choice import Choice, choices
from relay.llm.counts import Counts
from relay.llm.estimate import Estimate, answer_tokens, question_tokens, text_tokens
from relay.llm.failure import NoAnswer, wait_before
from relay.llm.messages import Answer, Payer, Piece, Question, Usage
from relay.llm.records import Outcome, Records
from relay.llm.redacting import redacted
from relay.llm.slots import Slots
from relay.llm.spending import Booking, SpendingBook
from relay.settings import Settings
from relay.store.database import Database
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.telemetry.metrics import Metrics
from relay.telemetry.surviving import surviving

if TYPE_CHECKING:
    from relay.llm.translate import Said
    from relay.llm.wire import Wire

log = logging.getLogger("relay.llm")


@dataclass(slots=True)
class _Asking:
    """One question on its way: what is asked, who pays, what was booked and could not be given back."""

    question: Question
    payer: Payer
    max_tokens: int
    read: Estimate
    lost: int = 0
    model: str = ""
    problems: list[str] = field(default_factory=list)
    retry_after: float | None = None
    booking: Booking | None = None
    answered: bool = False


class LanguageModels:
    """Implements :class:`relay.llm.protocol.Models` with the models of the settings.

    Construction does no I/O and imports no vendor's library; SettingsError as :func:`relay.llm.choice.choices` says.
    The models' libraries are imported by :meth:`start` in a thread beside everything else, or with the first
    question. What is asked and answered is recorded before the answer is given; where the database does not take it,
    that is :class:`~relay.store.writer.StoreUnavailable`, and there is no answer.
    """

    def __init__(self, settings: Settings, database: Database, vault: Vault, metrics: Metrics) -> None:
        self._settings = settings
        self._counts = Counts(metrics)
        found = choices(settings)
        self._candidates = [Candidate(choice, self._counts, self._wire) for choice in found]
        self._slots = Slots(settings.ai_concurrency, self._counts.in_flight)
        self._records = Records(settings, vault)
        self._database = database
        self._loading: asyncio.Task[None] | None = None
        self._doubted: set[str] = set()
        self.spending = SpendingBook(settings, database)

    @property
    def name(self) -> str | None:
        """The model that is asked first, None where the installation has none: then nothing may be asked."""
        return self._candidates[0].choice.name if self._candidates else None

    async def start(self) -> None:
        """Begin to load the models' libraries."""
        if self._candidates:
            self._loading = asyncio.create_task(self._load(), name="models")

    async def stop(self) -> None:
        """Close the connections to the models; what is still under way ends."""
        if self._loading is not None:
            await asyncio.gather(self._loading, return_exceptions=True)
        for candidate in self._candidates:
            await candidate.close()

    async def _load(self) -> None:
        for candidate in self._candidates:
            with surviving(log, "loading a model's library"):
                await candidate.load()

    def _wire(self, choice: Choice) -> "Wire":
        from relay.llm.wire import Bounds, Wire

        bounds = Bounds(self._settings.ai_timeout_seconds, self._settings.ai_idle_seconds)
        return Wire(choice, bounds, connections=self._settings.ai_concurrency)

    async def ask(self, question: Question, payer: Payer) -> Answer:
        """Return the answer as a whole; see :meth:`relay.llm.protocol.Models.ask`."""
        async with aclosing(self._answered(question, payer, streamed=False)) as answering:
            async for item in answering:
                if isinstance(item, Answer):
                    return item
        raise ModelUnavailable

    async def stream(self, question: Question, payer: Payer) -> AsyncGenerator[Piece | Answer]:
        """Yield pieces, and the whole answer last; see :meth:`relay.llm.protocol.Models.stream`."""
        async with aclosing(self._answered(question, payer, streamed=True)) as answering:
            async for item in answering:
                yield item

    async def _answered(self, question: Question, payer: Payer, *, streamed: bool) -> AsyncGenerator[Piece | Answer]:
        if not self._candidates:
            raise ModelUnavailable("This installation has no model.")
        asked = redacted(question)
        most = self._settings.ai_max_output_tokens
        asking = _Asking(asked, payer, min(question.max_tokens or most, most), question_tokens(asked))
        async with self._slots.taken():
            try:
                async with aclosing(self._from_any(asking, streamed=streamed)) as answering:
                    async for item in answering:
                        yield item
            except NoAnswer as failure:
                await self._end(asking, "failed", reason=failure.reason)
                raise _unavailable(asking) from None
            except SpendingExhausted as problem:
                self._counts.refused(str(problem.extensions["budget"]))
                if asking.model:
                    await self._end(asking, "failed", reason="budget")
                raise
            except (asyncio.CancelledError, GeneratorExit):
                await self._end(asking, "cancelled")
                raise

    async def _from_any(self, asking: _Asking, *, streamed: bool) -> AsyncGenerator[Piece | Answer]:
        """Ask the models one after another until one answers; a failure after the first piece is final."""
        last: NoAnswer | None = None
        for candidate in self._candidates:
            if (pause := candidate.breaker.wait()) > 0:
                _note(asking, candidate, NoAnswer("resting", pause))
                continue
            try:
                async with aclosing(self._from_one(candidate, asking, streamed=streamed)) as answering:
                    async for item in answering:
                        yield item
                return
            except NoAnswer as failure:
                last = failure
                _note(asking, candidate, failure)
                if failure.began:
                    raise
        if last is None:
            raise _unavailable(asking)
        raise last

    async def _from_one(
        self, candidate: Candidate, asking: _Asking, *, streamed: bool
    ) -> AsyncGenerator[Piece | Answer]:
        """Ask one model, again as long as nothing of an answer has come and it is worth it."""
        attempt = 0
        await self._book(candidate.choice, asking)
        while True:
            attempt += 1
            try:
                async with aclosing(self._once(candidate, asking, streamed=streamed)) as answering:
                    async for item in answering:
                        yield item
                return
            except NoAnswer as failure:
                pause = wait_before(attempt, failure.retry_after) if failure.again else None
                over = pause is None or attempt > self._settings.ai_retries or candidate.breaker.wait() > 0
                await self._after(candidate.choice, asking, failure, over=over)
                if over or pause is None:
                    raise
            await asyncio.sleep(pause)
            self._counts.retried(candidate.choice.label)

    async def _once(self, candidate: Candidate, asking: _Asking, *, streamed: bool) -> AsyncGenerator[Piece | Answer]:
        asking.model = candidate.choice.name
        answering = candidate.asked(asking.question, asking.max_tokens, streamed=streamed)
        async with aclosing(answering):
            async for item in answering:
                if isinstance(item, Piece):
                    yield item
                    continue
                yield await self._settled(candidate.choice, asking, item)

    async def _book(self, choice: Choice, asking: _Asking) -> None:
        asking.booking = await self.spending.book(asking.payer, choice.price.cost(asking.read.most, asking.max_tokens))

    async def _after(self, choice: Choice, asking: _Asking, failure: NoAnswer, *, over: bool) -> None:
        """Give back what is certainly not owed. What may be owed stays booked, and a further attempt is booked anew."""
        if failure.unpaid:
            if over:
                await self._release(asking)
            return
        _lose(asking)
        if not over:
            await self._book(choice, asking)

    async def _release(self, asking: _Asking) -> None:
        booking, asking.booking = asking.booking, None
        if booking is not None:
            await self._database.writer.run(lambda tx: booking.settle(tx, 0), outcome=True)

    async def _settled(self, choice: Choice, asking: _Asking, said: "Said") -> Answer:
        """Return the answer once it is recorded and what it took less than booked is given back."""
        usage = _usage(choice, asking, said)
        self._doubt(choice, asking, said)
        booking, asking.booking = asking.booking, None
        total = replace(usage, cost=usage.cost + asking.lost, estimated=usage.estimated or asking.lost > 0)
        answer = Answer(said.text, said.calls, total, choice.name, said.cut)
        record = self._records.unit(
            asking.question, asking.payer, Outcome("answered", choice.name, total, said.text, said.calls)
        )

        def unit(tx: Tx) -> None:
            if booking is not None:
                booking.settle(tx, usage.cost)
            record.write(tx)

        asking.answered = True
        await self._database.writer.run(unit, outcome=True)
        self._counts.took(choice.label, total)
        return answer

    def _doubt(self, choice: Choice, asking: _Asking, said: "Said") -> None:
        """Tell the operator, once for each model, that what it reports goes beyond what can be booked for it."""
        given, made = said.tokens or (0, 0)
        if choice.label in self._doubted or (given <= asking.read.most and made <= asking.max_tokens):
            return
        self._doubted.add(choice.label)
        log.warning(
            "the %s model reports %d tokens in and %d out where %d and %d were booked: answers of it can go beyond "
            "budgets",
            *(choice.label, given, made, asking.read.most, asking.max_tokens),
        )

    async def _end(self, asking: _Asking, outcome: str, *, reason: str = "") -> None:
        """Record a question that has no answer; what is still booked stays booked."""
        if asking.answered or not asking.model:  # whoever has the answer closes too; or nobody was asked
            return
        _lose(asking)
        usage = Usage(cost=asking.lost, estimated=asking.lost > 0)
        ended = Outcome(outcome, asking.model, usage, reason=reason)
        record = self._records.unit(asking.question, asking.payer, ended)
        label = next(one.choice.label for one in self._candidates if one.choice.name == asking.model)
        self._counts.took(label, usage)
        await self._database.writer.run(record.write, outcome=True)


def _usage(choice: Choice, asking: _Asking, said: "Said") -> Usage:
    """Return what an answer took: what the service says where that can be, else what was booked for it.

    A service may count otherwise than the estimate, which is no reason to doubt it; fewer tokens than there are words
    to make them of, and many times as much as there can be, are.
    """
    texts = [said.text, *(text for call in said.calls for text in (call.name, call.arguments))]
    made = answer_tokens(texts, asking.max_tokens)
    if said.tokens is not None and asking.read.holds(said.tokens[0]) and made.holds(said.tokens[1]):
        return Usage(*said.tokens, choice.price.cost(*said.tokens))
    cost = asking.booking.amount if asking.booking is not None else 0
    most = min(sum(map(text_tokens, texts)), asking.max_tokens)
    return Usage(asking.read.most, most, cost, estimated=True)


def _lose(asking: _Asking) -> None:
    if asking.booking is not None:
        asking.lost += asking.booking.amount
        asking.booking = None


def _note(asking: _Asking, candidate: Candidate, failure: NoAnswer) -> None:
    asking.problems.append(f"{candidate.choice.name} {failure}")
    if failure.retry_after is not None:
        known = asking.retry_after
        asking.retry_after = failure.retry_after if known is None else min(known, failure.retry_after)


def _unavailable(asking: _Asking) -> ModelUnavailable:
    detail = f"No model answers: {'; '.join(asking.problems)}." if asking.problems else ""
    return ModelUnavailable(detail, retry_after=max(1, round(asking.retry_after or 5)))
