"""How a scripted answer is worded in the protocols of three vendors, whole and streamed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Worded(Protocol):
    """What is to be worded: a reply of :mod:`tests.model_server`."""

    @property
    def text(self) -> str: ...
    @property
    def calls(self) -> tuple[Any, ...]: ...
    @property
    def usage(self) -> Any: ...
    @property
    def finish(self) -> str | None: ...
    @property
    def piece(self) -> int: ...


@dataclass(frozen=True)
class Dialect:
    """One vendor's protocol."""

    credential: Callable[[Mapping[str, str]], str | None]
    streamed: Callable[[str, dict[str, Any]], bool]
    whole: Callable[[Worded, str, str], bytes]
    chunks: Callable[[Worded, str, str, bool], list[bytes]]
    stream_type: str = "text/event-stream"


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _data(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _event(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + _data(event)


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key if scheme == "Bearer" else headers.get("api-key")


def _openai_usage(usage: Any) -> Any:
    if not isinstance(usage, tuple):
        return usage
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": usage[0] + usage[1]}


def _openai_finish(reply: Worded) -> str:
    return reply.finish or ("tool_calls" if reply.calls else "stop")


def openai_whole(reply: Worded, model: str, ident: str) -> bytes:
    """Return a ``chat.completion``."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.calls
        ]
    whole = {
        "id": ident,
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": _openai_finish(reply)}],
    }
    if reply.usage is not None:
        whole["usage"] = _openai_usage(reply.usage)
    return json.dumps(whole).encode()


def openai_chunks(reply: Worded, model: str, ident: str, usage_wanted: bool = True) -> list[bytes]:
    """Return the events of a stream of ``chat.completion.chunk``."""

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        base = {"id": ident, "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}
        return _data(base | {"choices": choices} | more)

    def delta(change: dict[str, Any], finish: str | None = None) -> bytes:
        return chunk([{"index": 0, "delta": change, "finish_reason": finish}])

    chunks = [delta({"role": "assistant", "content": ""})]
    chunks += [delta({"content": piece}) for piece in _pieces(reply.text, reply.piece)]
    for index, call in enumerate(reply.calls):
        function = {"name": call.name, "arguments": ""}
        chunks.append(
            delta({"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]})
        )
        chunks += [
            delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in _pieces(call.arguments, reply.piece)
        ]
    chunks.append(delta({}, _openai_finish(reply)))
    if usage_wanted and reply.usage is not None:
        chunks.append(chunk([], usage=_openai_usage(reply.usage)))
    return [*chunks, b"data: [DONE]\n\n"]


def _anthropic_usage(usage: Any) -> Any:
    return {"input_tokens": usage[0], "output_tokens": usage[1]} if isinstance(usage, tuple) else usage


def _anthropic_finish(reply: Worded) -> str:
    return reply.finish or ("tool_use" if reply.calls else "end_turn")


def _anthropic_whole(reply: Worded, model: str, ident: str) -> bytes:
    content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
    for call in reply.calls:
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)})
    return json.dumps(_anthropic_message(reply, model, ident, content, _anthropic_finish(reply))).encode()


def _anthropic_message(
    reply: Worded, model: str, ident: str, content: list[dict[str, Any]], finish: str | None
) -> dict[str, Any]:
    return {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": finish,
        "stop_sequence": None,
        "usage": _anthropic_usage(reply.usage),
    }


def _anthropic_chunks(reply: Worded, model: str, ident: str, usage_wanted: bool = True) -> list[bytes]:
    chunks = [_event({"type": "message_start", "message": _anthropic_message(reply, model, ident, [], None)})]
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if reply.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(reply.text, reply.piece)]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for call in reply.calls:
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(call.arguments, reply.piece)]
        blocks.append(({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}, deltas))
    for index, (start, deltas) in enumerate(blocks):
        chunks.append(_event({"type": "content_block_start", "index": index, "content_block": start}))
        chunks += [_event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
        chunks.append(_event({"type": "content_block_stop", "index": index}))
    end = {"stop_reason": _anthropic_finish(reply), "stop_sequence": None}
    chunks.append(_event({"type": "message_delta", "delta": end, "usage": _anthropic_usage(reply.usage)}))
    return [*chunks, _event({"type": "message_stop"})]


def _google_part(call: Any) -> dict[str, Any]:
    return {"functionCall": {"id": call.id, "name": call.name, "args": json.loads(call.arguments)}}


def _google_answer(reply: Worded, model: str, ident: str, parts: list[dict[str, Any]], last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    answer: dict[str, Any] = {"candidates": [candidate], "modelVersion": model, "responseId": ident}
    if last:
        candidate["finishReason"] = reply.finish or "STOP"
        if isinstance(reply.usage, tuple):
            given, made = reply.usage
            answer["usageMetadata"] = {
                "promptTokenCount": given,
                "candidatesTokenCount": made,
                "totalTokenCount": given + made,
            }
    return answer


def _google_whole(reply: Worded, model: str, ident: str) -> bytes:
    parts = [{"text": reply.text}] if reply.text else []
    return json.dumps(
        _google_answer(reply, model, ident, [*parts, *map(_google_part, reply.calls)], last=True)
    ).encode()


def _google_chunks(reply: Worded, model: str, ident: str, usage_wanted: bool = True) -> list[bytes]:
    parts = [{"text": piece} for piece in _pieces(reply.text, reply.piece)] + list(map(_google_part, reply.calls))
    answers = [_google_answer(reply, model, ident, [part], last=False) for part in parts]
    return [_data(answer) for answer in [*answers, _google_answer(reply, model, ident, [], last=True)]]


_OPENAI = Dialect(_bearer, lambda _, body: bool(body.get("stream")), openai_whole, openai_chunks)
_ANTHROPIC = Dialect(
    lambda headers: headers.get("x-api-key"),
    lambda _, body: bool(body.get("stream")),
    _anthropic_whole,
    _anthropic_chunks,
)
_GOOGLE = Dialect(
    lambda headers: headers.get("x-goog-api-key"),
    lambda path, _: ":streamGenerateContent" in path,
    _google_whole,
    _google_chunks,
)


def of(path: str) -> Dialect | None:
    """Return the protocol that is spoken at a path, None where none is."""
    if path.endswith("/messages"):
        return _ANTHROPIC
    if path.endswith("/chat/completions"):
        return _OPENAI
    return _GOOGLE if path.endswith((":generateContent", ":streamGenerateContent")) else None
