"""Webhook endpoints as rows. Their URL and secrets are an envelope beside the row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic_core import from_json
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, literal_column, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import envelopes, generations
from relay.store.tables.webhooks_out import webhook_endpoints as endpoints
from relay.store.vault import Sealed
from relay.store.writer import Tx

PURPOSE: Final = "webhook-endpoint"
GENERATION: Final = "endpoints"

EndpointStatus = Literal["enabled", "disabled"]


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint. ``failures`` counts the attempts that failed since the last success, the first of which was at
    ``failing_since``; nothing is sent before ``paused_until``.
    """

    id: str
    workspace_id: str
    description: str
    events: str
    legacy_signature: int
    status: EndpointStatus
    disabled_reason: str | None
    disabled_at: int | None
    created_by: str
    created_at: int
    changed_at: int
    failures: int
    failing_since: int | None
    paused_until: int | None

    def wanted(self) -> list[str]:
        """Return the event types that the endpoint asks for."""
        return [str(name) for name in from_json(self.events)]


_COLUMNS: Final = [endpoints.c[name] for name in EndpointRow.__dataclass_fields__]
_THIS: Final = and_(endpoints.c.id == bindparam("endpoint"), endpoints.c.workspace_id == bindparam("ws"))
_ITS_ENVELOPE: Final = and_(
    envelopes.c.purpose == literal_column(f"'{PURPOSE}'"),
    envelopes.c.record_id == bindparam("endpoint"),
    envelopes.c.workspace_id == bindparam("ws"),
)
_ENABLED: Final[ColumnElement[str]] = literal_column("'enabled'")

_INSERT: Final = Query(insert(endpoints))
_DELETE: Final = Query(delete(endpoints).where(_THIS))
_DELETE_ENVELOPE: Final = Query(delete(envelopes).where(_ITS_ENVELOPE))
_COUNT: Final = Query(select(func.count()).select_from(endpoints).where(endpoints.c.workspace_id == bindparam("ws")))
_LOCK: Final = Query(select(*_COLUMNS).where(_THIS).with_for_update(skip_locked=True))
_EXISTS: Final = Query(select(endpoints.c.id).where(_THIS))
_LOCK_FREE: Final = Query(
    select(*_COLUMNS)
    .where(endpoints.c.id == bindparam("endpoint"), endpoints.c.status == _ENABLED)
    .with_for_update(skip_locked=True)
)
_ENVELOPE: Final = Query(select(envelopes.c.body).where(_ITS_ENVELOPE))
_RESEAL: Final = Query(update(envelopes).where(_ITS_ENVELOPE).values(body=bindparam("sealed"), kek_id=bindparam("kek")))
_CHANGE: Final = Query(
    update(endpoints)
    .where(_THIS)
    .values(
        description=bindparam("text"),
        events=bindparam("types"),
        legacy_signature=bindparam("legacy"),
        status=bindparam("to_status"),
        disabled_reason=bindparam("reason"),
        disabled_at=bindparam("disabled"),
        changed_at=bindparam("moment"),
        failures=bindparam("failed"),
        failing_since=bindparam("since"),
        paused_until=bindparam("paused"),
    )
)
_HEALTH: Final = Query(
    update(endpoints)
    .where(_THIS)
    .values(failures=bindparam("failed"), failing_since=bindparam("since"), paused_until=bindparam("paused"))
)
_RECOVER: Final = Query(
    update(endpoints).where(_THIS, endpoints.c.failures > 0).values(failures=0, failing_since=None, paused_until=None)
)
_BUMP: Final = Query(update(generations).where(generations.c.name == GENERATION).values(value=generations.c.value + 1))
_GENERATION: Final = Query(select(generations.c.value).where(generations.c.name == GENERATION))
_TURN: Final = Query(select(generations.c.value).where(generations.c.name == GENERATION).with_for_update())
_ROUTES: Final = Query(
    select(endpoints.c.id, endpoints.c.workspace_id, endpoints.c.events)
    .where(endpoints.c.status == _ENABLED)
    .order_by(endpoints.c.id)
)


class EndpointHeld(Exception):
    """Another process has the endpoint in a transaction of its own; nothing of the unit has been written."""


class EndpointRepository:
    """The endpoints of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def insert(self, tx: Tx, row: EndpointRow) -> None:
        """Add an endpoint; ValueError for one of another workspace."""
        if row.workspace_id != self._workspace:
            raise ValueError("the endpoint belongs to another workspace")
        tx.run(_INSERT, **_values(row))
        tx.run(_BUMP)

    def count(self, tx: Tx) -> int:
        """Return how many endpoints there are, and let nobody else make one until the transaction ends."""
        take_turn(tx)
        found = tx.one(_COUNT, ws=self._workspace)
        return int(found[0]) if found else 0

    def lock(self, tx: Tx, endpoint_id: str) -> EndpointRow | None:
        """Return an endpoint and keep it, with its deliveries, unchanged by others until the transaction ends.

        Never waits: :class:`EndpointHeld`, a refusal, when another process has it. Whoever changes a delivery locks its
        endpoint first.
        """
        row = tx.one(_LOCK, endpoint=endpoint_id, ws=self._workspace)
        if row is None and tx.one(_EXISTS, endpoint=endpoint_id, ws=self._workspace) is not None:
            raise EndpointHeld
        return EndpointRow(*row) if row else None

    def change(self, tx: Tx, row: EndpointRow) -> None:
        """Write what can change of a locked endpoint."""
        tx.run(
            _CHANGE,
            endpoint=row.id,
            ws=self._workspace,
            text=row.description,
            types=row.events,
            legacy=row.legacy_signature,
            to_status=row.status,
            reason=row.disabled_reason,
            disabled=row.disabled_at,
            moment=row.changed_at,
            failed=row.failures,
            since=row.failing_since,
            paused=row.paused_until,
        )
        tx.run(_BUMP)

    def set_health(
        self, tx: Tx, endpoint_id: str, *, failures: int, failing_since: int | None, paused_until: int | None
    ) -> None:
        """Write how a locked endpoint fares; what routes events to it does not change."""
        tx.run(
            _HEALTH,
            endpoint=endpoint_id,
            ws=self._workspace,
            failed=failures,
            since=failing_since,
            paused=paused_until,
        )

    def recover(self, tx: Tx, endpoint_id: str) -> None:
        """Forget a locked endpoint's failures, if there are any."""
        tx.run(_RECOVER, endpoint=endpoint_id, ws=self._workspace)

    def delete(self, tx: Tx, endpoint_id: str) -> None:
        """Remove an endpoint with its URL and its secrets."""
        tx.run(_DELETE, endpoint=endpoint_id, ws=self._workspace)
        tx.run(_DELETE_ENVELOPE, endpoint=endpoint_id, ws=self._workspace)
        tx.run(_BUMP)

    def sealed(self, tx: Tx, endpoint_id: str) -> bytes | None:
        """Return the envelope of an endpoint's URL and secrets."""
        row = tx.one(_ENVELOPE, endpoint=endpoint_id, ws=self._workspace)
        return bytes(row[0]) if row else None

    def reseal(self, tx: Tx, sealed: Sealed) -> None:
        """Replace the envelope of an endpoint."""
        sealed = sealed.renewed()
        tx.run(_RESEAL, endpoint=sealed.record_id, ws=self._workspace, sealed=sealed.body, kek=sealed.kek_id)

    async def find(self, reader: Reader, endpoint_id: str) -> EndpointRow | None:
        """Return an endpoint, or None."""
        row = await reader.one(
            select(*_COLUMNS).where(endpoints.c.id == endpoint_id, endpoints.c.workspace_id == self._workspace)
        )
        return EndpointRow(*row) if row else None

    async def all(self, reader: Reader) -> list[EndpointRow]:
        """Return every endpoint, newest first."""
        statement = select(*_COLUMNS).where(endpoints.c.workspace_id == self._workspace)
        return [EndpointRow(*row) for row in await reader.all(statement.order_by(endpoints.c.id.desc()))]

    async def envelopes_of(self, reader: Reader, endpoint_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the envelopes of several endpoints."""
        rows = await reader.all(
            select(envelopes.c.record_id, envelopes.c.body).where(
                envelopes.c.purpose == PURPOSE,
                envelopes.c.workspace_id == self._workspace,
                envelopes.c.record_id.in_(endpoint_ids),
            )
        )
        return {str(record_id): bytes(body) for record_id, body in rows}


def _values(row: EndpointRow) -> Mapping[str, Any]:
    return {name: getattr(row, name) for name in EndpointRow.__dataclass_fields__}


def take_turn(tx: Tx) -> None:
    """Wait until nobody else makes or changes endpoints or receivers; a count that follows then holds to the end."""
    tx.one(_TURN)


class EndpointsOfAllWorkspaces:
    """What routing and sending alone need: endpoints wherever they belong."""

    @staticmethod
    def lock_free(tx: Tx, endpoint_id: str) -> EndpointRow | None:
        """Return an enabled endpoint and lock it; None also while another process holds it."""
        row = tx.one(_LOCK_FREE, endpoint=endpoint_id)
        return EndpointRow(*row) if row else None

    @staticmethod
    async def workspace_of(reader: Reader, endpoint_id: str) -> str | None:
        """Return the workspace of an endpoint, or None when there is no such one."""
        row = await reader.one(select(endpoints.c.workspace_id).where(endpoints.c.id == endpoint_id))
        return str(row[0]) if row else None

    @staticmethod
    def routes(tx: Tx) -> list[tuple[str, str, list[str]]]:
        """Return id, workspace and wanted types of every enabled endpoint."""
        return [(str(id), str(workspace), from_json(events)) for id, workspace, events in tx.all(_ROUTES)]

    @staticmethod
    async def sealed_in_use(reader: Reader, *, before: int, after: str, most: int) -> list[tuple[str, str, int, bytes]]:
        """Return id, workspace, time and envelope of up to ``most`` enabled endpoints made up to ``before``, by id."""
        rows = await reader.all(
            select(endpoints.c.id, endpoints.c.workspace_id, endpoints.c.created_at, envelopes.c.body)
            .join(
                envelopes,
                and_(
                    envelopes.c.purpose == PURPOSE,
                    envelopes.c.record_id == endpoints.c.id,
                    envelopes.c.workspace_id == endpoints.c.workspace_id,
                ),
            )
            .where(endpoints.c.status == _ENABLED, endpoints.c.created_at <= before, endpoints.c.id > after)
            .order_by(endpoints.c.id)
            .limit(most)
        )
        return [(str(id), str(workspace), int(at), bytes(body)) for id, workspace, at, body in rows]

    @staticmethod
    def generation(tx: Tx) -> int:
        """Return a number that moves whenever :meth:`routes` may have changed."""
        row = tx.one(_GENERATION)
        return int(row[0]) if row else -1
