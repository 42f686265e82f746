"""What must hold when everything has ended: the sinks counted against the log, and the tables against one another."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos_load import Approver, Order, Wanted, posted, will_approve
from tests.inbox import Inbox
from tests.outside import HttpServer
from tests.postgres import Postgres

ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "unknown"})
MAY_HAVE_HAPPENED: Final = frozenset({"succeeded", "unknown"})
_TERMINAL_TAGS: Final = ("gate:action:outcome", "gate:attempt:swept")


@dataclass
class World:
    """What the sinks have seen: how often each marker came, and what came with it."""

    seen: Counter[str] = field(default_factory=Counter)
    carried: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, inbox: Inbox, *sinks: HttpServer) -> "World":
        """Return what has arrived so far."""
        world = cls()
        for sink in sinks:
            for request in sink.requests:
                payload = posted(request)
                world._add(payload["marker"], payload["before"])
        for mail in inbox.mails:
            world._add(mail.header("Subject"), mail.data.partition(b"\r\n\r\n")[2].decode().strip())
        return world

    def _add(self, marker: str, before: str) -> None:
        self.seen[marker] += 1
        self.carried[marker] = before


@dataclass(frozen=True)
class Step:
    """A step as the database has it, with its attempt's and its request's status, None where it has none."""

    run_id: str
    id: str
    status: str
    error: str | None
    attempt_id: str | None
    attempt: str | None
    approval_id: str | None
    approval: str | None


def steps_of(database: Postgres) -> dict[str, dict[str, Step]]:
    """Return every run's steps by their ids."""
    found: dict[str, dict[str, Step]] = defaultdict(dict)
    rows = database.query(
        "SELECT s.run_id, s.step_id, s.status, s.error_code, a.id, a.status, p.id, p.status FROM run_steps s "
        "LEFT JOIN attempts a ON a.run_id = s.run_id AND a.step_id = s.step_id "
        "LEFT JOIN approvals p ON p.attempt_id = a.id"
    )
    for row in rows:
        found[row[0]][row[1]] = Step(*row)
    return found


def check_runs(orders: Iterable[Order], runs: dict[str, str], steps: dict[str, dict[str, Step]]) -> None:
    """Every acknowledged order is one run, in a definite state that its steps bear out, and there are no others."""
    assert sorted(runs) == sorted(run_id for order in orders for run_id in order.run_ids)
    for order in orders:
        assert len(order.run_ids) == 1, f"{order.marker} was acknowledged as {order.run_ids}"
        (run_id,) = order.run_ids
        status, found = runs[run_id], list(steps[run_id].values())
        statuses = {step.status for step in found}
        said = f"{order.marker}, {run_id}: {status}, {found}"
        assert status in ENDED and statuses <= ENDED, said
        assert (status == "succeeded") == (statuses == {"succeeded"}), said
        assert (status == "unknown") == ("unknown" in statuses), said
        assert (status == "failed") == ("failed" in statuses and "unknown" not in statuses), said
        assert status != "cancelled" or order.to_cancel, said
        for step in found:
            wanted = order.steps.get(step.id)
            approved = wanted is None or not wanted.guarded or step.approval == "approved"
            assert step.attempt in _attempts_of(step.status), said
            assert step.status not in MAY_HAVE_HAPPENED or approved, said
            assert step.error not in ("internal", "bad_reference", "invalid", "denied"), said


def _attempts_of(status: str) -> tuple[str | None, ...]:
    return {
        "succeeded": ("succeeded",),
        "unknown": ("unknown",),
        "failed": ("failed", "denied"),
        "cancelled": (None, "cancelled"),
    }[status]


def check_effects(orders: Iterable[Order], steps: dict[str, dict[str, Step]], world: World) -> None:
    """What the log says has happened did so exactly once, what it says has not did not, and nothing came twice."""
    known: set[str] = set()
    for order in orders:
        (run_id,) = order.run_ids
        for wanted in order.steps.values():
            known.add(wanted.marker)
            step, count = steps[run_id][wanted.id], world.seen[wanted.marker]
            said = f"{wanted.marker} came {count} times: {step}"
            assert count <= 1, said
            if step.status == "succeeded":
                assert count == 1, said
            elif step.status != "unknown":
                assert count == 0, said
            assert count == 0 or world.carried[wanted.marker] == wanted.before, said
    assert set(world.seen) <= known, set(world.seen) - known


def check_approvals(
    seed: int, orders: Iterable[Order], steps: dict[str, dict[str, Step]], approvers: Iterable[Approver]
) -> Counter[str]:
    """Every request was decided as both approvers wanted it, or ended with its run; return how they ended."""
    ended: Counter[str] = Counter()
    status: dict[str, str] = {}
    for order in orders:
        (run_id,) = order.run_ids
        for wanted in order.steps.values():
            step = steps[run_id][wanted.id]
            if step.approval_id is not None and step.approval is not None:
                _check_approval(seed, order, wanted, step)
                status[step.approval_id] = step.approval
                ended[step.approval] += 1
    for approver in approvers:
        for approval_id, how in approver.decided.items():
            assert status[approval_id] == {"approve": "approved", "deny": "denied"}[how], approval_id
    return ended


def _check_approval(seed: int, order: Order, wanted: Wanted, step: Step) -> None:
    said = f"{order.marker}: {step}"
    assert wanted.guarded, said
    if step.approval == "approved":
        assert will_approve(seed, wanted.marker), said
        # Nothing else keeps an approved step from its effect here but the order's own cancellation.
        assert step.attempt in MAY_HAVE_HAPPENED or (step.attempt == "cancelled" and order.to_cancel), said
    elif step.approval == "denied":
        assert not will_approve(seed, wanted.marker) and step.attempt == "denied", said
    else:
        assert (step.approval, step.attempt) == ("cancelled", "cancelled") and order.to_cancel, said


def check_audit(database: Postgres, runs: dict[str, str]) -> Counter[str]:
    """Every begun attempt and every run has its one end in the log, the same as in its row; count them."""
    rows = database.query("SELECT target, tag, outcome FROM audit_events")
    by_target: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for target, tag, outcome in rows:
        by_target[target].append((tag, outcome))
    counts: Counter[str] = Counter()
    for attempt_id, status, action, approval in database.query(
        "SELECT a.id, a.status, a.action, p.id FROM attempts a LEFT JOIN approvals p ON p.attempt_id = a.id"
    ):
        events = by_target[attempt_id]
        ends = [outcome for tag, outcome in events if tag in _TERMINAL_TAGS]
        intents = sum(tag == "gate:action:intent" for tag, _ in events)
        late = sum(tag == "gate:action:late_outcome" for tag, _ in events)
        said = f"{attempt_id}: {status}, {action}, {approval}: {events}"
        begun = status in ("succeeded", "failed", "unknown")
        assert ends == ([status] if begun else []), said
        assert intents == int(begun and action != "relay.echo"), said
        assert late <= int(status == "unknown"), said
        counts["late outcomes"] += late
        counts[f"attempts {status}"] += 1
    for run_id, status in runs.items():
        events = by_target[run_id]
        assert [outcome for tag, outcome in events if tag == "runs:run:finished"] == [status], f"{run_id}: {events}"
        assert sum(tag == "runs:run:created" for tag, _ in events) == 1, f"{run_id}: {events}"
    return counts


def check_budgets(database: Postgres, budgets: list[dict[str, Any]]) -> None:
    """Each budget has counted what has happened or may have, and nothing else."""
    happened = "status IN ('succeeded', 'unknown')"
    (all_of_them,) = database.query(f"SELECT count(*) FROM attempts WHERE {happened}")[0]
    (mails,) = database.query(f"SELECT count(*) FROM attempts WHERE {happened} AND action = 'email.send'")[0]
    for budget in budgets:
        expected = {"actions": all_of_them, "new_recipients": mails}[budget["measure"]]
        used = database.query(f"SELECT coalesce(sum(used), 0) FROM budget_days WHERE budget_id = '{budget['id']}'")
        assert int(used[0][0]) == expected, f"{budget}: {used}, {expected} attempts"
    assert database.query("SELECT count(DISTINCT recipient) FROM recipients") == [(mails,)]


def check_nothing_is_left(database: Postgres) -> None:
    """Nothing waits, and nobody holds anything."""
    for what in (
        "attempts WHERE status NOT IN ('succeeded', 'failed', 'unknown', 'denied', 'expired', 'cancelled')",
        "approvals WHERE status = 'pending'",
        "runs WHERE finished_at IS NULL OR lease_owner IS NOT NULL",
        "run_steps WHERE status NOT IN ('succeeded', 'failed', 'unknown', 'cancelled')",
    ):
        assert database.query(f"SELECT count(*) FROM {what}") == [(0,)], what
