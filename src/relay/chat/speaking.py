"""Who answers in a conversation: a model, or where there is none the local planner."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from relay.chat.conversation import Conversation, pictures
from relay.chat.entries import Planned
from relay.chat.functions import Offer
from relay.chat.history import messages
from relay.chat.outward import Outward
from relay.core.principal import Principal
from relay.core.problem import ModelUnavailable
from relay.llm.messages import Answer, Payer, Piece, Question, Usage
from relay.llm.protocol import Models
from relay.store.chat import SessionRow
from relay.store.vault import Vault

MAX_TEXT: Final = 200_000


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer: text, and functions to call with their arguments, as they were written. Nobody has checked any."""

    text: str
    model: str
    calls: tuple[tuple[str, str], ...] = ()
    usage: Usage = field(default_factory=Usage)
    cut: bool = False
    planned: tuple[Planned, ...] = ()


@dataclass(frozen=True, slots=True)
class Topic:
    """What is spoken about: a conversation, with whom, in which request, and what may be called."""

    session: SessionRow
    conversation: Conversation
    principal: Principal
    request_id: str
    offer: Offer


class Speaker(Protocol):
    """Answers."""

    async def speak(self, topic: Topic, heard: Callable[[str], None]) -> Spoken:
        """Return the next answer. ``heard`` is given its text as it comes in, harmless to show, piece by piece."""
        ...


class ModelSpeaker:
    """Has a model answer. ``budget`` is how much it is told at most, in tokens."""

    def __init__(self, models: Models, vault: Vault, outward: Outward, *, budget: int) -> None:
        self._models = models
        self._vault = vault
        self._outward = outward
        self._budget = budget

    async def speak(self, topic: Topic, heard: Callable[[str], None]) -> Spoken:
        """Ask the model, in a stream. ModelUnavailable and SpendingExhausted as the model's door raises them."""
        if self._models.name is None:
            raise ModelUnavailable("This installation has no model (any more).")
        session, principal = topic.session, topic.principal
        told = await messages(topic.conversation, self._budget, lambda entry: pictures(self._vault, session, entry))
        payer = Payer(
            principal.workspace_id, principal.account, principal.id, topic.request_id, "chat", session=session.id
        )
        answer: Answer | None = None
        shown = self._outward.stream()
        stream = self._models.stream(Question(told, topic.offer.functions), payer)
        try:
            async for piece in stream:
                if isinstance(piece, Piece):
                    heard(shown.feed(piece.text))
                else:
                    answer = piece
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()
        if answer is None:
            raise ModelUnavailable("The model's answer has no end.")
        heard(shown.finish())
        text, cut = _text(answer.text), answer.cut or len(answer.text) > MAX_TEXT
        calls = tuple((call.name, call.arguments) for call in answer.calls)
        return Spoken(text, answer.model, calls, answer.usage, cut)


def _text(text: str) -> str:
    """Return a model's text as it can be kept: valid Unicode, of a bearable length."""
    return text[:MAX_TEXT].encode("utf-8", errors="replace").decode()
