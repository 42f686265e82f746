"""A model that says as many words as it is asked for, one by one: `python -m benchmarks.model_stub PORT PAUSE_MS`.

It speaks OpenAI's chat completions, streamed. The last `say N words` of a request says how many.
"""

import asyncio
import json
import re
import sys
from typing import Final

import uvloop

WORD: Final = "word "
_WANTED: Final = re.compile(rb"say (\d+) words")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"


def _event(**choice: object) -> bytes:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stub", **choice}
    data = b"data: " + json.dumps(body).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _choice(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


FIRST: Final = _choice({"role": "assistant", "content": ""})
PIECE: Final = _choice({"content": WORD})
LAST: Final = _choice({}, "stop") + _event(
    choices=[], usage={"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
)
DONE: Final = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if head.startswith(b"GET /health"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            writer.write(_HEAD % b"text/event-stream" + FIRST)
            for _ in range(int(_WANTED.findall(body)[-1])):
                await asyncio.sleep(pause)
                writer.write(PIECE)
            writer.write(LAST + DONE)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _serve(port: int, pause: float) -> None:
    server = await asyncio.start_server(lambda r, w: _answer(r, w, pause), "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve on the port that is given."""
    port, pause = int(sys.argv[1]), float(sys.argv[2]) / 1000
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(port, pause))


if __name__ == "__main__":
    main()
