"""A model in the test's own hands, for tests of what no real one would ever say, a thousand times over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.chat.history import GO_ON
from relay.llm.messages import Answer, FunctionCall, Payer, Piece, Question, Usage, UserMessage
from relay.llm.protocol import Models
from relay.store.target import Target
from tests.chat_world import ChatWorld, open_chat


class AnyModel:
    """Answers a user with what it is given, once, and anything else with words. ``asked`` are the questions."""

    name = "any"

    def __init__(self) -> None:
        self.said: list[tuple[str, list[tuple[str, str]]]] = []
        self.asked: list[Question] = []

    async def ask(self, question: Question, payer: Payer) -> Answer:
        self.asked.append(question)
        last = question.messages[-1]
        of_user = isinstance(last, UserMessage) and last.text != GO_ON
        text, wanted = self.said.pop(0) if self.said and of_user else ("That is all.", [])
        made = tuple(FunctionCall(f"call_{place}", name, text) for place, (name, text) in enumerate(wanted))
        return Answer(text, made, Usage(), "any")

    async def stream(self, question: Question, payer: Payer) -> AsyncIterator[Piece | Answer]:
        answer = await self.ask(question, payer)
        if answer.text:
            yield Piece(answer.text)
        yield answer


@asynccontextmanager
async def any_model(target: Target, data_dir: Path) -> AsyncIterator[tuple[ChatWorld, AnyModel]]:
    """Open a chat that asks such a model."""
    model = AnyModel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relay.engine.LanguageModels", lambda *_: _Started(model))
        async with open_chat(target, data_dir, CHAT_CALLS_PER_TURN="6") as world:
            yield world, model


class _Started:
    """A model with what the engine calls besides."""

    def __init__(self, model: Models) -> None:
        self._model = model
        self.name, self.ask, self.stream = model.name, model.ask, model.stream

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return
