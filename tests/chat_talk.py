"""Talking to the chat over the wire."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.gateway import Answer, Gateway

CHAT_KEY = "ZxY9-7vQpL2mNc4RtKw8sHd3JfGa6BuEoTiXyV0qPzM"
"""A chat key of a test."""
MAIL = 'Send an email to ada@example.com about "Lunch" saying "See you at noon"'
HELD = ("chat", "actions:preview", "actions:execute")
"""What an agent's key needs to ask for actions in a conversation; by the default policy its writes wait."""


async def say(
    gateway: Gateway,
    message: str,
    *,
    key: str | None = None,
    session: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Answer:
    """Say something; ``session`` None begins a session."""
    body = {"message": message, **more}
    if session is not None:
        body["session_id"] = session
    return await gateway.post("/chat/", body, key=key, headers=headers)


async def begun(gateway: Gateway, key: str, message: str = 'echo "hello"') -> str:
    """Return the id of a new session in which one turn has ended or waits."""
    found: str = (await say(gateway, message, key=key)).expect(200)["session_id"]
    return found


async def held(gateway: Gateway, key: str) -> tuple[str, dict[str, Any]]:
    """Return a new session of an agent's, and the call in it that waits for approval."""
    turn = (await say(gateway, MAIL, key=key)).expect(200)
    assert turn["awaiting_approval"] is True and turn["status"] == "awaiting_approval", turn
    [call] = turn["tool_calls"]
    return turn["session_id"], call


@dataclass(frozen=True)
class Block:
    """One event as it stood on the wire."""

    id: str | None
    kind: str
    data: dict[str, Any]


def blocks(body: bytes) -> list[Block]:
    """Return the events of a stream; comments and the delay for coming back are passed over."""
    found = []
    for text in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in text.split("\n") if ": " in line and not line.startswith(":"))
        if "event" in fields:
            found.append(Block(fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


async def until(look: Callable[[], Awaitable[Any]], what: str, *, seconds: float = 60.0) -> Any:
    """Return the first result of ``look`` that is true."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(0.1)
    assert found, what
    return found


async def turn_of(gateway: Gateway, key: str, session: str) -> dict[str, Any]:
    """Return a session as its owner sees it, with all its entries."""
    found: dict[str, Any] = (await gateway.get(f"/chat/sessions/{session}?limit=100", key=key)).expect(200)
    return found


async def settled(gateway: Gateway, key: str, session: str, *statuses: str) -> dict[str, Any]:
    """Return a session once its last turn has one of these statuses."""

    async def look() -> dict[str, Any] | None:
        found = await turn_of(gateway, key, session)
        return found if found["session"]["status"] in (statuses or ("done",)) else None

    await until(look, f"{session} is never {statuses}")
    return await turn_of(gateway, key, session)  # its entries may have been read before its status was
