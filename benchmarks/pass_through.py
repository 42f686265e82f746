"""What the chat is compared with: an endpoint that asks the same model and passes the bytes of its stream on.

`python -m benchmarks.pass_through PORT MODEL_URL`: Starlette on uvicorn, aiohttp towards the model; nothing is parsed,
kept or decided.
"""

import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route


def application(model_url: str) -> Starlette:
    """Return the application."""
    state: dict[str, aiohttp.ClientSession] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            state["session"] = session
            yield

    async def chat(request: Request) -> StreamingResponse:
        asked: dict[str, Any] = await request.json()
        question = {"model": "stub", "stream": True, "messages": [{"role": "user", "content": asked["message"]}]}

        async def passed_on() -> AsyncIterator[bytes]:
            async with state["session"].post(f"{model_url}/chat/completions", json=question) as answer:
                async for data in answer.content.iter_any():
                    yield data

        return StreamingResponse(passed_on(), media_type="text/event-stream")

    async def health(_: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(
        routes=[Route("/chat/", chat, methods=["POST"]), Route("/health", health)],
        lifespan=lifespan,
    )


def main() -> None:
    """Serve on the port that is given."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=2048)
    config = uvicorn.Config(
        application(sys.argv[2]), loop="uvloop", http="httptools", ws="none", log_config=None, access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
