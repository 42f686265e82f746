"""Attempts: one row per action that was allowed to start, moved by compare-and-set under a fencing number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, insert, literal_column, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import attempts, generations
from relay.store.writer import StoreUnavailable, Tx

# In the statement's text: only then does SQLite see that the index over running attempts serves it.
_RUNNING: ColumnElement[str] = literal_column("'running'")
_READY: ColumnElement[str] = literal_column("'ready'")
_INSERT = Query(insert(attempts))
_FINISH = Query(
    update(attempts)
    .where(
        attempts.c.id == bindparam("attempt"),
        attempts.c.workspace_id == bindparam("w"),
        attempts.c.status == "running",
        attempts.c.fence == bindparam("held"),
    )
    .values(
        status=bindparam("to"),
        fence=attempts.c.fence + bindparam("step"),
        lease_until=None,
        finished_at=bindparam("at"),
        duration_ms=bindparam("took"),
        error_code=bindparam("code"),
        error_detail=bindparam("detail"),
        error_status=bindparam("http"),
    )
)
# On PostgreSQL two processes would each count without the other's; the row is a lock, its value never changes.
_LOCK_PLACES = Query(select(generations.c.value).where(generations.c.name == "attempts").with_for_update())
_UNDER_WAY = Query(
    select(func.count()).where(
        attempts.c.workspace_id == bindparam("w"), attempts.c.action == bindparam("name"), attempts.c.status == _RUNNING
    )
)
_BEGIN = Query(
    update(attempts)
    .where(
        attempts.c.id == bindparam("attempt"),
        attempts.c.workspace_id == bindparam("w"),
        attempts.c.status == "ready",
        attempts.c.fence == bindparam("held"),
        attempts.c.not_before <= bindparam("at"),
    )
    .values(
        status="running",
        fence=attempts.c.fence + 1,
        tries=attempts.c.tries + 1,
        not_before=None,
        lease_until=bindparam("until"),
        policy_id=bindparam("policy"),
        policy_version=bindparam("version_of_policy"),
    )
)
_TO_READY = Query(
    update(attempts)
    .where(
        attempts.c.id == bindparam("attempt"),
        attempts.c.workspace_id == bindparam("w"),
        attempts.c.status == bindparam("was"),
        attempts.c.fence == bindparam("held"),
    )
    .values(
        status="ready",
        fence=attempts.c.fence + 1,
        not_before=bindparam("moment"),
        lease_until=None,
        error_code=bindparam("code"),
        error_detail=bindparam("detail"),
        error_status=bindparam("http"),
    )
)
_END_WAITING = Query(
    update(attempts)
    .where(
        attempts.c.id == bindparam("attempt"),
        attempts.c.workspace_id == bindparam("w"),
        attempts.c.status.in_((literal_column("'pending_approval'"), literal_column("'ready'"))),
    )
    .values(
        status=bindparam("to"),
        fence=attempts.c.fence + 1,
        not_before=None,
        finished_at=bindparam("at"),
        error_code=bindparam("code"),
        error_detail=bindparam("detail"),
        error_status=bindparam("http"),
    )
)
_OF_RUN_STEP = Query(
    select(attempts.c.id).where(
        attempts.c.workspace_id == bindparam("w"),
        attempts.c.run_id == bindparam("run"),
        attempts.c.step_id == bindparam("step"),
    )
)


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt as it is stored; times in microseconds."""

    id: str
    workspace_id: str
    principal_id: str
    action: str
    version: int
    effect: str
    digest: str
    status: str
    nonce: str
    approval_id: str | None
    run_id: str | None
    step_id: str | None
    request_id: str
    fence: int
    lease_until: int | None
    not_before: int | None
    tries: int
    created_at: int
    finished_at: int | None
    duration_ms: int | None
    error_code: str | None
    error_detail: str | None
    error_status: int | None


_COLUMNS = [attempts.c[name] for name in AttemptRow.__dataclass_fields__]
_ROW = Query(
    select(*_COLUMNS)
    .where(attempts.c.id == bindparam("attempt"), attempts.c.workspace_id == bindparam("w"))
    .with_for_update()
)


class AttemptRepository:
    """The attempts of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def insert(self, tx: Tx, **values: Any) -> None:
        """Insert an attempt; ``workspace_id`` is this repository's."""
        tx.run(_INSERT, workspace_id=self._workspace, **values)

    def finish(
        self,
        tx: Tx,
        attempt_id: str,
        *,
        fence: int,
        status: str,
        at: int,
        duration_ms: int | None,
        error: tuple[str, str, int] | None = None,
        take_over: bool = False,
    ) -> bool:
        """Move a running attempt to its end if it still carries ``fence``; return whether it did.

        ``take_over`` raises the fence, so that whoever held the old one finds out.
        """
        code, detail, http = error or (None, None, None)
        moved = tx.run(
            _FINISH,
            attempt=attempt_id,
            w=self._workspace,
            held=fence,
            to=status,
            step=int(take_over),
            at=at,
            took=duration_ms,
            code=code,
            detail=detail,
            http=http,
        )
        return moved == 1

    def begin(
        self, tx: Tx, attempt_id: str, *, fence: int, at: int, lease_until: int, policy_id: str, policy_version: int
    ) -> bool:
        """Move a ready attempt whose time has come to running, if it still carries ``fence``, which this raises by one.

        Return whether it did; the decision under which it runs is noted.
        """
        moved = tx.run(
            _BEGIN,
            attempt=attempt_id,
            w=self._workspace,
            held=fence,
            at=at,
            until=lease_until,
            policy=policy_id,
            version_of_policy=policy_version,
        )
        return moved == 1

    def make_ready(
        self,
        tx: Tx,
        attempt_id: str,
        *,
        was: str,
        fence: int,
        not_before: int,
        error: tuple[str, str, int] | None = None,
    ) -> bool:
        """Have an attempt begin (again) at a time, if it is as it ``was`` under ``fence``, which this raises by one.

        ``error`` says what became of the last try.
        """
        code, detail, http = error or (None, None, None)
        moved = tx.run(
            _TO_READY,
            attempt=attempt_id,
            w=self._workspace,
            was=was,
            held=fence,
            moment=not_before,
            code=code,
            detail=detail,
            http=http,
        )
        return moved == 1

    def end_waiting(self, tx: Tx, attempt_id: str, *, status: str, at: int, error: tuple[str, str, int] | None) -> bool:
        """End an attempt that waits (for an approval, or for its time) without running it; return whether it did."""
        code, detail, http = error or (None, None, None)
        moved = tx.run(
            _END_WAITING, attempt=attempt_id, w=self._workspace, to=status, at=at, code=code, detail=detail, http=http
        )
        return moved == 1

    def row(self, tx: Tx, attempt_id: str) -> AttemptRow | None:
        """Return an attempt of this workspace as the transaction sees it, kept from others until it ends."""
        found = tx.one(_ROW, attempt=attempt_id, w=self._workspace)
        return AttemptRow(*found) if found else None

    def of_run_step(self, tx: Tx, run_id: str, step_id: str) -> str | None:
        """Return the id of the attempt that a run's step made, or None."""
        row = tx.one(_OF_RUN_STEP, w=self._workspace, run=run_id, step=step_id)
        return row[0] if row else None

    def has_place(self, tx: Tx, action: str, places: int) -> bool:
        """Say whether fewer attempts of an action are under way than there are places.

        Exact over all processes: until the transaction ends no other one can take a place.
        """
        if tx.one(_LOCK_PLACES) is None:
            raise StoreUnavailable("the row that guards the places of attempts is gone")
        row = tx.one(_UNDER_WAY, w=self._workspace, name=action)
        return row is not None and row[0] < places

    async def get(self, reader: Reader, attempt_id: str) -> AttemptRow | None:
        """Return an attempt of this workspace, or None."""
        row = await reader.one(
            select(*_COLUMNS).where(attempts.c.id == attempt_id, attempts.c.workspace_id == self._workspace)
        )
        return AttemptRow(*row) if row else None

    async def several(self, reader: Reader, attempt_ids: Sequence[str]) -> dict[str, AttemptRow]:
        """Return attempts of this workspace by their ids."""
        found = [AttemptRow(*row) for row in await reader.all(attempts_by_id(attempt_ids))]
        return {row.id: row for row in found if row.workspace_id == self._workspace}


def attempts_by_id(attempt_ids: Sequence[str]) -> Select[Any]:
    """Return the statement that finds attempts of whatever workspace; who runs it keeps to its own.

    Asked for the workspace as well, SQLite goes through every attempt that the workspace has ever made instead.
    """
    return select(*_COLUMNS).where(attempts.c.id.in_(attempt_ids))


async def lapsed_attempts(reader: Reader, before: int, limit: int) -> list[AttemptRow]:
    """Return running attempts of every workspace whose lease ended before ``before``; for the sweep alone."""
    rows = await reader.all(
        select(*_COLUMNS)
        .where(attempts.c.status == _RUNNING, attempts.c.lease_until < before)
        .order_by(attempts.c.lease_until)
        .limit(limit)
    )
    return [AttemptRow(*row) for row in rows]


async def due_attempts(reader: Reader, at: int, limit: int) -> list[str]:
    """Return attempts of every workspace that are ready and whose time has come, the longest due first."""
    rows = await reader.all(
        select(attempts.c.id)
        .where(attempts.c.status == _READY, attempts.c.not_before <= at)
        .order_by(attempts.c.not_before)
        .limit(limit)
    )
    return [str(row[0]) for row in rows]


async def attempt_of_any_workspace(reader: Reader, attempt_id: str) -> AttemptRow | None:
    """Return an attempt wherever it belongs; for whoever works on what is ready."""
    row = await reader.one(select(*_COLUMNS).where(attempts.c.id == attempt_id))
    return AttemptRow(*row) if row else None
