"""A gateway with actions that want approval, the effects that they really had, and the callers that play a part."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from relay.approvals.intake import Intake
from relay.approvals.notices import Notices
from relay.approvals.requests import Requests
from relay.catalog import Catalog, Connector, Rendering
from relay.core.action import Step
from relay.core.effect import EffectRefused, EffectUnsent
from relay.core.permit import Permit
from relay.core.principal import SCOPES, KeyKind
from relay.egress.mail import MaildirTransport
from relay.identity.operator import operator
from relay.store.database import Database
from relay.store.target import Target
from relay.store.vault import Vault
from tests.gateway import Answer, Gateway, open_gateway

PATIENCE = 60.0
ENDED = ("succeeded", "failed", "unknown", "denied", "expired", "cancelled")


class Deed(BaseModel):
    """What is to be done; ``secret`` is masked wherever it is shown."""

    model_config = ConfigDict(extra="forbid")

    what: str
    secret: str = ""


class Done(BaseModel):
    """It was done."""

    what: str


@dataclass
class Deeds:
    """The world outside: what has been done there, and how it takes the next deeds."""

    done: list[str] = field(default_factory=list)
    permits: list[Permit] = field(default_factory=list)
    unsent: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def do(self, permit: Permit, deed: Deed) -> Done:
        self.permits.append(permit)
        if self.unsent:
            self.unsent -= 1
            raise EffectUnsent("unreachable", "Nothing was sent.")
        permit.ensure_live()
        self.done.append(deed.what)
        await self.open.wait()
        return Done(what=deed.what)


connector = Connector("deed")


def _redact(params: Deed) -> dict[str, Any]:
    return {"what": params.what, "secret": "***" if params.secret else ""}


def _render(step: Step, _: Any) -> Rendering:
    return Rendering(f"Do {step.params.what}", {"deed": step.params.what}, warnings=("It cannot be undone.",))


@connector.action("deed.wipe", effect="destructive", render=_render, redact=_redact)
async def wipe(permit: Permit, params: Deed, client: Deeds) -> Done:
    """Do what cannot be undone."""
    return await client.do(permit, params)


@connector.action("deed.send", effect="write", render=_render, redact=_redact, irreversible=True)
async def send(permit: Permit, params: Deed, client: Deeds) -> Done:
    """Do what cannot be taken back."""
    return await client.do(permit, params)


@connector.action("deed.refuse", effect="destructive", render=_render, redact=_redact)
async def refuse(permit: Permit, params: Deed, client: Deeds) -> Done:
    """Be refused."""
    raise EffectRefused("upstream_status_500", "The other side said no.")


def intake(database: Database, vault: Vault, catalog: Catalog) -> Intake:
    """Return what takes in requests and writes to nobody."""
    requests = Requests(database, vault, catalog)
    transport = MaildirTransport(Path("/nonexistent"))
    return Intake(Notices(database, requests, transport, recipients=(), public_url=None), 200, 20_000)


@dataclass
class Office:
    """A gateway with its world, and an agent, its owner and two persons whose keys the operator made."""

    gateway: Gateway
    deeds: Deeds
    owner: str
    agent: str
    ada: str
    bob: str

    async def ask(self, what: str, *, key: str | None = None, action: str = "deed.wipe", **options: Any) -> Answer:
        """Ask for a deed."""
        wish = {"action": action, "params": {"what": what, **options.pop("params", {})}}
        return await self.gateway.post("/actions/execute", wish, key=key or self.agent, **options)

    async def requested(self, what: str = "it", **options: Any) -> dict[str, Any]:
        """Ask for a deed that wants approval and return its request as those who decide see it."""
        found = (await self.ask(what, **options)).expect(202)
        assert found["status"] == "pending_approval"
        return await self.request(found["approval_id"])

    async def request(self, approval_id: str, *, key: str | None = None) -> dict[str, Any]:
        """Return a request."""
        found: dict[str, Any] = (await self.gateway.get(f"/approvals/{approval_id}", key=key or self.ada)).expect(200)
        return found

    async def decide(
        self, request: dict[str, Any], how: str = "approve", *, key: str | None = None, **body: Any
    ) -> Answer:
        """Decide about a request, with its own digest where none is given."""
        path = f"/approvals/{request['approval_id']}/{how}"
        return await self.gateway.post(path, {"digest": request["digest"], **body}, key=key or self.ada)

    async def attempt(self, attempt_id: str, *, key: str | None = None) -> dict[str, Any]:
        """Return an attempt."""
        found: dict[str, Any] = (await self.gateway.get(f"/attempts/{attempt_id}", key=key or self.owner)).expect(200)
        return found

    async def ended(self, attempt_id: str) -> dict[str, Any]:
        """Return an attempt once it has ended."""
        async with asyncio.timeout(PATIENCE):
            while (found := await self.attempt(attempt_id))["status"] not in ENDED:
                await asyncio.sleep(0.02)
        return found

    async def key(self, *scopes: str, maker: str | None = None, kind: KeyKind = "person") -> tuple[str, str]:
        """Return a new key and its id, made by the holder of ``maker`` over HTTP, or by the operator."""
        wanted = list(scopes) or list(SCOPES)
        if maker is None:
            record, text = await self.gateway.house.api_keys.create(
                operator(), workspace="default", kind=kind, scopes=wanted, request_id="req_kit_00001"
            )
            return text, record.id
        made = (await self.gateway.post("/keys", {"kind": kind, "scopes": wanted}, key=maker)).expect(201)
        return made["key"], made["id"]

    async def policy(self, text: str) -> None:
        """Set the workspace's policies."""
        (await self.gateway.call("PUT", "/policies", json={"text": text}, key=self.owner)).expect(200)


@asynccontextmanager
async def open_office(target: Target, data_dir: Path, *, admin: str = "", **settings: str) -> AsyncIterator[Office]:
    """Serve an office. The agent's key is made by the owner's."""
    deeds = Deeds()
    async with open_gateway(target, data_dir, admin=admin, connectors=[(connector, deeds)], **settings) as gateway:
        office = Office(gateway, deeds, gateway.admin, "", "", "")
        office.agent, _ = await office.key("actions:preview", "actions:execute", maker=gateway.admin, kind="agent")
        office.ada, _ = await office.key("approvals:decide", "actions:preview")
        office.bob, _ = await office.key("approvals:decide", "actions:preview")
        yield office
