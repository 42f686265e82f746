"""``context.counters`` over both databases: what is counted, what a bound comes to, and what cannot be counted."""

from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.dialects import postgresql, sqlite

from relay.core.clock import DAY, HOUR, MINUTE, now
from relay.core.ids import first_id
from relay.store.attempt_counts import MOST_COUNTED, AttemptCounts, Counts, counting
from relay.store.query import Query
from relay.store.tables import attempts
from relay.store.target import Target
from tests.approvals_kit import Office, open_office
from tests.audit_kit import own
from tests.integration.test_hold_back import SEND, due
from tests.integration.test_state_bound import world
from tests.keyring import Keyring, open_keyring
from tests.policy_kit import probed
from tests.policy_world import ALL, policy_world

KEY = "key_01940000000000000000000000000000"
NOON = 20_000 * DAY + 12 * HOUR
BEGUN_OR_WAITING = ("pending_approval", "ready", "running", "succeeded", "failed", "unknown")
NEVER_BEGUN = ("denied", "expired", "cancelled")
ECHO = {"action": "relay.echo", "params": {"message": "hello"}}


def bound(most: int, rest: str = "", *, counter: str = "actions_today") -> str:
    return f'@id("few") permit (principal, action, resource) when {{ context.counters.{counter} < {most}{rest} }};'


def row(number: int, at: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"{first_id('att', at)}{number:020x}",
        "workspace_id": "default",
        "principal_id": KEY,
        "action": "email.send",
        "version": 1,
        "effect": "write",
        "nonce": "n",
        "digest": "d",
        "status": "succeeded",
        "policy_id": "p",
        "policy_version": 1,
        "approval_id": None,
        "preview_id": None,
        "run_id": None,
        "step_id": None,
        "request_id": "r",
        "fence": 1,
        "lease_until": None,
        "not_before": None,
        "tries": 1,
        "created_at": at,
        "finished_at": None,
        "duration_ms": None,
        "error_code": None,
        "error_detail": None,
        "error_status": None,
        **changed,
    }


async def put(ring: Keyring, rows: list[dict[str, Any]]) -> None:
    query = Query(insert(attempts))
    await ring.database.writer.run(lambda tx: tx.many(query, rows))


async def counted(ring: Keyring, **about: Any) -> Counts:
    given = {"at": NOON, **about}
    return await AttemptCounts(ring.database.reader).counted("default", KEY, "email.send", **given)


async def test_what_is_counted(target: Target) -> None:
    async with open_keyring(target) as ring:
        assert await counted(ring) == Counts(0, 0, 0)
        midnight = NOON - 12 * HOUR
        await put(
            ring,
            [
                *(row(number, NOON - MINUTE, status=status) for number, status in enumerate(BEGUN_OR_WAITING)),
                *(row(number, NOON - 2 * MINUTE, status=status) for number, status in enumerate(NEVER_BEGUN)),
                row(20, NOON - MINUTE, workspace_id="other"),
                row(21, NOON - MINUTE, principal_id="key_other"),
                row(22, NOON - MINUTE, action="relay.echo"),
                row(23, NOON - HOUR, action="relay.echo"),
                row(24, NOON - HOUR - 1000),
                row(25, midnight),
                row(26, midnight - 1000),
            ],
        )
        assert await counted(ring) == Counts(actions_today=10, actions_last_hour=8, same_action_today=8)
        # Just after midnight the hour reaches into the day before.
        assert await counted(ring, at=midnight + MINUTE, asked_at=midnight + MINUTE) == Counts(1, 2, 1)
        assert await counted(ring, at=NOON + DAY) == Counts(0, 0, 0)


async def test_what_has_waited_is_not_in_its_own_count_nor_is_what_came_later(target: Target) -> None:
    async with open_keyring(target) as ring:
        await put(ring, [row(number, NOON + number * 1000) for number in range(10)])
        assert (await counted(ring, at=NOON + MINUTE)).actions_today == 10
        for number in range(10):
            at = NOON + number * 1000
            assert await counted(ring, at=at + 3 * DAY, asked_at=at + 999) == Counts(number, number, number)


async def test_the_count_ends_somewhere(target: Target) -> None:
    async with open_keyring(target) as ring:
        await put(ring, [row(number, NOON - MINUTE) for number in range(MOST_COUNTED - 1)])
        assert (await counted(ring)).actions_today == MOST_COUNTED - 1
        await put(ring, [row(MOST_COUNTED + number, NOON - MINUTE) for number in range(5)])
        assert await counted(ring) == Counts(MOST_COUNTED, MOST_COUNTED, MOST_COUNTED)


async def test_an_index_serves_it(target: Target) -> None:
    async with open_keyring(target) as ring:
        keys = [f"key_{number:032x}" for number in range(200)]
        rows = [row(number, NOON, principal_id=keys[number % 200]) for number in range(4000)]
        await put(ring, rows)
        own(target, "ANALYZE")
        statement = counting("default", keys[3], "email.send", at=NOON, asked_at=NOON + HOUR)
        dialect = sqlite.dialect() if target.kind == "sqlite" else postgresql.dialect()
        text = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN " if target.kind == "sqlite" else "EXPLAIN "
        plan = "\n".join(str(line) for line in own(target, explain + text))
        assert plan.count("attempts_principal") == 6, plan  # its own and those of its child tokens
        assert "SCAN attempts" not in plan and "Seq Scan on attempts" not in plan, plan


async def test_a_bound_is_a_bound_also_after_approvals(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data") as office:
        await office.policy(bound(3, " && context.approved"))
        requests = [await office.requested(str(number)) for number in range(3)]
        (await office.ask("one more")).expect(403)
        # The last one first: neither what came before it nor what came after it is another's to lose.
        for request in reversed(requests):
            (await office.decide(request)).expect(200)
            assert (await office.ended(request["attempt_id"]))["status"] == "succeeded"
        assert sorted(office.deeds.done) == ["0", "1", "2"]
        (await office.ask("one more")).expect(403)
        # Another key has its own count.
        helper, _ = await office.key("actions:execute", maker=office.owner, kind="agent")
        await office.requested("another's", key=helper)


async def test_what_was_refused_makes_room(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data") as office:
        await office.policy(bound(1, " && context.approved", counter="same_action_today"))
        request = await office.requested("first")
        (await office.ask("second")).expect(403)
        (await office.decide(request, "deny")).expect(200)
        second = await office.requested("second")
        (await office.decide(second)).expect(200)
        assert (await office.ended(second["attempt_id"]))["status"] == "succeeded"
        assert office.deeds.done == ["second"]


async def test_what_was_allowed_and_held_back_is_not_refused_for_what_came_after(
    target: Target, tmp_path: Path
) -> None:
    async with open_office(target, tmp_path / "data", HOLD_BACK_SECONDS="3600") as office:
        await office.policy(bound(2))
        held = [(await office.ask(str(number), action=SEND)).expect(202)["attempt_id"] for number in range(2)]
        (await office.ask("2", action=SEND)).expect(403)
        for attempt_id in held:
            await due(office, attempt_id)
            assert (await office.ended(attempt_id))["status"] == "succeeded"
        assert office.deeds.done == ["0", "1"]


async def explained(office: Office, **body: Any) -> str:
    found = (await office.gateway.post("/policies/explain", {**ECHO, **body}, key=office.owner)).expect(200)
    return str(found["decision"])


async def test_they_are_counted_for_previews_and_explained_as_they_are(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data") as office:
        await office.policy(bound(1))
        key, agent = await office.key("actions:preview", "actions:execute", kind="agent")
        assert await explained(office, principal=agent) == "allow"
        (await office.gateway.post("/actions/preview", ECHO, key=key)).expect(200)
        (await office.gateway.post("/actions/execute", ECHO, key=key)).expect(200)
        assert await explained(office, principal=agent) == "deny"
        assert await explained(office) == "allow"
        assert await explained(office, principal=agent, context={"at": "2020-01-02T03:04:05Z"}) == "allow"
        shown = (await office.gateway.post("/actions/preview", ECHO, key=key)).expect(200)
        assert shown["decision"] == "deny"
        assert (await office.gateway.get("/actions", key=key)).expect(200)["actions"]


async def test_the_read_of_a_version_is_not_held_against_the_step_that_it_is_for(
    target: Target, tmp_path: Path
) -> None:
    async with world(target, tmp_path) as (office, document):
        heads = 'permit (principal, action == Relay::Action::"http.request", resource)'
        heads = f'@id("heads") {heads} when {{ context.params.method == "HEAD" }};'
        await office.policy(heads + bound(1, " && context.approved"))
        wish = document.put("DELETE")
        found = (await office.gateway.post("/actions/execute", wish, key=office.agent)).expect(202)
        (await office.decide(await office.request(found["approval_id"]))).expect(200)
        assert (await office.ended(found["attempt_id"]))["status"] == "succeeded"
        assert document.methods == ["HEAD", "HEAD", "DELETE"]


async def test_what_cannot_be_counted_is_a_503(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data") as office:
        own(target, "ALTER TABLE attempts RENAME TO elsewhere")
        (await office.gateway.post("/actions/preview", ECHO, key=office.agent)).expect(200)
        await office.policy(bound(5))
        (await office.gateway.post("/actions/preview", ECHO, key=office.agent)).expect(503)
        own(target, "ALTER TABLE elsewhere RENAME TO attempts")
        (await office.gateway.post("/actions/preview", ECHO, key=office.agent)).expect(200)


async def test_a_replay_judges_nothing_that_was_decided_without_counters(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data") as office:
        (await office.gateway.post("/actions/execute", ECHO, key=office.agent)).expect(200)
        await office.policy(bound(3))
        for _ in range(2):
            (await office.gateway.post("/actions/execute", ECHO, key=office.agent)).expect(200)
        body = {"text": bound(2), "days": 1}
        found = (await office.gateway.post("/policies/replay", body, key=office.owner)).expect(200)
        assert (found["replayed"], found["not_judged"], found["unreadable"], found["flips"]) == (2, 1, 0, 1)
        assert (found["items"][0]["from"]["decision"], found["items"][0]["to"]["decision"]) == ("allow", "deny")
        found = (await office.gateway.post("/policies/replay", {**body, "text": ALL}, key=office.owner)).expect(200)
        assert (found["replayed"], found["not_judged"], found["flips"]) == (3, 0, 0)


async def test_nobody_else_pays_for_them(target: Target) -> None:
    async with policy_world(target) as world:
        ada = await world.person()
        counts = "FROM attempts"
        await world.put(
            ada,
            f'{ALL} @id("mail") forbid (principal, action == Relay::Action::"email.send", resource)'
            " when { context.counters.actions_today > 50 };",
        )
        world.ring.statements.clear()
        await world.decide(ada, probed("probe.write"))
        assert not [found for found in world.ring.statements if counts in found]
        await world.put(ada, bound(5))
        await world.decide(ada, probed("probe.write"), at=now())
        assert len([found for found in world.ring.statements if counts in found]) == 1
