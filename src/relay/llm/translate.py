"""Between Relay's words about models and those of pydantic-ai, both ways. Imported when a model is first needed."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_ai import messages as ai
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from relay.llm.mending import mended
from relay.llm.messages import (
    FunctionCall,
    FunctionResult,
    Image,
    Instruction,
    Message,
    ModelMessage,
    Question,
    UserMessage,
)

MAX_CALLS: Final = 128
"""How many calls one answer may ask for; more are no answer."""
MAX_PARTS: Final = 2 * MAX_CALLS
"""How many parts (texts, thoughts, calls) an answer may have: a library's work grows with their square."""
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)
_MAX_NAME: Final = 64
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class Unusable(Exception):
    """What came is no answer."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of functions as vendors allow them (letters, digits, ``_`` and ``-``, at most 64), and back."""

    sent: dict[str, str]
    back: dict[str, str]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Return names for these functions, different for different ones."""
        found = cls({}, {})
        for name in names:
            if name in found.sent:
                continue
            plain, number = _plain(name), 1
            while plain in found.back:
                number += 1
                plain = f"{_plain(name)[: _MAX_NAME - 8]}_{number}"
            found.sent[name] = plain
            found.back[plain] = name
        return found

    def send(self, name: str) -> str:
        """Return the name as it is sent; one that is not offered, such as a model may have invented, is made plain."""
        return self.sent.get(name) or _plain(name)

    def receive(self, name: str) -> str:
        """Return the function's own name, or whatever a model has invented."""
        return self.back.get(name, mended(name))


def _plain(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:_MAX_NAME] or "_"


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said, in Relay's words. ``tokens`` are those in and out by the service's count, None without one."""

    text: str
    calls: tuple[FunctionCall, ...]
    tokens: tuple[int, int] | None
    cut: bool


def parameters(question: Question, names: Names) -> ModelRequestParameters:
    """Return what a question offers: the functions, and whether one of them has to be called."""
    tools = [
        ToolDefinition(
            name=names.send(function.name),
            description=function.description,
            parameters_json_schema=function.parameters,
            strict=False,
        )
        for function in question.functions
    ]
    return ModelRequestParameters(function_tools=tools, allow_text_output=not (question.required and tools))


def history(messages: Sequence[Message], names: Names) -> list[ai.ModelMessage]:
    """Return the messages of a question. Instructions come first, wherever they stand.

    Not every service takes instructions in the midst of a conversation, and some take one turn of each side at a
    time: what lies between two messages of the model is one.
    """
    leading = [message for message in messages if isinstance(message, Instruction)]
    turns: list[ai.ModelMessage] = []
    parts: list[ai.ModelRequestPart] = [ai.SystemPromptPart(message.text) for message in leading]
    for message in messages:
        match message:
            case Instruction():
                continue
            case ModelMessage():
                if parts:
                    turns.append(ai.ModelRequest(parts))
                    parts = []
                turns.append(_response(message, names))
            case FunctionResult(call_id, name, text):
                parts.append(ai.ToolReturnPart(tool_name=names.send(name), content=text, tool_call_id=call_id))
            case UserMessage(text, images):
                parts.append(_prompt(text, images))
    turns.append(ai.ModelRequest(parts))
    return turns


def _prompt(text: str, images: Sequence[Image]) -> ai.UserPromptPart:
    if not images:
        return ai.UserPromptPart(text)
    pictures = [ai.BinaryContent(image.data, media_type=image.media_type) for image in images]
    return ai.UserPromptPart([text, *pictures] if text else list(pictures))


def _response(message: ModelMessage, names: Names) -> ai.ModelResponse:
    parts: list[ai.ModelResponsePart] = [ai.TextPart(message.text)] if message.text else []
    for call in message.calls:
        sent = ai.ToolCallPart(names.send(call.name), _object(call.arguments), tool_call_id=call.id)
        parts.append(sent)
    return ai.ModelResponse(parts)


def _object(arguments: str) -> str:
    """Return arguments as the JSON object that services insist on, whatever a model has written before."""
    try:
        if isinstance(json.loads(arguments), dict):
            return arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps({"invalid": arguments})


def said(response: ai.ModelResponse, names: Names, text: str | None = None) -> Said:
    """Return what a response says. ``text`` is its text where that has been read in pieces already.

    :class:`Unusable` when it is nothing at all, or asks for more calls than anybody could mean.
    """
    calls = [part for part in response.parts if isinstance(part, ai.ToolCallPart)]
    if len(calls) > MAX_CALLS:
        raise Unusable(f"more than {MAX_CALLS} calls")
    if text is None:
        words = "".join(part.content for part in response.parts if isinstance(part, ai.TextPart))
        text = mended(words) or refusal(response)
    if not (text or calls or response.finish_reason):
        raise Unusable("nothing")
    return Said(text, _calls(calls, names), _tokens(response), response.finish_reason == "length")


def refusal(response: ai.ModelResponse) -> str:
    """Return the words in which a model has declined to answer; empty where it has not."""
    details: dict[str, Any] = response.provider_details or {}
    words = details.get("refusal")
    return mended(words) if isinstance(words, str) else ""


def _calls(parts: Sequence[ai.ToolCallPart], names: Names) -> tuple[FunctionCall, ...]:
    found: dict[str, FunctionCall] = {}
    for part in parts:
        ident = part.tool_call_id
        if ident in found or not _CALL_ID.fullmatch(ident):
            ident = f"call_{os.urandom(12).hex()}"
        found[ident] = FunctionCall(ident, names.receive(part.tool_name), mended(_text_of(part.args)))
    return tuple(found.values())


def _text_of(arguments: str | dict[str, Any] | None) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _tokens(response: ai.ModelResponse) -> tuple[int, int] | None:
    usage = response.usage
    counted = (usage.input_tokens, usage.output_tokens)
    return counted if all(type(count) is int for count in counted) else None
