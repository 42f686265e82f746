"""What is read of requests and their attempts: whole, in order, and without looking at the many others that wait."""

import re
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Select, insert
from sqlalchemy.dialects import postgresql, sqlite

from relay.store.approvals import WAITING_OF, ApprovalRepository, ended_requests
from relay.store.attempts import AttemptRepository, attempts_by_id
from relay.store.query import Query
from relay.store.tables.approvals import approvals
from relay.store.target import Target
from relay.store.writer import Tx
from tests.audit_kit import own
from tests.budgets_world import catalog, principal, row
from tests.keyring import Keyring, open_keyring

WAITING = 4000
KEYS = [f"key_{number:032x}" for number in range(40)]
ENDED = ["approved", "denied", "expired", "withdrawn", "cancelled"]


def name_of(number: int) -> str:
    return f"apr_{number:032x}"


async def put(ring: Keyring, statuses: list[str], workspace: str = "default", first: int = 0) -> None:
    """Store one request of each status, the oldest first."""
    rows = [
        {
            "id": name_of(first + number),
            "workspace_id": workspace,
            "attempt_id": f"att_{first + number:032x}",
            "action": "relay.echo",
            "digest": "0" * 64,
            "requester_id": KEYS[number % 40],
            "requester_made_by": "[]",
            "status": status,
            "approvers": 1,
            "other_person": 0,
            "policy_id": "default",
            "policy_version": 1,
            "reason": "Needs the approval of a person.",
            "seen_version": None,
            "created_at": number,
            "expires_at": number + 1,
            "decided_at": None if status == "pending" else number,
        }
        for number, status in enumerate(statuses)
    ]
    query = Query(insert(approvals))
    await ring.database.writer.run(lambda tx: [tx.run(query, **one) for one in rows])


async def paged(ring: Keyring, status: str | None, limit: int) -> list[str]:
    """Return the ids of all that has ended, page by page."""
    found: list[str] = []
    repository = ApprovalRepository("default")
    while page := await repository.ended(ring.database.reader, found[-1] if found else None, limit, status):
        assert len(page) <= limit
        found += [row.id for row in page]
    return found


async def test_what_has_ended_in_whatever_way_is_listed_newest_first(target: Target) -> None:
    statuses = ["pending", *ENDED, "pending", *ENDED[::-1], "denied", "denied", "denied", "pending"]
    async with open_keyring(target) as ring:
        await put(ring, statuses)
        await put(ring, ENDED, workspace="other", first=1000)
        ended = [(name_of(number), status) for number, status in enumerate(statuses) if status != "pending"][::-1]
        for limit in (1, 3, 100):
            assert await paged(ring, None, limit) == [found for found, _ in ended]
            for status in ENDED:
                assert await paged(ring, status, limit) == [found for found, how in ended if how == status]


def plan_of(target: Target, statement: Select[Any]) -> str:
    """Return how the database would go about a statement."""
    dialect = sqlite.dialect() if target.kind == "sqlite" else postgresql.dialect()
    text = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN " if target.kind == "sqlite" else "EXPLAIN "
    return "\n".join(str(line) for line in own(target, explain + text))


@pytest.mark.parametrize("status", [None, "denied"])
@pytest.mark.parametrize("before", [None, name_of(WAITING)])
async def test_an_index_passes_over_what_waits(target: Target, status: str | None, before: str | None) -> None:
    async with open_keyring(target) as ring:
        await put(ring, [*ENDED, *["pending"] * WAITING])
        own(target, "ANALYZE")
        plan = plan_of(target, ended_requests("default", before, 21, status))
        assert plan.count("approvals_ended") == (len(ENDED) if status is None else 1), plan
        assert "SCAN approvals" not in plan and "Seq Scan on approvals" not in plan, plan


@pytest.mark.parametrize("analyzed", [False, True])
async def test_what_waits_of_a_key_is_counted_without_looking_at_that_of_others(target: Target, analyzed: bool) -> None:
    async with open_keyring(target) as ring:
        await put(ring, ["pending"] * WAITING)
        if analyzed:
            own(target, "ANALYZE")
        plan = plan_of(target, WAITING_OF.params(w="default", account=KEYS[3], most=200))
        by_key = r"workspace_id=\? AND requester_id=\?" if target.kind == "sqlite" else r"Index Cond: .*requester_id = "
        assert "approvals_requester" in plan and re.search(by_key, plan), plan
        each = WAITING // len(KEYS)
        for most, found in ((each + 1, each), (each, each), (3, 3)):
            assert await ring.database.writer.run(partial(waits_for, most=most)) == found


def waits_for(tx: Tx, most: int) -> int:
    return ApprovalRepository("default").waits_for(tx, KEYS[3], most)


async def test_attempts_are_found_by_their_ids_and_none_of_another_workspace(target: Target) -> None:
    async with open_keyring(target) as ring:
        mine, theirs = principal("default"), principal("other")
        spec = next(iter(catalog()))

        def unit(tx: Tx) -> None:
            for who, attempt in ((mine, "att_1"), (mine, "att_2"), (theirs, "att_3")):
                AttemptRepository(who.workspace_id).insert(tx, **row(who, spec, attempt))

        await ring.database.writer.run(unit)
        found = await AttemptRepository("default").several(ring.database.reader, ["att_1", "att_3", "att_4"])
        assert {name: attempt.id for name, attempt in found.items()} == {"att_1": "att_1"}
        if target.kind == "sqlite":  # PostgreSQL knows how few attempts there are here, and reads them all
            plan = plan_of(target, attempts_by_id([f"att_{number}" for number in range(20)]))  # as many as a page has
            assert "attempts USING PRIMARY KEY (id=?)" in plan, plan
