"""Secrets out of everything that is said to a model: whatever a question holds passes here before it is sent.

Here too whatever cannot be encoded is made text that can, so that a model's own nonsense can be shown to it again.
"""

from dataclasses import replace

from relay.llm.credentials import without_credentials
from relay.llm.mending import mended
from relay.llm.messages import (
    Function,
    FunctionCall,
    FunctionResult,
    Instruction,
    Message,
    ModelMessage,
    Question,
    UserMessage,
)


def redacted(question: Question) -> Question:
    """Return the question with ``***`` in place of whatever looks like a credential, in any of its texts.

    Pictures stay as they are, and so do the schemas of functions, which are Relay's own. Ids of calls stay, since
    they tie results to calls; an answer's are plain ids.
    """
    return replace(
        question,
        messages=tuple(_message(message) for message in question.messages),
        functions=tuple(_function(function) for function in question.functions),
    )


def _function(function: Function) -> Function:
    return replace(function, description=_clean(function.description))


def _message(message: Message) -> Message:
    match message:
        case Instruction(text):
            return Instruction(_clean(text))
        case UserMessage(text, images):
            return UserMessage(_clean(text), images)
        case ModelMessage(text, calls):
            return ModelMessage(_clean(text), tuple(_call(call) for call in calls))
        case FunctionResult():
            return replace(message, name=_clean(message.name), text=_clean(message.text))


def _call(call: FunctionCall) -> FunctionCall:
    return replace(call, name=_clean(call.name), arguments=_clean(call.arguments))


def _clean(text: str) -> str:
    return without_credentials(mended(text))
