"""Runs as the doors see them: start one, look at it, cancel it, watch it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay.audit.record import event
from relay.core.canonical import canonical_json
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Gone, IdempotencyMismatch, NotFound
from relay.core.streams import Places
from relay.crypto.digest import sha256_hex
from relay.gate.authenticate import Credentials
from relay.gate.perform import Performer
from relay.queue.protocol import RUN, Queue
from relay.runs.changes import Changes
from relay.runs.journal import LEASE_SECONDS, Journal, Recall
from relay.runs.plans import Plans, require_usable
from relay.runs.runner import SWEEP_SECONDS, Runner
from relay.runs.steps import ConsideredStep, Inputs, RunStep, StepDraft, arrange, as_json, consider, pack, plan_digest
from relay.runs.stream import Streams
from relay.runs.work import PURPOSE
from relay.store.attempts import AttemptRepository
from relay.store.database import Database
from relay.store.idempotency import IdempotencyRepository, Remembered
from relay.store.lines import Lines
from relay.store.plans import PlanRepository
from relay.store.runs import RunRepository, RunRow, StepRow
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.telemetry.spans import recorded_place

MAX_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants to run: a plan, or steps of their own. ``idempotency_key`` is as it was sent.

    ``client`` is the address that the order came from, empty when unknown.
    """

    request_id: str
    plan_id: str | None = None
    steps: Sequence[StepDraft] = ()
    idempotency_key: str | None = None
    client: str = ""


@dataclass(frozen=True, slots=True)
class RunState:
    """A run as it stands. ``results`` holds what its steps returned, by step id; empty where nobody asked for it.

    ``approvals`` holds the requests for approval that its steps have led to, by attempt id.
    """

    run: RunRow
    steps: Sequence[StepRow]
    results: dict[str, dict[str, Any]]
    approvals: dict[str, str]


@dataclass(frozen=True, slots=True)
class _New:
    """A run that is about to be written."""

    run: RunRow
    steps: Sequence[StepRow]
    inputs: bytes
    digest: str
    key: tuple[str, str] | None


class Runs:
    """The runs of every workspace; each method is scoped to the principal's. Times to keep are in microseconds.

    ``recall`` cancels attempts that wait for an approval or for their time, when their run is cancelled.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        gate: Performer,
        credentials: Credentials,
        plans: Plans,
        queue: Queue,
        *,
        retention: int,
        idempotency_ttl: int,
        lease_seconds: float = LEASE_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
        recall: Recall | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._gate = gate
        self._plans = plans
        self._queue = queue
        self._retention = retention
        self._idempotency_ttl = idempotency_ttl
        self._lines = Lines(database.reader)
        self._changes = Changes()
        self._closing = asyncio.Event()
        self._journal = Journal(database, self._changes, lease_seconds=lease_seconds, recall=recall)
        self._runner = Runner(database, vault, gate, credentials, queue, self._journal, sweep_seconds=sweep_seconds)

    async def start(self, *, sole_process: bool) -> None:
        """Begin to work, with what an earlier process left first.

        ``sole_process`` says that no other process works on this database, so that whatever lease there is belongs to
        one that is gone. To be called after the gate's sweep has started. A process that does not work, and only takes
        orders, does not call it.
        """
        await self._runner.start(sole_process=sole_process)

    async def stop(self) -> None:
        """Close the streams and begin no further step; the queue, which is stopped next, waits for those under way."""
        self.close_streams()
        await self._runner.stop()

    def close_streams(self) -> None:
        """End every event stream now; to be called when a shutdown begins, before the server waits for answers."""
        self._closing.set()
        self._changes.notify_all()

    def streams(self, credentials: Credentials, places: Places) -> Streams:
        """Return the event streams of these runs; each takes one of its principal's ``places``."""
        return Streams(self._database, credentials, self._changes, self._closing, places)

    async def execute(self, principal: Principal, order: Order) -> tuple[str, str]:
        """Accept a run and return its id and status.

        The same idempotency key with the same order answers with the run that it led to; with another one 409. 404,
        410 or 422 for a plan that is not there, spent or empty; 422 for steps that are not valid. Nothing has been
        executed when this returns.
        """
        drafted = () if order.plan_id is not None else arrange(order.steps)
        key = _key(order, drafted)
        if key is not None:
            keys = IdempotencyRepository(principal.workspace_id, await self._lines.owners(principal))
            found = await keys.look_up(self._database.reader, key[0], now())
            if found is not None:
                return await self._twin(principal, found, key)
        if order.plan_id is not None:
            steps = await self._plans.open(principal, order.plan_id)
        else:
            steps = drafted
        considered = await consider(self._gate, principal, steps, order.client, order.request_id)
        new = self._new(principal, order, considered, key)
        remembered = await self._write(principal, new)
        if remembered is not None:
            assert key is not None
            return await self._twin(principal, remembered, key)
        self._changes.notify(new.run.id)
        await self._queue.put(RUN, new.run.id)
        return new.run.id, new.run.status

    async def _twin(self, principal: Principal, found: Remembered, key: tuple[str, str]) -> tuple[str, str]:
        if found.fingerprint != key[1]:
            raise IdempotencyMismatch("This Idempotency-Key was used with another request; use a new one.")
        run = await RunRepository(principal.workspace_id).find(self._database.reader, found.subject_id)
        if run is None:
            raise Gone("What this Idempotency-Key led to is not kept any more.")
        return run.id, run.status

    @staticmethod
    def _new(
        principal: Principal, order: Order, considered: Sequence[ConsideredStep], key: tuple[str, str] | None
    ) -> _New:
        run = RunRow(
            id=new_id("run"),
            workspace_id=principal.workspace_id,
            principal_id=principal.id,
            plan_id=order.plan_id,
            request_id=order.request_id,
            status="queued",
            created_at=now(),
        )
        rows = [
            StepRow(
                run_id=run.id,
                workspace_id=run.workspace_id,
                position=place,
                step_id=found.step.id,
                action=found.step.action,
                summary=found.spec.summary,
                depends_on=canonical_json(list(found.step.depends_on)).decode(),
                status="queued",
            )
            for place, found in enumerate(considered)
        ]
        nonce, steps = new_id("nce"), tuple(found.step for found in considered)
        digest = plan_digest(principal.workspace_id, principal.id, nonce, steps)
        return _New(run, rows, pack(Inputs(nonce, steps, order.client, recorded_place())), digest, key)

    async def _write(self, principal: Principal, new: _New) -> Remembered | None:
        """Store the run and use up plan and key in one transaction; return what the key stands for already, if so."""
        run, at = new.run, new.run.created_at
        sealed = self._vault.seal(
            new.inputs,
            workspace=run.workspace_id,
            purpose=PURPOSE,
            record_id=run.id,
            expires_at=at + self._retention,
        )
        runs = RunRepository(run.workspace_id)
        plans = PlanRepository(run.workspace_id, principal.id)
        keys = IdempotencyRepository(run.workspace_id, await self._lines.owners(principal))
        draft = event(
            "runs:run:created",
            workspace_id=run.workspace_id,
            principal=run.principal_id,
            request_id=run.request_id,
            target=run.id,
            digest=new.digest,
        )

        def unit(tx: Tx) -> Remembered | None:
            if new.key is not None and (found := keys.find(tx, new.key[0], at)) is not None:
                return found
            if run.plan_id is not None:
                require_usable(plans.lock(tx, run.plan_id), at)
                plans.use(tx, run.plan_id, at)
            runs.insert(tx, run, new.steps)
            runs.append_events(tx, run.id, at, [("run", "", "queued")])
            self._vault.put(tx, sealed)
            if new.key is not None:
                keys.remember(
                    tx,
                    key_hash=new.key[0],
                    fingerprint=new.key[1],
                    subject_id=run.id,
                    at=at,
                    expires_at=at + self._idempotency_ttl,
                )
            tx.record(draft)
            return None

        return await self._database.writer.run(unit)

    async def show(self, principal: Principal, run_id: str) -> RunState:
        """Return a run of the principal's workspace with the results of its steps; 404 for any other."""
        run = await self.find(principal, run_id)
        steps = (await self._rows(principal).steps_of(self._database.reader, [run_id]))[run_id]
        results: dict[str, dict[str, Any]] = {}
        for step in steps:
            if step.status == "succeeded" and step.attempt_id is not None:
                state = await self._gate.attempts.state(principal.workspace_id, step.attempt_id)
                if state.result is not None:
                    results[step.step_id] = state.result
        return RunState(run, steps, results, await self._approvals(principal, steps))

    async def find(self, principal: Principal, run_id: str) -> RunRow:
        """Return a run of the principal's workspace, without its steps; 404 for any other."""
        run = await self._rows(principal).find(self._database.reader, run_id)
        if run is None:
            raise NotFound("There is no such run in this workspace.")
        return run

    async def page(self, principal: Principal, limit: int, before: str | None) -> tuple[list[RunState], str | None]:
        """Return up to ``limit`` runs of the principal's workspace, newest first, without results, and a cursor.

        ``before`` is the cursor of the page before this one.
        """
        rows = self._rows(principal)
        found = await rows.page(self._database.reader, min(limit, MAX_PAGE) + 1, before)
        runs = found[:limit]
        steps = await rows.steps_of(self._database.reader, [run.id for run in runs]) if runs else {}
        approvals = await self._approvals(principal, [step for run in runs for step in steps.get(run.id, [])])
        states = [RunState(run, steps.get(run.id, []), {}, approvals) for run in runs]
        return states, runs[-1].id if len(found) > limit else None

    async def _approvals(self, principal: Principal, steps: Sequence[StepRow]) -> dict[str, str]:
        made = [step.attempt_id for step in steps if step.attempt_id is not None]
        if not made:
            return {}
        attempts = await AttemptRepository(principal.workspace_id).several(self._database.reader, made)
        return {found.id: found.approval_id for found in attempts.values() if found.approval_id is not None}

    async def cancel(self, principal: Principal, run_id: str, request_id: str) -> RunRow:
        """Cancel a run and return it as it stands; see :meth:`relay.runs.journal.Journal.cancel`."""
        # A running one may have been set aside, with nobody working on it.
        if await self._journal.cancel(principal, run_id, request_id) in ("queued", "running"):
            await self._queue.put(RUN, run_id)
        return await self.find(principal, run_id)

    @staticmethod
    def _rows(principal: Principal) -> RunRepository:
        return RunRepository(principal.workspace_id)


def _key(order: Order, drafted: Sequence[RunStep]) -> tuple[str, str] | None:
    """Return the hash of the order's idempotency key and the fingerprint of what it asks for."""
    if order.idempotency_key is None:
        return None
    asked = {"plan": order.plan_id, "steps": [as_json(step) for step in drafted]}
    # The key is in the fingerprint too, so that short parameters cannot be guessed from it.
    form = {"key": order.idempotency_key, "run": asked}
    return sha256_hex(order.idempotency_key.encode()), sha256_hex(canonical_json(form))
