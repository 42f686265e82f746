"""A chat without a door: a real house and engine, a scripted model, and a world that keeps what was done to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

from pydantic import BaseModel, ConfigDict, StringConstraints

from relay.approvals.decide import Wish
from relay.catalog import Connector, Rendering
from relay.chat.service import Chat
from relay.chat.views import CallView, Event, Said, TurnHandle, TurnView
from relay.core.action import Step
from relay.core.permit import Permit
from relay.core.principal import KeyKind, Principal
from relay.engine import Engine
from relay.house import House, open_house
from relay.identity.operator import operator
from relay.store.target import Target
from relay.webhooks.schedule import Schedule
from tests.gateway import _catalog_with, settings_for
from tests.model_server import ModelServer

PATIENCE = 60.0
REQUEST = "req_test_chat"
ADDRESS = "203.0.113.9"


class Thing(BaseModel):
    """What is asked for; ``secret`` is masked wherever it is shown."""

    model_config = ConfigDict(extra="forbid")

    what: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    count: int = 1
    secret: str = ""


class Found(BaseModel):
    """What came of it."""

    said: str


@dataclass
class World:
    """The outside: what was done to it, in order, and what it answers or does for a given ``what``."""

    done: list[tuple[str, Thing]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    script: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    @property
    def whats(self) -> list[str]:
        return [thing.what for _, thing in self.done]

    def hold(self, what: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Keep the call for that waiting; return the events that it has begun and that it may go on."""
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            await go_on.wait()

        self.script[what] = wait
        return begun, go_on

    def fail(self, what: str, error: Exception) -> None:
        async def refuse() -> None:
            raise error

        self.script[what] = refuse

    async def do(self, action: str, permit: Permit, thing: Thing) -> Found:
        assert type(thing) is Thing, "a handler is given its validated model"
        permit.ensure_live()
        self.done.append((action, thing))
        if thing.what in self.script:
            await self.script[thing.what]()
        return Found(said=self.answers.get(thing.what, thing.what.upper()))


def connector() -> Connector:
    """Return a connector of its own for each catalogue."""
    made = Connector("thing")

    def render(step: Step, _: World) -> Rendering:
        return Rendering(f"Do {step.params.what}", {"thing": step.params.what}, warnings=("It cannot be undone.",))

    def redact(params: Thing) -> dict[str, Any]:
        return {"what": params.what, "count": params.count, "secret": "***" if params.secret else ""}

    @made.action("thing.read", effect="read", render=render, redact=redact)
    async def read(permit: Permit, params: Thing, client: World) -> Found:
        """Look a thing up."""
        return await client.do("thing.read", permit, params)

    @made.action("thing.put", effect="write", render=render, redact=redact)
    async def put(permit: Permit, params: Thing, client: World) -> Found:
        """Put a thing somewhere."""
        return await client.do("thing.put", permit, params)

    @made.action("thing.wipe", effect="destructive", render=render, redact=redact)
    async def wipe(permit: Permit, params: Thing, client: World) -> Found:
        """Wipe a thing."""
        return await client.do("thing.wipe", permit, params)

    @made.action("thing.post", effect="read", irreversible=True, render=render, redact=redact)
    async def post(permit: Permit, params: Thing, client: World) -> Found:
        """Post a thing, which cannot be taken back."""
        return await client.do("thing.post", permit, params)

    return made


@dataclass
class ChatWorld:
    """One process with a chat."""

    house: House
    engine: Engine
    world: World

    @property
    def chat(self) -> Chat:
        return self.engine.chat

    async def key(self, *scopes: str, kind: KeyKind = "agent", workspace: str = "default", **more: Any) -> Principal:
        """Make a key and return whom it stands for."""
        _, text = await self.house.api_keys.create(
            operator(),
            workspace=workspace,
            kind=kind,
            scopes=scopes or ("developer",),
            request_id=REQUEST,
            **more,
        )
        principal = await self.house.api_keys.authenticate(text)
        assert principal is not None
        return principal

    async def revoke(self, principal: Principal) -> None:
        await self.house.api_keys.revoke(operator(), principal.id, request_id=REQUEST)

    async def send(self, principal: Principal, text: str, session_id: str | None = None) -> TurnHandle:
        return await self.chat.send(principal, Said(text, REQUEST, ADDRESS, session_id))

    async def say(self, principal: Principal, text: str, session_id: str | None = None) -> TurnView:
        """Say something and return the turn once it rests."""
        return await self.rest((await self.send(principal, text, session_id)).turn_id)

    async def rest(self, turn_id: str) -> TurnView:
        async with asyncio.timeout(PATIENCE):
            return await self.chat.finished(turn_id)

    async def until(self, turn_id: str, *statuses: str) -> TurnView:
        """Return a turn as soon as it has one of these statuses."""
        async with asyncio.timeout(PATIENCE):
            while True:
                view = await self.chat.finished(turn_id)
                if view.status in statuses:
                    return view
                await asyncio.sleep(0.05)

    async def decide(self, approver: Principal, call: CallView, decision: str = "approve") -> None:
        """Decide about a call that waits."""
        assert call.approval_id is not None and call.digest is not None
        wish = Wish(decision, call.digest, "", REQUEST)
        await self.engine.decisions.decide(approver, call.approval_id, wish)

    async def events(self, principal: Principal, handle: TurnHandle, after: str | None = None) -> list[Event]:
        """Return the events of a turn up to where it rests."""
        stream = await self.chat.follow(
            principal, handle.session_id, after or handle.after, ADDRESS, turn_id=handle.turn_id
        )
        try:
            async with asyncio.timeout(PATIENCE):
                return [event async for event in stream.events() if event is not None]
        finally:
            stream.close()


@contextlib.contextmanager
def _swept_often() -> Iterator[None]:
    """Have the chats that are made look ten times a second for what there is to do, so that tests wait less."""
    defaults: Any = Chat.__init__.__kwdefaults__
    with mock.patch.dict(defaults, sweep_seconds=0.1):
        yield


@asynccontextmanager
async def open_chat(
    target: Target,
    data_dir: Path,
    model: ModelServer | None = None,
    *,
    world: World | None = None,
    connectors: Sequence[tuple[Connector, Any]] = (),
    chat: bool = True,
    **settings: str,
) -> AsyncIterator[ChatWorld]:
    """Open a house and run what runs by itself; ``model`` is asked where there is one.

    Without ``chat`` everything works but the chat, as on an installation that was rolled back.
    """
    world = world or World()
    given = {**({} if model is None else model.settings), **settings}
    loaded = settings_for(target, data_dir, **given)
    async with open_house(loaded) as house:
        with _catalog_with([(connector(), world), *connectors]), _swept_often():
            engine = Engine(house, ("127.0.0.1", 9), Schedule())
        try:
            with contextlib.nullcontext() if chat else mock.patch.object(engine.chat, "start"):
                await engine.start(work=True)
            yield ChatWorld(house, engine, world)
        finally:
            await engine.stop()
