"""Endpoints of a workspace: making, changing, rotating, testing and removing them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic_core import to_json

from relay.core.clock import HOUR, now
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict, Invalid, NotFound
from relay.crypto.envelope import Envelopes
from relay.egress.webhooks import WebhookClient
from relay.store.database import Database
from relay.store.deliveries import DeliveryRepository
from relay.store.endpoints import PURPOSE, EndpointRepository, EndpointRow
from relay.store.vault import Sealed as Envelope
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.webhooks.health import DELETED, disable, endpoint_event, resume
from relay.webhooks.outbox import Outbox, message
from relay.webhooks.sealed import Sealed
from relay.webhooks.turns import in_turn
from relay.webhooks.types import TEST, unknown

MAX_ENDPOINTS: Final = 50
MAX_EVENTS: Final = 50
MAX_PATTERN: Final = 120
MAX_DESCRIPTION: Final = 200
DEFAULT_OVERLAP_HOURS: Final = 24
MAX_OVERLAP_HOURS: Final = 168
_MISSING: Final = "There is no such endpoint."
_NO_SUCH_TYPE: Final = (
    "There is no such event type. What receivers bring is asked for by its sender's type, "
    "as webhook.received:order.paid or webhook.received:order.*."
)


@dataclass(frozen=True, slots=True)
class SecretLife:
    """From when to when a secret signs, in microseconds; ``until`` is None for the newest.

    ``since`` is None for a secret that a version of Relay made which did not note it.
    """

    since: int | None
    until: int | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it is shown: with its URL and how long its secrets live, oldest first; never a secret."""

    row: EndpointRow
    url: str
    secrets: tuple[SecretLife, ...]


@dataclass(frozen=True, slots=True)
class NewSecret:
    """An endpoint with the secret that was just made, which is shown this once."""

    endpoint: Endpoint
    secret: str = field(repr=False)
    older_until: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a change asks for; None leaves as it is."""

    url: str | None = None
    events: Sequence[str] | None = None
    description: str | None = None
    legacy_signature: bool | None = None
    enabled: bool | None = None


class Endpoints:
    """Changes endpoints on behalf of a principal, within its workspace. Every change is one unit with its audit event.

    404 for what belongs to another workspace. 422 for a URL that egress refuses, or a filter that fits no event type.
    """

    def __init__(
        self, database: Database, vault: Vault, keys: Envelopes, outbox: Outbox, client: WebhookClient
    ) -> None:
        self._database = database
        self._vault = vault
        self._keys = keys
        self._outbox = outbox
        self._client = client

    async def create(
        self,
        maker: Principal,
        *,
        url: str,
        events: Sequence[str],
        description: str,
        legacy_signature: bool,
        request_id: str,
    ) -> NewSecret:
        """Make an endpoint with a fresh secret; 409 when the workspace has as many as it may have."""
        await self._require_url(url)
        at = now()
        sealed = Sealed.new(url, at)
        row = EndpointRow(
            id=new_id("end"),
            workspace_id=maker.workspace_id,
            description=description,
            events=_stored(events),
            legacy_signature=int(legacy_signature),
            status="enabled",
            disabled_reason=None,
            disabled_at=None,
            created_by=maker.id,
            created_at=at,
            changed_at=at,
            failures=0,
            failing_since=None,
            paused_until=None,
        )
        envelope = self._seal(row, sealed)
        endpoints = EndpointRepository(maker.workspace_id)

        def unit(tx: Tx) -> None:
            if endpoints.count(tx) >= MAX_ENDPOINTS:
                raise Conflict(f"A workspace has at most {MAX_ENDPOINTS} endpoints; delete one first.")
            endpoints.insert(tx, row)
            self._vault.put(tx, envelope)
            self._outbox.routes_changed(tx)
            tx.record(endpoint_event("created", row, maker.id, request_id))

        await self._database.writer.run(unit)
        return NewSecret(_shown(row, sealed, at), sealed.secrets[0].text)

    async def list(self, workspace_id: str) -> list[Endpoint]:
        """Return every endpoint, newest first."""
        repository, reader = EndpointRepository(workspace_id), self._database.reader
        rows = await repository.all(reader)
        bodies = await repository.envelopes_of(reader, [row.id for row in rows])
        at = now()
        return [_shown(row, self._open(row, bodies[row.id]), at) for row in rows if row.id in bodies]

    async def get(self, workspace_id: str, endpoint_id: str) -> Endpoint:
        """Return one endpoint."""
        repository, reader = EndpointRepository(workspace_id), self._database.reader
        row = await repository.find(reader, endpoint_id)
        bodies = await repository.envelopes_of(reader, [endpoint_id])
        if row is None or endpoint_id not in bodies:
            raise NotFound(_MISSING)
        return _shown(row, self._open(row, bodies[endpoint_id]), now())

    async def change(self, actor: Principal, endpoint_id: str, changes: Changes, request_id: str) -> Endpoint:
        """Change an endpoint. Disabling makes dead letters of what was still to be delivered."""
        if changes.url is not None:
            await self._require_url(changes.url)
        types = None if changes.events is None else _stored(changes.events)
        endpoints = EndpointRepository(actor.workspace_id)

        def unit(tx: Tx) -> Endpoint:
            old, sealed = self._locked(tx, endpoints, endpoint_id)
            at = now()
            row = _applied(old, changes, types, at)
            kept = sealed if changes.url is None else replace(sealed, url=changes.url)
            if row != replace(old, changed_at=at) or kept != sealed:
                endpoints.change(tx, row)
                self._outbox.routes_changed(tx)
            if _content(row, kept.url) != _content(old, sealed.url):
                tx.record(endpoint_event("changed", row, actor.id, request_id))
            if kept != sealed:
                endpoints.reseal(tx, self._seal(row, kept))
            if changes.enabled is True and old.status == "disabled":
                tx.record(endpoint_event("enabled", row, actor.id, request_id))
            if changes.enabled is False and old.status == "enabled":
                row = disable(tx, self._outbox, row, "switched_off", at, principal=actor.id, request_id=request_id)
            return _shown(row, kept, at)

        return await in_turn(self._database.writer, unit)

    async def delete(self, actor: Principal, endpoint_id: str, request_id: str) -> None:
        """Remove an endpoint with its secrets. Its deliveries stay in the log; what was pending is a dead letter."""
        endpoints = EndpointRepository(actor.workspace_id)

        def unit(tx: Tx) -> None:
            row = endpoints.lock(tx, endpoint_id)
            if row is None:
                raise NotFound(_MISSING)
            endpoints.delete(tx, endpoint_id)
            DeliveryRepository(actor.workspace_id).give_up(tx, endpoint_id, at=now(), reason=DELETED)
            self._outbox.routes_changed(tx)
            tx.record(endpoint_event("deleted", row, actor.id, request_id))

        await in_turn(self._database.writer, unit)

    async def rotate(self, actor: Principal, endpoint_id: str, overlap_hours: int, request_id: str) -> NewSecret:
        """Make a new secret. Until the overlap is over, deliveries are signed with the old one as well."""
        endpoints = EndpointRepository(actor.workspace_id)

        def unit(tx: Tx) -> NewSecret:
            row, sealed = self._locked(tx, endpoints, endpoint_id)
            at = now()
            until = at + overlap_hours * HOUR
            rotated = sealed.rotated(at, until)
            row = replace(row, changed_at=at)
            endpoints.change(tx, row)
            endpoints.reseal(tx, self._seal(row, rotated))
            tx.record(endpoint_event("rotated", row, actor.id, request_id))
            return NewSecret(_shown(row, rotated, at), rotated.secrets[0].text, until)

        return await in_turn(self._database.writer, unit)

    async def test(self, actor: Principal, endpoint_id: str, request_id: str) -> str:
        """Send ``webhook.test`` to an endpoint and return the delivery's id; 409 when it is disabled."""
        endpoints = EndpointRepository(actor.workspace_id)

        def unit(tx: Tx) -> str:
            row = endpoints.lock(tx, endpoint_id)
            if row is None:
                raise NotFound(_MISSING)
            if row.status != "enabled":
                raise Conflict("This endpoint is disabled; enable it first.")
            draft = endpoint_event("tested", row, actor.id, request_id)
            (delivery,) = self._outbox.put(tx, [message(TEST, draft, (endpoint_id,))])
            resume(tx, row)
            tx.record(draft)
            return delivery.id

        return await in_turn(self._database.writer, unit)

    async def _require_url(self, url: str) -> None:
        if (reason := await self._client.refusal_now(url)) is not None:
            raise Invalid("The request is not valid; see errors.", errors=[{"pointer": "/url", "message": reason}])

    def _locked(self, tx: Tx, endpoints: EndpointRepository, endpoint_id: str) -> tuple[EndpointRow, Sealed]:
        row = endpoints.lock(tx, endpoint_id)
        body = None if row is None else endpoints.sealed(tx, endpoint_id)
        if row is None or body is None:
            raise NotFound(_MISSING)
        return row, self._open(row, body)

    def _open(self, row: EndpointRow, body: bytes) -> Sealed:
        return Sealed.unpack(self._keys.open(body, workspace=row.workspace_id, purpose=PURPOSE, record=row.id))

    def _seal(self, row: EndpointRow, sealed: Sealed) -> Envelope:
        return self._vault.seal(
            sealed.pack(), workspace=row.workspace_id, purpose=PURPOSE, record_id=row.id, expires_at=None
        )


def _shown(row: EndpointRow, sealed: Sealed, at: int) -> Endpoint:
    lives = [SecretLife(secret.since, secret.until) for secret in sealed.living(at)]
    return Endpoint(row, sealed.url, tuple(reversed(lives)))


def _content(row: EndpointRow, url: str) -> tuple[str, ...]:
    return (url, row.events, row.description, str(row.legacy_signature))


def _applied(old: EndpointRow, changes: Changes, types: str | None, at: int) -> EndpointRow:
    row = replace(
        old,
        description=old.description if changes.description is None else changes.description,
        events=old.events if types is None else types,
        legacy_signature=old.legacy_signature if changes.legacy_signature is None else int(changes.legacy_signature),
        changed_at=at,
    )
    if changes.enabled is not True or old.status == "enabled":
        return row
    return replace(
        row,
        status="enabled",
        disabled_reason=None,
        disabled_at=None,
        failures=0,
        failing_since=None,
        paused_until=None,
    )


def _stored(events: Sequence[str]) -> str:
    """Return a filter as it is stored: sorted, each pattern once."""
    patterns = sorted(set(events))
    if wrong := unknown(patterns):
        listed = [
            {"pointer": f"/events/{place}", "message": _NO_SUCH_TYPE}
            for place, pattern in enumerate(events)
            if pattern in wrong
        ]
        raise Invalid("The request is not valid; see errors.", errors=listed)
    return to_json(patterns).decode()
