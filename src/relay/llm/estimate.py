"""How many tokens a question is at most, before anybody has counted them.

Vendors put ordinary English at about four bytes of UTF-8 for a token; digits, code, and scripts whose letters take
three bytes come closer to one token for two or three. Two bytes for a token is therefore more than all but text that
was made to break it will need, and what the service reports afterwards settles the account. A picture counts as
:data:`IMAGE_TOKENS`, whatever its size.
"""

import json
from typing import Final

from relay.llm.messages import FunctionResult, Instruction, Message, ModelMessage, Question, UserMessage

BYTES_PER_TOKEN: Final = 2
IMAGE_TOKENS: Final = 5_000
_EACH_MESSAGE: Final = 16
_EACH_FUNCTION: Final = 32


def text_tokens(text: str) -> int:
    """Return how many tokens a text is at most."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def message_tokens(message: Message) -> int:
    """Return how many tokens a message is at most, its pictures and calls included."""
    return _EACH_MESSAGE + _content_tokens(message)


def question_tokens(question: Question) -> int:
    """Return how many tokens a question is at most, the functions that it offers included."""
    functions = sum(
        _EACH_FUNCTION
        + text_tokens(function.name)
        + text_tokens(function.description)
        + text_tokens(json.dumps(function.parameters))
        for function in question.functions
    )
    return functions + sum(map(message_tokens, question.messages))


def _content_tokens(message: Message) -> int:
    match message:
        case Instruction(text):
            return text_tokens(text)
        case UserMessage(text, images):
            return text_tokens(text) + IMAGE_TOKENS * len(images)
        case ModelMessage(text, calls):
            each = (_EACH_MESSAGE + text_tokens(call.name) + text_tokens(call.arguments) for call in calls)
            return text_tokens(text) + sum(each)
        case FunctionResult(_, name, text):
            return text_tokens(name) + text_tokens(text)
