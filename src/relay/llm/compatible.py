"""OpenAI's chat completions as services speak them that are compatible only so far: what they count is not trusted."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final, TypeGuard

from openai.types import chat
from openai.types.chat import ChatCompletionChunk
from openai.types.completion_usage import CompletionUsage
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse

_MOST: Final = 2**53 - 1


class CompatibleModel(OpenAIChatModel):
    """A chat model whose answer stands although its count of tokens is nonsense: then there is none."""

    def _validate_completion(self, response: chat.ChatCompletion) -> Any:
        response.usage = counted(response.usage)
        return super()._validate_completion(response)

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return _Streamed


class _Streamed(OpenAIStreamedResponse):
    def _validate_response(self) -> AsyncIterable[ChatCompletionChunk]:
        return _Counted(super()._validate_response())


class _Counted:
    """The chunks of a stream; no generator, which would outlive a stream that is left alone."""

    def __init__(self, chunks: AsyncIterable[ChatCompletionChunk]) -> None:
        self._chunks = aiter(chunks)

    def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        chunk = await anext(self._chunks)
        chunk.usage = counted(chunk.usage)
        return chunk


def counted(usage: Any) -> CompletionUsage | None:
    """Return the two numbers that matter, None where they are none.

    Some services leave what a model has thought out of ``completion_tokens``, though it is paid for: it stands in
    ``total_tokens`` alone.
    """
    given, made = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    total = getattr(usage, "total_tokens", None)
    if not (_is_count(given) and _is_count(made)):
        return None
    if _is_count(total):
        made = max(made, total - given)
    return CompletionUsage(prompt_tokens=given, completion_tokens=made, total_tokens=given + made)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MOST
