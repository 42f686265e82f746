"""What a model is asked and what it answers, in words of no vendor."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a model may ask to have called. ``parameters`` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """What a model asks to have called. ``arguments`` is text as the model wrote it: nobody has validated anything."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture. ``media_type`` is what its bytes are, not what anybody said."""

    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Instruction:
    """Relay's own words to the model. They are sent before everything else, wherever they stand."""

    text: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    """What a person or an agent says."""

    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelMessage:
    """What a model has said, and which functions it asked to have called."""

    text: str
    calls: tuple[FunctionCall, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionResult:
    """What a call has led to, as text for the model; each call has exactly one, before the next word."""

    call_id: str
    name: str
    text: str


Message = Instruction | UserMessage | ModelMessage | FunctionResult


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a model. ``required``: the answer has to call a function. ``max_tokens`` bounds the answer."""

    messages: tuple[Message, ...]
    functions: tuple[Function, ...] = ()
    required: bool = False
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took. ``cost`` is in billionths of a US dollar; ``estimated``: the service did not say."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    estimated: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost + other.cost,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, unvalidated. ``model`` names who said it; ``cut``: it was longer than it may be."""

    text: str
    calls: tuple[FunctionCall, ...]
    usage: Usage
    model: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer's text, as it comes in."""

    text: str


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays for a question, and for what. ``account`` is whom a day's budget counts for.

    ``session`` names what else has a budget of its own (a chat session), None where nothing has.
    """

    workspace_id: str
    account: str
    principal_id: str
    request_id: str
    purpose: Literal["plan", "chat"]
    session: str | None = None
