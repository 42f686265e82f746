"""How many tokens a question has, before anybody has counted them: at most, at least, and as a service may say.

A tokeniser makes at least one byte of UTF-8 into a token: a text has no more tokens than bytes. What services put
around a question, its messages and its functions is allowed for besides. Tokenisers in use begin a token with every
word at the latest: half as many tokens as words is less than any of them makes. A picture counts as
:data:`IMAGE_TOKENS`, whatever its size.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from relay.llm.messages import Function, FunctionResult, Instruction, Message, ModelMessage, Question, UserMessage

IMAGE_TOKENS: Final = 5_000
MOST_IMAGE_TOKENS: Final = 50_000
"""As what some models count a picture: they cost less for a token, and that much more tokens."""
BEYOND: Final = 4
"""How many times what there can be at most a service may report; more is taken for nonsense."""
_ANY_QUESTION: Final = 200
_EACH_MESSAGE: Final = 16
_EACH_FUNCTION: Final = 32
_ANY_FUNCTION: Final = 600
_WORDS_PER_TOKEN: Final = 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number of tokens: the ``least`` and the ``most`` that there can be, and how many are ``believed``."""

    least: int
    most: int
    believed: int

    def holds(self, reported: int) -> bool:
        """Say whether a service may be right that there were so many."""
        return self.least <= reported <= self.believed


def text_tokens(text: str) -> int:
    """Return how many tokens a text is at most."""
    return len(text.encode("utf-8", "surrogatepass"))


def question_tokens(question: Question) -> Estimate:
    """Return how many tokens a question has, the functions that it offers included."""
    texts, pictures = _ANY_QUESTION, 0
    for message in question.messages:
        texts += _around(message) + sum(map(text_tokens, _texts(message)))
        pictures += len(message.images) if isinstance(message, UserMessage) else 0
    if question.functions:
        texts += _ANY_FUNCTION + sum(map(_function_tokens, question.functions))
    words = sum(_words(text) for message in question.messages for text in _texts(message))
    return Estimate(
        least=max(1, words // _WORDS_PER_TOKEN),
        most=texts + IMAGE_TOKENS * pictures,
        believed=BEYOND * texts + MOST_IMAGE_TOKENS * pictures,
    )


def answer_tokens(texts: Iterable[str], max_tokens: int) -> Estimate:
    """Return how many tokens an answer has that consists of ``texts`` and was to have ``max_tokens`` at most.

    A model may think besides, which is paid for and not shown, and not every service keeps that within the bound.
    """
    found = [text for text in texts if text]
    words = sum(map(_words, found))
    return Estimate(max(words // _WORDS_PER_TOKEN, 1 if found else 0), max_tokens, BEYOND * max_tokens)


def _words(text: str) -> int:
    return len(text.split())


def _function_tokens(function: Function) -> int:
    texts = (function.name, function.description, json.dumps(function.parameters))
    return _EACH_FUNCTION + sum(map(text_tokens, texts))


def _around(message: Message) -> int:
    return _EACH_MESSAGE * (1 + (len(message.calls) if isinstance(message, ModelMessage) else 0))


def _texts(message: Message) -> Iterator[str]:
    match message:
        case Instruction(text) | UserMessage(text):
            yield text
        case ModelMessage(text, calls):
            yield text
            for call in calls:
                yield from (call.id, call.name, call.arguments)
        case FunctionResult(call_id, name, text):
            yield from (call_id, name, text)
