"""Conversations outlive the process that took their messages: nothing is lost, and nothing is done twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.store.target import Target
from tests.model_server import ModelServer, call, open_model_server, say
from tests.postgres import shared_keys
from tests.process import Client, GatewayProcess, eventually, gateway_process

PATIENCE = 90.0
MAIL = call("email-send", {"to": ["ada@outside.example"], "subject": "News", "text": "Hello."})
"""What an agent may do with approval alone."""


@dataclass
class Replicas:
    """Two gateways on one database, each with a client of an agent's, and a person who may decide at the second."""

    one: GatewayProcess
    two: GatewayProcess
    here: Client
    there: Client
    person: Client
    model: ModelServer

    def mails(self) -> int:
        """Return how many mails have been sent, by whichever of them."""
        folders = [process.data / "mail" / "new" for process in (self.one, self.two)]
        return sum(len(list(folder.iterdir())) for folder in folders if folder.exists())

    async def session(self, session_id: str) -> dict[str, Any]:
        found = await self.there.get(f"/chat/sessions/{session_id}")
        assert found.status == 200, found.body
        shown: dict[str, Any] = found.body
        return shown

    async def rests(self, session_id: str) -> dict[str, Any]:
        """Return a session once its turn is over."""

        async def look() -> Any:
            found = await self.session(session_id)
            return found if found["session"]["status"] in ("done", "failed", "cancelled") else None

        ended: dict[str, Any] = await eventually(look, PATIENCE)
        return ended


@pytest.fixture
async def replicas(tmp_path: Path, postgres_target: Target) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(open_model_server())
        env = {
            "DATABASE_URL": postgres_target.url.replace("postgresql+psycopg", "postgresql"),
            **shared_keys(),
            **model.settings,
        }
        one = await stack.enter_async_context(gateway_process(tmp_path / "one", env=env))
        two = await stack.enter_async_context(gateway_process(tmp_path / "two", env=env))
        agent = await two.new_key("developer")
        person = await two.new_key("approver", kind="person")
        here, there, decider = [
            await stack.enter_async_context(process.client(key))
            for process, key in ((one, agent), (two, agent), (two, person))
        ]
        yield Replicas(one, two, here, there, decider, model)


def texts(shown: dict[str, Any], kind: str) -> list[str]:
    return [entry["text"] for entry in shown["entries"] if entry["kind"] == kind and entry["text"]]


async def test_a_kill_between_question_and_approval(replicas: Replicas) -> None:
    replicas.model.reply(say("I will.", MAIL), say("It is done."))
    asked = await replicas.here.post("/chat/", {"message": "Write to Ada"})
    assert (asked.status, asked.body["awaiting_approval"]) == (200, True), asked.body
    [waiting] = asked.body["approvals"]
    assert replicas.mails() == 0
    replicas.one.kill()
    decided = await replicas.person.post(f"/approvals/{waiting['approval_id']}/approve", {"digest": waiting["digest"]})
    assert decided.status == 200, decided.body
    shown = await replicas.rests(asked.body["session_id"])
    assert shown["session"]["status"] == "done"
    assert texts(shown, "assistant") == ["I will.", "It is done."]
    assert replicas.mails() == 1
    assert len(replicas.model.asked) == 2
    # The conversation goes on where nobody had heard of it before.
    replicas.model.reply(say("As I said."))
    more = await replicas.there.post("/chat/", {"message": "Really?", "session_id": asked.body["session_id"]})
    assert (more.status, more.body["message"]) == (200, "As I said.")
    assert replicas.mails() == 1


async def test_a_kill_while_the_model_speaks(replicas: Replicas) -> None:
    never = asyncio.Event()
    replicas.model.reply(say("", call("relay-echo", {"message": "hello"})), say("Half of", gate=never, after=1))
    sending = asyncio.create_task(replicas.here.post("/chat/", {"message": "Echo hello"}))
    await replicas.model.arrived(2)
    replicas.model.reply(say("It said hello."))
    replicas.one.kill()
    await asyncio.gather(sending, return_exceptions=True)
    found = await replicas.there.get("/chat/sessions")
    [session] = found.body["items"]
    shown = await replicas.rests(session["session_id"])
    assert shown["session"]["status"] == "done", shown
    assert texts(shown, "assistant") == ["It said hello."]
    # What had been called before the kill was not called again.
    made = [entry["call"] for entry in shown["entries"] if entry["kind"] == "call"]
    assert [one["status"] for one in made] == ["running", "succeeded"]
    assert len(replicas.model.asked) == 3
    never.set()
