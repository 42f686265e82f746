"""Many chats at once on one server process: each answer is whole and its own, memory is bounded, also with readers who
do not read."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest

from tests.model_server import Asked, ModelServer, Reply, open_model_server, say
from tests.process import GatewayProcess, eventually, gateway_process

STREAMS: Final = 100
STREAM_KIB: Final = 400
"""What one open stream, with the turn behind it, may add to the resident memory."""
READERS: Final = 20
READER_KIB: Final = 1024
"""What one reader who does not read may add: the next event, in a few copies, and not all that it has still to read."""
LONG: Final = 64 * 1024
TURNS: Final = 3
SETTINGS: Final = {
    "STREAMS_PER_PRINCIPAL": "100",
    "AI_CONCURRENCY": "100",
    "AI_IDLE_SECONDS": "120",
    "AI_TIMEOUT_SECONDS": "300",
    "AI_MAX_OUTPUT_TOKENS": "65536",
}


def story(number: int) -> str:
    """Return a text that belongs to one chat alone."""
    return " ".join(f"{number}:{position}" for position in range(60))


@dataclass
class Told:
    """What one stream has told: ``text`` of the running answer, ``told`` the pieces of the last one that ended."""

    text: str = ""
    told: str = ""
    messages: list[str] = field(default_factory=list)
    status: str = ""
    done: int = 0
    ids: list[str] = field(default_factory=list)

    def take(self, kind: str, data: dict[str, Any]) -> None:
        """Take an event in, as a page would; a piece must follow on what was there."""
        if kind == "delta":
            assert data["offset"] == len(self.text), (data, len(self.text))
            self.text += data["text"]
        elif kind == "message":
            self.messages.append(data["text"])
            self.told, self.text = self.text, ""
        elif kind == "turn":
            self.status = data["status"]
            self.done += data["status"] == "done"


def take_block(told: Told, block: str) -> None:
    """Read one event as it stands on the wire."""
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    if "id" in fields:
        told.ids.append(fields["id"])
    if "event" in fields:
        told.take(fields["event"], json.loads(fields["data"]))


@asynccontextmanager
async def serving(tmp_path: Path, model: ModelServer) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(tmp_path / "home", env={**SETTINGS, **model.settings}) as gateway:
        yield gateway


def resident_kib(gateway: GatewayProcess) -> float:
    rss: int = psutil.Process(gateway.pid).memory_info().rss
    return rss / 1024


async def chat(session: aiohttp.ClientSession, url: str, number: int, told: Told) -> None:
    """Ask for a story in a new chat, and follow the answer to its end."""
    wanted = {"message": f"Tell story {number}."}
    async with session.post(f"{url}/chat/", json=wanted, headers={"Accept": "text/event-stream"}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        buffer = ""
        async for data in answer.content.iter_any():
            *blocks, buffer = (buffer + data.decode()).split("\n\n")
            for block in blocks:
                take_block(told, block)
        assert buffer == ""


def client(gateway: GatewayProcess) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {gateway.first_key}"},
        timeout=aiohttp.ClientTimeout(total=110),
        connector=aiohttp.TCPConnector(limit=0),
    )


@pytest.mark.timeout(240)
async def test_a_hundred_streams_at_once(tmp_path: Path) -> None:
    half = asyncio.Event()

    def script(asked: Asked) -> Reply:
        number = int(re.findall(r"story (\d+)", asked.said)[-1])
        return say(story(number), piece=16, gate=half, after=15)

    async with open_model_server(script) as model, serving(tmp_path, model) as gateway, client(gateway) as session:
        half.set()
        for number in range(3):  # what is loaded and built once counts for no stream
            await chat(session, gateway.url, number, told := Told())
            assert told.messages == [story(number)]
        half.clear()
        before = resident_kib(gateway)
        tales = [Told() for _ in range(STREAMS)]
        chats = [
            asyncio.create_task(chat(session, gateway.url, number, told))
            for number, told in enumerate(tales, start=1000)
        ]
        try:
            await eventually(lambda: half_told(chats, tales), 100)
            assert model.active == STREAMS
            during = resident_kib(gateway)
            half.set()
            await asyncio.gather(*chats)
        finally:
            for task in chats:
                task.cancel()
        assert model.most_active == STREAMS
        for number, told in enumerate(tales, start=1000):
            # The message stands in place of all pieces: the last of them need not have been told before it.
            assert (told.messages, told.status) == ([story(number)], "done") and story(number).startswith(told.told)
            assert len(set(told.ids)) == len(told.ids)
        after = resident_kib(gateway)
        print(f"KiB: {before:.0f} before, {during:.0f} with {STREAMS} streams, {after:.0f} after them")
        assert during - before < STREAMS * STREAM_KIB


async def half_told(chats: list["asyncio.Task[None]"], tales: list[Told]) -> bool:
    """Say whether every chat has begun to tell and none has ended."""
    for task in chats:
        if task.done():
            task.result()
            raise AssertionError("a stream has ended before its answer did")
    return all(len(told.text) > 150 for told in tales)


@pytest.mark.timeout(240)
async def test_readers_who_do_not_read_cost_no_more_than_what_they_are_told_next(tmp_path: Path) -> None:
    long = "".join(f"{position:07d}\n" for position in range(LONG // 8))

    def script(asked: Asked) -> Reply:
        return say(long, piece=64) if "long" in asked.said else say("Short.")

    async with open_model_server(script) as model, serving(tmp_path, model) as gateway, client(gateway) as session:

        async def said(message: str, **more: str) -> Any:
            async with session.post(f"{gateway.url}/chat/", json={"message": message, **more}) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        await said("A long one.")  # what is loaded and built once counts for no reader
        session_id = (await said("A short one."))["session_id"]
        readers = [await slow_reader(gateway, session_id) for _ in range(READERS)]
        try:
            before = resident_kib(gateway)
            for _ in range(TURNS):
                turn = await said("A long one.", session_id=session_id)
                assert (turn["message"], turn["error"]) == (long, None)
            after = resident_kib(gateway)
            print(f"KiB: {before:.0f} before, {after:.0f} with {READERS} readers who do not read")
            assert after - before < READERS * READER_KIB
            for reader, writer in readers[:3]:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
                told = await read_all(reader, TURNS + 1)
                assert told.messages == ["Short.", *[long] * TURNS]
        finally:
            for _, writer in readers:
                writer.transport.abort()


async def slow_reader(gateway: GatewayProcess, session_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Follow a session with buffers as small as they can be, up to the head of the answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=2048)
    writer.write(
        f"GET /chat/sessions/{session_id}/events HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n"
        f"Authorization: Bearer {gateway.first_key}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return reader, writer


async def read_all(reader: asyncio.StreamReader, turns: int) -> Told:
    """Read a stream up to the end of so many turns."""
    told, buffer = Told(), ""
    async with asyncio.timeout(100):
        while told.done < turns:
            size = int(await reader.readline(), 16)
            data = (await reader.readexactly(size + 2))[:-2]
            *blocks, buffer = (buffer + data.decode()).split("\n\n")
            for block in blocks:
                take_block(told, block)
    return told
