"""Plan runs that wait to begin or to go on: ending them from outside, while nobody works on them."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import bindparam, literal_column, select

from relay.store.query import Query
from relay.store.runs import RunRepository, RunRow, StepRow
from relay.store.tables import runs
from relay.store.writer import Tx

_PAGE: Final = 500
_QUEUED: Final = Query(
    select(runs.c.id)
    .where(
        runs.c.workspace_id == bindparam("w"),
        runs.c.id > bindparam("after"),
        runs.c.status == literal_column("'queued'"),
    )
    .order_by(runs.c.id)
    .limit(bindparam("most"))
)


def cancel_queued_runs(
    tx: Tx,
    workspace_id: str,
    *,
    principals: Collection[str] | None,
    actions: Collection[str] | None,
    limit: int,
    at: int,
) -> list[RunRow]:
    """Cancel up to ``limit`` queued runs of a workspace; None for principals or actions means any.

    A run is one of an action when a step that has not begun would run it. A run with a step that has begun is left to
    whoever works on it next: what became of that step is not for others to say. Returns the runs as they were; fewer
    than ``limit`` means that nothing that matches is left.
    """
    repository = RunRepository(workspace_id)
    cancelled: list[RunRow] = []
    after = ""
    while True:
        found = [row[0] for row in tx.all(_QUEUED, w=workspace_id, after=after, most=_PAGE)]
        for run_id in found:
            after = run_id
            run = repository.lock(tx, run_id)
            if run is None or run.status != "queued" or (principals is not None and run.principal_id not in principals):
                continue
            steps = repository.steps(tx, run_id)
            if _may_be_cancelled(steps, actions):
                _cancel(tx, repository, run, steps, at)
                cancelled.append(run)
            if len(cancelled) == limit:
                return cancelled
        if len(found) < _PAGE:
            return cancelled


def _may_be_cancelled(steps: list[StepRow], actions: Collection[str] | None) -> bool:
    if any(step.status not in ("queued", "succeeded") for step in steps):
        return False
    return actions is None or any(step.status == "queued" and step.action in actions for step in steps)


def _cancel(tx: Tx, repository: RunRepository, run: RunRow, steps: list[StepRow], at: int) -> None:
    waiting = [step for step in steps if step.status == "queued"]
    for step in waiting:
        repository.set_step(tx, step, "cancelled")
    repository.set_status(tx, run.id, "cancelled", finished_at=at, owner=None, until=None)
    changes = [("step", step.step_id, "cancelled") for step in waiting]
    repository.append_events(tx, run.id, at, [*changes, ("run", "", "cancelled")])
