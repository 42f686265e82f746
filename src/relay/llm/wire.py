"""One question to one model, once: its answer, or why there is none. Imported when a model is first needed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
from pydantic_ai.models import StreamedResponse
from pydantic_ai.settings import ModelSettings

from relay.egress.model import EXCHANGE, Exchange
from relay.llm.choice import Choice
from relay.llm.failure import judge
from relay.llm.mending import Mender
from relay.llm.messages import Piece, Question
from relay.llm.translate import MAX_PARTS, Names, Said, Unusable, history, parameters, refusal, said
from relay.llm.vendors import Loaded, load

LEAST_BYTES: Final = 2 * 1024 * 1024
"""How large an answer may be on the wire, whatever it is asked to be at most."""
_BYTES_PER_TOKEN: Final = 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long an answer may take as a whole, and how long it may be silent once it has begun, in seconds."""

    total: float
    idle: float

    def exchange(self, max_tokens: int) -> Exchange:
        """Return the bounds for an answer of so many tokens; in a stream each of them has an event of its own."""
        return Exchange(most=max(LEAST_BYTES, max_tokens * _BYTES_PER_TOKEN), idle=self.idle)


class Wire:
    """One model of the settings, loaded."""

    def __init__(self, choice: Choice, bounds: Bounds, *, connections: int) -> None:
        self._bounds = bounds
        self._loaded: Loaded = load(choice, connections=connections)

    async def close(self) -> None:
        """Close the connections."""
        await self._loaded.close()

    async def ask(self, question: Question, max_tokens: int) -> AsyncGenerator[Piece | Said]:
        """Yield the answer, asked for as a whole; a :class:`~relay.llm.failure.NoAnswer` when there is none."""
        names, exchange = _names(question), self._bounds.exchange(max_tokens)
        async with _judged(exchange, self._bounds.total) as limit:
            async with asyncio.timeout_at(limit.at):
                with _exchanging(exchange):
                    response = await model_request(self._loaded.model, **_asked(question, names, max_tokens))
            answer = said(response, names)
        yield answer

    async def stream(self, question: Question, max_tokens: int) -> AsyncGenerator[Piece | Said]:
        """Yield the pieces of the answer's text as they come in, then the answer; a failure when it breaks off.

        Nothing is read ahead: who takes the pieces slowly slows down the service. Closing closes the connection.
        """
        names, exchange = _names(question), self._bounds.exchange(max_tokens)
        mender, pieces, parts = Mender(), list[str](), 0
        async with _judged(exchange, self._bounds.total) as limit:
            opening = model_request_stream(self._loaded.model, **_asked(question, names, max_tokens))
            async with _opened(opening, exchange, limit) as stream:
                events = aiter(stream)
                while True:
                    async with asyncio.timeout_at(limit.at):
                        event = await anext(events, None)
                    if event is None:
                        break
                    parts += isinstance(event, PartStartEvent)
                    if parts > MAX_PARTS:
                        raise Unusable(f"more than {MAX_PARTS} parts")
                    if text := mender.feed(_text(event)):
                        pieces.append(text)
                        limit.began = True
                        yield Piece(text)
                response = stream.get()
            if text := mender.end() or ("" if pieces else refusal(response)):
                pieces.append(text)
                yield Piece(text)
            answer = said(response, names, "".join(pieces))
        yield answer


@dataclass(slots=True)
class _Limit:
    """Until when an answer may take, by the loop's clock, and whether a piece of it has come."""

    at: float
    began: bool = False


@asynccontextmanager
async def _judged(exchange: Exchange, total: float) -> AsyncIterator[_Limit]:
    """Turn whatever goes wrong inside into a failure; cancellation and the closing of a stream pass."""
    limit = _Limit(asyncio.get_running_loop().time() + total)
    try:
        yield limit
    except TimeoutError:
        raise judge(exchange, timed_out=True, began=limit.began) from None
    except Exception:  # a library that is fed with anything at all may raise anything at all
        raise judge(exchange, timed_out=False, began=limit.began) from None


@asynccontextmanager
async def _opened(
    opening: AbstractAsyncContextManager[StreamedResponse], exchange: Exchange, limit: _Limit
) -> AsyncIterator[StreamedResponse]:
    # Not `async with`: the time for beginning is bounded here, the time between pieces by whoever takes them.
    async with asyncio.timeout_at(limit.at):
        with _exchanging(exchange):
            stream = await opening.__aenter__()
    try:
        yield stream
    finally:
        # As when it was left alone: what went wrong inside is judged outside, and no library shall swallow it.
        await opening.__aexit__(None, None, None)


@contextmanager
def _exchanging(exchange: Exchange) -> Iterator[None]:
    """Have requests of this task go by ``exchange``; to be left in the same step of a generator as entered."""
    token = EXCHANGE.set(exchange)
    try:
        yield
    finally:
        EXCHANGE.reset(token)


def _names(question: Question) -> Names:
    return Names.of(function.name for function in question.functions)


def _asked(question: Question, names: Names, max_tokens: int) -> dict[str, Any]:
    return {
        "messages": history(question.messages, names),
        "model_settings": ModelSettings(max_tokens=max_tokens),
        "model_request_parameters": parameters(question, names),
        "instrument": False,
    }


def _text(event: object) -> str:
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    return ""
