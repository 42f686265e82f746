"""Each metric moves when what it counts has happened, by as much, and nothing else does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.samples import Sample
from sqlalchemy import Integer, literal_column, text, update

from relay.core.clock import DAY, MICROSECONDS, now
from relay.core.ids import new_id
from relay.core.principal import SCOPES
from relay.crypto.webhooks import new_secret_for
from relay.house import House, open_house
from relay.policy.engine import _Answer
from relay.store.chat import ChatRepository, SessionRow, TurnRow
from relay.store.measures import SHORT_LIFE, Measures
from relay.store.query import Query
from relay.store.tables import audit_events
from relay.store.target import Target
from relay.store.writer import StoreUnavailable, Tx
from relay.telemetry import exposition
from relay.telemetry.catalogue import BY_NAME, SECRETS, SECRETS_OF_WORKSPACES
from relay.webhooks.watch import WARN_DAYS
from tests.approvals_kit import Deeds, connector
from tests.gateway import Gateway, open_gateway
from tests.limits_kit import UNLIMITED
from tests.metrics_kit import by_key, changes, pick, scrape
from tests.process import eventually
from tests.receivers import open_receiver, status
from tests.redis_server import RedisServer
from tests.sending_kit import LOOPBACK, QUICK, endpoint, sending, settled
from tests.webhooks_kit import make_receiver

ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
KINDS = ("run", "attempt", "delivery")
OF_EACH_SCRAPE = {
    "relay_metrics_source_up",  # a database that was late once is read by the next
    "relay_http_requests_total",
    "relay_http_request_duration_seconds_count",
    "relay_http_request_duration_seconds_bucket",
    "relay_http_request_duration_seconds_sum",
    "relay_audit_commit_seconds_count",
    "relay_audit_commit_seconds_bucket",
    "relay_audit_commit_seconds_sum",
    "relay_audit_batch_size_count",
    "relay_audit_batch_size_bucket",
    "relay_audit_batch_size_sum",
    "relay_audit_events_total",
    "relay_audit_last_event_timestamp_seconds",
    "relay_audit_size",
    "relay_doctor_failing",
    "relay_audit_last_verified_timestamp_seconds",
    "relay_secret_age_seconds",
}
"""What moves with whatever is asked; the tests of these look at them by name."""

Moved = dict[str, dict[str, float]]


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape reads the database anew each time."""
    real = exposition.Source
    monkeypatch.setattr("relay.monitor.Source", lambda read, fresh=0.0: real(read, 0.0))


@pytest.fixture
async def local(sqlite_target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway on SQLite, where the database makes no difference."""
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        yield gateway


async def moved_by(gateway: Gateway, doing: Callable[[], Awaitable[object]]) -> Moved:
    """Return what moved while something was done, without what every request moves, and without buckets."""
    before = await scrape(gateway)
    await doing()
    found = changes(before, await scrape(gateway))
    return {
        name: moved
        for name, moved in found.items()
        if name not in OF_EACH_SCRAPE and not name.endswith(("_bucket", "_sum"))
    }


async def until(gateway: Gateway, name: str, least: float, **labels: str) -> list[Sample]:
    """Return a scrape in which a series has come that far; what follows a commit is counted a moment later."""

    async def look() -> Any:
        found = await scrape(gateway)
        return found if pick(found, name, **labels) >= least else None

    found: list[Sample] = await eventually(look, 30.0)
    return found


@asynccontextmanager
async def deeds(target: Target, tmp_path: Path, **settings: str) -> AsyncIterator[tuple[Gateway, Deeds]]:
    world = Deeds()
    async with open_gateway(target, tmp_path / "data", connectors=[(connector, world)], **settings) as gateway:
        yield gateway, world


async def test_requests_by_route_and_status_with_their_time(gateway: Gateway) -> None:
    before = await scrape(gateway)
    for _ in range(3):
        assert (await gateway.get("/actions", key=gateway.admin)).status == 200
    assert (await gateway.get("/keys/key_1/nothing", key=gateway.admin)).status == 404
    assert (await gateway.get("/attempts/att_1", key=gateway.admin)).status == 404
    assert (await gateway.call("PUT", "/actions", key=gateway.admin)).status == 405
    after = await scrape(gateway)
    moved = changes(before, after)
    assert moved["relay_http_requests_total"] == {
        "/actions 2xx": 3,
        "/attempts/{attempt_id} 4xx": 1,
        "(none) 4xx": 2,
        "/metrics 2xx": 1,
    }
    assert moved["relay_http_request_duration_seconds_count"] == {
        "/actions": 3,
        "/attempts/{attempt_id}": 1,
        "(none)": 2,
        "/metrics": 1,
    }
    assert 0 < moved["relay_http_request_duration_seconds_sum"]["/actions"] < 60
    assert pick(after, "relay_http_request_duration_seconds_bucket", route="/actions", le="+Inf") == 3


async def test_what_cannot_be_read_is_counted_and_not_timed(local: Gateway) -> None:
    before = await scrape(local)
    assert (await local.raw(b"NONSENSE\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    moved = changes(before, await scrape(local))
    assert moved["relay_http_requests_total"] == {"(none) 4xx": 1, "/metrics 2xx": 1}
    assert moved["relay_http_request_duration_seconds_count"] == {"/metrics": 1}


async def test_event_streams_are_counted_and_not_timed(local: Gateway) -> None:
    run = (await local.post("/ai/execute", {"steps": [ECHO]}, key=local.admin)).expect(202)["run_id"]
    before = await scrape(local)
    assert (await local.get(f"/ai/jobs/{run}/events", key=local.admin)).status == 200
    moved = changes(before, await scrape(local))
    assert moved["relay_http_requests_total"]["/ai/jobs/{run_id}/events 2xx"] == 1
    assert set(moved["relay_http_request_duration_seconds_count"]) == {"/metrics"}


async def test_why_a_credential_was_refused(gateway: Gateway) -> None:
    narrow = await gateway.key("audit:read")
    elsewhere = (await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin)).expect(201)
    networks = {"allowed_networks": ["203.0.113.0/24"]}
    path = f"/keys/{elsewhere['id']}/allowed-networks"
    (await gateway.call("PUT", path, json=networks, key=gateway.admin)).expect(200)

    async def be_refused() -> None:
        assert (await gateway.get("/actions")).status == 401
        assert (await gateway.get("/actions", key="relay_sk_test_wrong")).status == 401
        assert (await gateway.get("/audit", headers={"Authorization": "Basic x"})).status == 401
        assert (await gateway.get("/actions", key=narrow)).status == 403
        assert (await gateway.get("/audit", key=elsewhere["key"])).status == 403
        assert (await gateway.get("/metrics", key=narrow)).status == 401
        assert (await gateway.get("/metrics", headers={"Via": "1.1 proxy"})).status == 401

    assert await moved_by(gateway, be_refused) == {
        "auth_failures_total": {
            "/actions missing_token": 1,
            "/actions invalid_token": 1,
            "/audit invalid_token": 1,
            "/actions insufficient_scopes": 1,
            "/audit address_not_allowed": 1,
            "/metrics invalid_token": 1,
            "/metrics missing_token": 1,
        }
    }


async def test_a_missing_scope_of_an_action_counts_for_its_route(local: Gateway) -> None:
    key = await local.key("keys:manage")

    async def ask_for_more() -> None:
        assert (await local.post("/keys", {"scopes": ["audit:read"]}, key=key)).status == 403

    assert await moved_by(local, ask_for_more) == {"auth_failures_total": {"/keys insufficient_scopes": 1}}


async def test_each_request_that_a_limit_refuses(target: Target, tmp_path: Path) -> None:
    limits = {**UNLIMITED, "RATE_LIMIT_EXECUTE_PER_MINUTE": "2"}
    async with open_gateway(target, tmp_path / "data", **limits) as gateway:

        async def ask_often() -> None:
            for wanted in (200, 200, 429, 429):
                assert (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).status == wanted

        moved = await moved_by(gateway, ask_often)
        assert moved["rate_limit_hits_total"] == {"/actions/execute": 2}
        assert "auth_failures_total" not in moved


async def test_an_address_that_is_limited_everywhere_and_one_that_guesses(target: Target, tmp_path: Path) -> None:
    limits = {**UNLIMITED, "RATE_LIMIT_CREDENTIALS_PER_5_MINUTES": "2", "RATE_LIMIT_GLOBAL_PER_MINUTE": "6"}
    async with open_gateway(target, tmp_path / "data", **limits) as gateway:

        async def guess() -> None:
            statuses = [(await gateway.get("/actions", key=f"relay_sk_test_{n}")).status for n in range(5)]
            assert statuses == [401, 401, 429, 429, 429]
            assert [(await gateway.get("/version")).status for _ in range(3)] == [200, 429, 429]

        moved = await moved_by(gateway, guess)
        assert moved["rate_limit_hits_total"] == {"/actions": 3, "/version": 2}
        assert moved["auth_failures_total"] == {"/actions invalid_token": 5}


async def test_observed_limits_refuse_nobody_and_count_nothing(sqlite_target: Target, tmp_path: Path) -> None:
    limits = {**UNLIMITED, "RATE_LIMIT_GLOBAL_PER_MINUTE": "1", "RATE_LIMIT_MODE": "observe"}
    async with open_gateway(sqlite_target, tmp_path / "data", **limits) as gateway:

        async def ask_often() -> None:
            assert [(await gateway.get("/version")).status for _ in range(4)] == [200] * 4

        assert await moved_by(gateway, ask_often) == {}


async def test_decisions_and_attempts(target: Target, tmp_path: Path) -> None:
    async with deeds(target, tmp_path) as (gateway, _):
        agent = await gateway.key(*SCOPES)

        async def act() -> None:
            (await gateway.post("/actions/execute", ECHO, key=agent)).expect(200)
            (await gateway.post("/actions/preview", ECHO, key=agent)).expect(200)
            wipe = {"action": "deed.wipe", "params": {"what": "all"}}
            (await gateway.post("/actions/execute", wipe, key=agent)).expect(202)

        moved = await moved_by(gateway, act)
        assert moved == {
            "relay_decisions_total": {"allow false": 2, "require_approval false": 1},
            "relay_attempts_total": {"relay.echo succeeded": 1},
            "relay_attempt_duration_seconds_count": {"relay.echo": 1},
            "relay_approvals_waiting": {"": 1},
            "relay_approvals_oldest_seconds": moved["relay_approvals_oldest_seconds"],
        }
        assert moved["relay_approvals_oldest_seconds"][""] > 0


async def test_a_denial_is_a_decision_and_no_attempt(gateway: Gateway) -> None:
    policies = 'forbid (principal, action == Relay::Action::"relay.echo", resource);'
    person = await gateway.key(*SCOPES, kind="person")
    (await gateway.call("PUT", "/policies", json={"text": policies}, key=person)).expect(200)

    async def be_denied() -> None:
        assert (await gateway.post("/actions/execute", ECHO, key=person)).status == 403

    assert await moved_by(gateway, be_denied) == {"relay_decisions_total": {"deny false": 1}}


async def test_a_policy_that_fails_is_a_denial_by_error(local: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a defect")

    async def be_denied() -> None:
        assert (await local.post("/actions/execute", ECHO, key=local.admin)).status == 403

    failed = _Answer(False, True, ())
    for name, way in (("is_authorized_batch", broken), ("_Question._ask", lambda *_: failed)):
        with monkeypatch.context() as patch:
            patch.setattr(f"relay.policy.engine.{name}", way)
            assert await moved_by(local, be_denied) == {"relay_decisions_total": {"deny true": 1}}


async def test_attempts_that_end_while_they_wait(target: Target, tmp_path: Path) -> None:
    async with deeds(target, tmp_path) as (gateway, _):
        agent, person = await gateway.key(*SCOPES), await gateway.key(*SCOPES, kind="person")

        async def ask(what: str) -> Any:
            wipe = {"action": "deed.wipe", "params": {"what": what}}
            return (await gateway.post("/actions/execute", wipe, key=agent)).expect(202)

        denied, lapsed, stopped = [await ask(what) for what in ("one", "two", "three")]
        statement = text("UPDATE approvals SET expires_at = :past WHERE id = :which").bindparams(
            past=now() - DAY, which=lapsed["approval_id"]
        )
        await gateway.house.database.writer.run(lambda tx: tx.run(Query(statement)))

        async def end_them() -> None:
            path = f"/approvals/{denied['approval_id']}"
            digest = (await gateway.get(path, key=person)).expect(200)["digest"]
            (await gateway.post(f"{path}/deny", {"digest": digest}, key=person)).expect(200)
            await eventually(lambda: _ended(gateway, lapsed["attempt_id"], agent), 60.0)
            wish = {"on": True, "scope": {"action": "deed.wipe"}, "reason": "a test"}
            (await gateway.post("/kill-switch", wish, key=person)).expect(200)
            await eventually(lambda: _ended(gateway, stopped["attempt_id"], agent), 60.0)

        moved = await moved_by(gateway, end_them)
        assert moved["relay_attempts_total"] == {
            "deed.wipe denied": 1,
            "deed.wipe expired": 1,
            "deed.wipe cancelled": 1,
        }
        assert moved["relay_approvals_waiting"] == {"": -3}
        assert moved["relay_kill_switch_on"] == {"action": 1}
        assert "relay_attempt_duration_seconds_count" not in moved


async def _ended(gateway: Gateway, attempt: str, key: str) -> bool:
    state = (await gateway.get(f"/attempts/{attempt}", key=key)).expect(200)
    return state["status"] not in ("pending_approval", "running")


async def test_what_a_destination_refuses(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(target, tmp_path) as gateway:
        wanted = {"action": "webhook.save", "params": {"url": receiver.url, "payload": {}}}

        async def act() -> None:
            (await gateway.post("/actions/execute", wanted, key=gateway.admin)).expect(200)
            receiver.reply = status(500)
            assert (await gateway.post("/actions/execute", wanted, key=gateway.admin)).status == 502

        moved = await moved_by(gateway, act)
        assert moved["relay_attempts_total"] == {"webhook.save succeeded": 1, "webhook.save failed": 1}
        assert moved["relay_attempt_duration_seconds_count"] == {"webhook.save": 2}
        assert moved["relay_http_destination_errors_total"] == {"/actions/execute": 1}


async def test_runs_by_state_and_end(gateway: Gateway) -> None:
    before = await scrape(gateway)
    (await gateway.post("/ai/execute", {"steps": [ECHO, ECHO]}, key=gateway.admin)).expect(202)
    await until(gateway, "relay_runs_ended_total", 1, outcome="succeeded")
    moved = changes(before, await scrape(gateway))
    assert moved["relay_runs_ended_total"] == {"succeeded": 1}
    assert moved["relay_attempts_total"] == {"relay.echo succeeded": 2}
    assert "relay_runs" not in moved


async def test_a_run_that_waits_for_a_person(target: Target, tmp_path: Path) -> None:
    async with deeds(target, tmp_path) as (gateway, _):
        agent = await gateway.key(*SCOPES)
        wanted = {"steps": [{"action": "deed.wipe", "params": {"what": "all"}}]}
        run = (await gateway.post("/ai/execute", wanted, key=agent)).expect(202)["run_id"]
        found = await until(gateway, "relay_runs", 1, state="pending_approval")
        assert pick(found, "relay_approvals_waiting") == 1
        assert pick(found, "relay_queue_depth", kind="run") == 0
        (await gateway.post(f"/ai/jobs/{run}/cancel", key=agent)).expect(200)
        found = await until(gateway, "relay_runs_ended_total", 1, outcome="cancelled")
        assert pick(found, "relay_runs", state="pending_approval") == pick(found, "relay_approvals_waiting") == 0


async def test_work_that_nobody_does(target: Target, tmp_path: Path) -> None:
    """A run, an attempt and a delivery, all due for 90 s, after their only server has stopped."""
    hourly = replace(QUICK, retries=(3600 * MICROSECONDS,))
    async with open_receiver(status(500)) as receiver:
        world = Deeds()
        async with open_gateway(
            target, tmp_path / "data", connectors=[(connector, world)], schedule=hourly, **LOOPBACK
        ) as gateway:
            settings = gateway.house.settings
            agent = await gateway.key(*SCOPES)
            await endpoint(gateway, receiver.url, "action.succeeded")
            (await gateway.post("/actions/execute", ECHO, key=agent)).expect(200)
            wanted = {"steps": [{"action": "deed.wipe", "params": {"what": "all"}}]}
            (await gateway.post("/ai/execute", wanted, key=agent)).expect(202)
            found = await until(gateway, "relay_runs", 1, state="pending_approval")
            await until(gateway, "relay_webhook_deliveries_total", 1, outcome="failed")
            for kind in KINDS:
                assert pick(found, "relay_queue_depth", kind=kind) == 0
    async with open_house(settings) as house:
        due = now() - 90 * MICROSECONDS
        for change in (
            "UPDATE runs SET status = 'queued'",
            f"UPDATE run_events SET occurred_at = {due}",
            f"UPDATE attempts SET status = 'ready', not_before = {due} WHERE status = 'pending_approval'",
            f"UPDATE webhook_deliveries SET due_at = {due}",
        ):
            await _change(house, change)
        shown = await Measures(house.database.reader).read()
        assert shown["relay_queue_depth"] == {(kind,): 1.0 for kind in KINDS}
        assert all(90 <= age < 300 for age in shown["relay_queue_oldest_seconds"].values())
        await _change(house, f"UPDATE webhook_endpoints SET paused_until = {now() + DAY}")
        await _change(house, f"UPDATE attempts SET not_before = {now() + DAY}")
        await _change(house, f"UPDATE runs SET status = 'running', lease_until = {now() + DAY}")
        shown = await Measures(house.database.reader).read()
        assert shown["relay_queue_depth"] == {(kind,): 0.0 for kind in KINDS}
        await _change(house, f"UPDATE runs SET lease_until = {due}")
        shown = await Measures(house.database.reader).read()
        assert shown["relay_queue_depth"] == {("run",): 1.0, ("attempt",): 0.0, ("delivery",): 0.0}


async def test_chats_and_turns_that_nobody_works_on(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        settings = gateway.house.settings
    async with open_house(settings) as house:
        measures, soon, ended = Measures(house.database.reader), now() + DAY, now() - 90 * MICROSECONDS
        for status, lease in (("running", soon), ("awaiting_approval", None), ("done", None), ("failed", ended)):
            await _begin_turn(house, status, lease)
        shown = await measures.read()
        assert shown["relay_chat_sessions"] == {(): 4.0}
        assert shown["relay_chat_turns_open"] == {("running",): 1.0, ("awaiting_approval",): 1.0}
        assert shown["relay_chat_abandoned_seconds"] == {(): 0.0}
        await _begin_turn(house, "running", ended)
        shown = await measures.read()
        assert shown["relay_chat_turns_open"] == {("running",): 2.0, ("awaiting_approval",): 1.0}
        assert 90 <= shown["relay_chat_abandoned_seconds"][()] < 300
        await _begin_turn(house, "running", None)
        shown = await measures.read()
        assert 600 <= shown["relay_chat_abandoned_seconds"][()] < 900


async def _begin_turn(house: House, status: str, lease_until: int | None) -> None:
    """Store a session with a turn that began ten minutes ago."""
    turn, began, until = new_id("trn"), now() - 600 * MICROSECONDS, now() + DAY
    chat = ChatRepository("default")

    def unit(tx: Tx) -> None:
        chat.insert_session(tx, SessionRow(turn, "default", "key_x", "key_x", began, began, until))
        row = TurnRow(turn, turn, "default", "model", status, "req_x", None, lease_until, 0, began, until)
        chat.insert_turn(tx, row)

    await house.database.writer.run(unit)


async def _change(house: House, statement: str) -> None:
    query = Query(text(statement))
    await house.database.writer.run(lambda tx: tx.run(query))


async def test_deliveries_and_how_endpoints_fare(target: Target, tmp_path: Path) -> None:
    schedule = replace(QUICK, retries=QUICK.retries[:1])
    replies = iter([500])
    async with (
        open_receiver(lambda _: (next(replies, 200), {}, b"")) as receiver,
        sending(target, tmp_path, schedule) as gateway,
    ):
        await endpoint(gateway, receiver.url, "action.succeeded")
        before = await scrape(gateway)
        assert pick(before, "relay_webhook_endpoints", state="enabled") == 1
        (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
        await settled(gateway, 1, "succeeded")
        moved = changes(before, await until(gateway, "relay_webhook_deliveries_total", 1, outcome="delivered"))
        assert moved["relay_webhook_deliveries_total"] == {"failed": 1, "delivered": 1}
        assert moved["relay_webhook_delivery_duration_seconds_count"] == {"": 2}
        assert "relay_webhook_endpoints" not in moved

        receiver.reply = status(500)
        (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
        await settled(gateway, 1, "dead")
        found = await until(gateway, "relay_webhook_deliveries_total", 1, outcome="dead")
        assert pick(found, "relay_webhook_deliveries_total", outcome="failed") == 2
        assert pick(found, "relay_webhook_endpoints", state="failing") == 1
        assert pick(found, "relay_webhook_endpoints", state="enabled") == 0


async def test_webhooks_received_copied_and_refused(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)

    async def deliver() -> None:
        (await receiver.deliver(id="msg_a")).expect(200)
        (await receiver.deliver(id="msg_a")).expect(200)
        (await receiver.deliver(id="msg_b")).expect(200)
        assert (await receiver.deliver(secret=new_secret_for("standard"))).status == 401
        assert (await receiver.deliver(late=3600)).status == 401
        assert (await gateway.post("/webhooks/in/nobody", {})).status == 401

    moved = await moved_by(gateway, deliver)
    assert moved == {
        "relay_webhooks_received_total": {"false": 2, "true": 1},
        "relay_webhook_signature_refusals_total": {"": 3},
    }


async def test_plans_by_planner(local: Gateway) -> None:
    async def plan() -> None:
        (await local.post("/ai/plan", {"prompt": "Echo hello"}, key=local.admin)).expect(200)

    moved = await moved_by(local, plan)
    assert moved["relay_plan_duration_seconds_count"] == {"local": 1}


async def test_the_log_its_commits_and_its_batches(gateway: Gateway) -> None:
    before = await scrape(gateway)
    for _ in range(4):
        (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
    after = await scrape(gateway)
    moved = changes(before, after)
    assert moved["relay_audit_size"] == moved["relay_audit_events_total"] == {"": 4}
    assert moved["relay_audit_commit_seconds_count"][""] >= 4
    assert moved["relay_audit_batch_size_sum"][""] >= 4
    assert abs(pick(after, "relay_audit_last_event_timestamp_seconds") - now() / MICROSECONDS) < 60
    assert "relay_audit_write_errors_total" not in moved


async def test_what_cannot_be_committed_is_an_error_and_no_event(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = gateway.house.database.writer

    real = writer.run_units

    def refuses(tx: Tx, batch: Any) -> None:
        """Run them, and then the disk is full."""
        real(tx, batch)
        raise StoreUnavailable("full")

    async def act() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(writer, "run_units", refuses)
            assert (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).status == 503

    before = await scrape(gateway)
    await act()
    moved = changes(before, await scrape(gateway))
    assert moved["relay_audit_write_errors_total"][""] >= 1
    assert "relay_attempts_total" not in moved
    assert "relay_audit_events_total" not in moved


async def test_a_refusal_inside_a_transaction_is_no_error(gateway: Gateway) -> None:
    class No(Exception):
        pass

    def refuses(tx: Tx) -> None:
        raise No

    async def ask() -> None:
        with pytest.raises(No):
            await gateway.house.database.writer.run(refuses)

    assert await moved_by(gateway, ask) == {}


async def test_verification_and_a_log_that_does_not_hold(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        await gateway.house.verifier.stop()
        await gateway.house.verifier.start(first=0.0, every=0.05)
        found = await until(gateway, "relay_audit_last_verified_timestamp_seconds", 1)
        assert abs(pick(found, "relay_audit_last_verified_timestamp_seconds") - now() / MICROSECONDS) < 60
        assert pick(found, "relay_audit_verification_failed") == 0
        forged = Query(update(audit_events).values(tag="relay:server:stopped"))
        await gateway.house.database.writer.run(lambda tx: tx.run(forged))
        gateway.house.verifier._whole_at = 0
        gateway.house.verifier._verified = None
        found = await until(gateway, "relay_audit_verification_failed", 1)
        found = await until(gateway, "security_violations_total", 1, type="audit_log_broken")
        verified = pick(found, "relay_audit_last_verified_timestamp_seconds")
        await asyncio.sleep(0.2)
        found = await scrape(gateway)
        assert pick(found, "relay_audit_last_verified_timestamp_seconds") == verified
        assert pick(found, "security_violations_total", type="audit_log_broken", severity="critical") == 1


async def test_a_revoked_key_in_use_is_a_violation(gateway: Gateway) -> None:
    made = (await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin)).expect(201)
    assert (await gateway.call("DELETE", f"/keys/{made['id']}", key=gateway.admin)).status < 300
    before = await scrape(gateway)
    for _ in range(3):
        assert (await gateway.get("/audit", key=made["key"])).status == 401
    after = await until(gateway, "security_violations_total", 1, type="revoked_key_used")
    moved = changes(before, after)
    assert moved["security_violations_total"] == {"warning revoked_key_used": 1}
    assert moved["auth_failures_total"] == {"/audit invalid_token": 3}


async def test_an_answer_past_the_gate_is_a_violation(local: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.surface.stamp.ADMISSION", "somewhere else")

    async def leak() -> None:
        assert (await local.get("/version")).status == 500

    before = await local.server.exposition.answer("")
    await leak()
    monkeypatch.undo()
    after = await local.server.exposition.answer("")
    line = b'security_violations_total{severity="critical",type="lock_broken"} '
    assert line + b"0.0" in before[0] and line + b"1.0" in after[0]


async def test_keys_by_kind_and_the_next_end(gateway: Gateway) -> None:
    async def make() -> None:
        body = {"kind": "agent", "scopes": ["audit:read"], "expires_days": 15}
        made = (await gateway.post("/keys", body, key=gateway.admin)).expect(201)
        dead = (await gateway.post("/keys", {**body, "expires_days": 1}, key=gateway.admin)).expect(201)
        assert (await gateway.call("DELETE", f"/keys/{dead['id']}", key=gateway.admin)).status < 300
        assert made["id"] != dead["id"]

    moved = await moved_by(gateway, make)
    assert moved["relay_keys"] == {"agent": 1}
    ends = pick(await scrape(gateway), "relay_key_soonest_end_timestamp_seconds")
    assert abs(ends - (now() + 15 * DAY) / MICROSECONDS) < 120


async def test_a_key_that_was_made_to_end_soon_is_no_next_end(gateway: Gateway) -> None:
    for days in (14, 15, 5):
        body = {"kind": "person", "scopes": ["audit:read"], "expires_days": days}
        (await gateway.post("/keys", body, key=gateway.admin)).expect(201)
    figures = await Measures(gateway.house.database.reader).keys()
    ends = figures["relay_key_soonest_end_timestamp_seconds"][()]
    assert abs(ends - (now() + 15 * DAY) / MICROSECONDS) < 120
    assert figures["relay_keys"]["person",] >= 3  # they live all the same
    assert max(WARN_DAYS) * DAY == SHORT_LIFE


async def test_the_keys_that_end_first_are_those_that_are_read(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days in (40, 30, 20, 60, 50):
        body = {"kind": "person", "scopes": ["audit:read"], "expires_days": days}
        (await gateway.post("/keys", body, key=gateway.admin)).expect(201)
    monkeypatch.setattr("relay.store.measures._LIMIT", literal_column("1", Integer))
    figures = await Measures(gateway.house.database.reader).keys()
    ends = figures["relay_key_soonest_end_timestamp_seconds"][()]
    assert abs(ends - (now() + 20 * DAY) / MICROSECONDS) < 120


async def test_secrets_and_when_they_should_be_rotated(gateway: Gateway) -> None:
    wanted = {"url": "https://hooks.example.com/", "events": ["run.*"]}
    (await gateway.post("/webhooks/endpoints", wanted, key=gateway.admin)).expect(201)
    await make_receiver(gateway)
    found = await scrape(gateway)
    ages = {s.labels["secret"]: s.value for s in found if s.name == "relay_secret_age_seconds"}
    periods = {s.labels["secret"]: s.value for s in found if s.name == "relay_secret_period_seconds"}
    assert (
        {"SECRET_KEY", "OAUTH_ENCRYPTION_KEY", "pepper"}
        <= set(ages)
        <= set(periods)
        == {*SECRETS, *SECRETS_OF_WORKSPACES}
    )
    assert all(0 <= age < 300 for age in ages.values())
    assert set(periods.values()) == {90 * 86_400.0}


async def test_the_limiter_on_its_fallback(sqlite_target: Target, tmp_path: Path, redis_server: RedisServer) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", REDIS_URL=redis_server.url) as gateway:
        found = await scrape(gateway)
        assert pick(found, "relay_limiter_shared") == 1 and pick(found, "relay_limiter_fallback") == 0
        redis_server.kill()
        await until(gateway, "relay_limiter_fallback", 1)
        redis_server.start()

        async def back() -> bool:
            return pick(await scrape(gateway), "relay_limiter_fallback") == 0

        await eventually(back, 30.0)


async def test_a_redis_that_never_answered_is_a_fallback(
    sqlite_target: Target, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.kill()
    async with open_gateway(sqlite_target, tmp_path / "data", REDIS_URL=redis_server.url) as gateway:
        assert pick(await scrape(gateway), "relay_limiter_fallback") == 1


async def test_the_modes_of_the_process(sqlite_target: Target, tmp_path: Path) -> None:
    settings = {"RELAY_ENV": "local", "DEV_AUTH_MODE": "true", "CHAT_PILOT_MODE": "true"}
    async with open_gateway(sqlite_target, tmp_path / "data", **settings) as gateway:
        found = await scrape(gateway)
        assert [pick(found, "relay_environment", env=env) for env in ("production", "local", "test")] == [0, 1, 0]
        assert pick(found, "relay_development_mode", mode="dev_auth") == 1
        assert pick(found, "relay_development_mode", mode="unsigned_webhooks") == 0
        assert pick(found, "relay_development_mode", mode="chat_pilot") == 1
        assert pick(found, "relay_limiter_shared") == pick(found, "relay_limiter_fallback") == 0
        assert pick(found, "relay_build_info") == 1


async def test_an_action_that_is_installed_no_more(sqlite_target: Target, tmp_path: Path) -> None:
    async with deeds(sqlite_target, tmp_path) as (gateway, _):
        agent, admin = await gateway.key(*SCOPES), gateway.admin
        wipe = {"action": "deed.wipe", "params": {"what": "all"}}
        path = f"/approvals/{(await gateway.post('/actions/execute', wipe, key=agent)).expect(202)['approval_id']}"
    async with open_gateway(sqlite_target, tmp_path / "data", admin=admin) as gateway:
        await _change(gateway.house, "UPDATE approvals SET expires_at = 1")
        found = await until(gateway, "relay_attempts_total", 1, action="(other)", outcome="expired")
        assert not [s for s in found if s.labels.get("action") == "deed.wipe"]
        assert (await gateway.get(path, key=admin)).status in (200, 404)


async def test_counters_never_go_back_and_two_gateways_do_not_mix(
    sqlite_target: Target, postgres_target: Target, tmp_path: Path
) -> None:
    async with (
        open_gateway(sqlite_target, tmp_path / "one") as one,
        open_gateway(postgres_target, tmp_path / "two") as two,
    ):
        before_one, before_two = await scrape(one), await scrape(two)
        for _ in range(3):
            (await one.post("/actions/execute", ECHO, key=one.admin)).expect(200)
        after_one, after_two = await scrape(one), await scrape(two)
        assert changes(before_one, after_one)["relay_attempts_total"] == {"relay.echo succeeded": 3}
        assert "relay_attempts_total" not in changes(before_two, after_two)
        for before, after in ((before_one, after_one), (before_two, after_two)):
            later = by_key(after)
            for (name, labels), number in by_key(before).items():
                base = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
                if BY_NAME[base].kind in ("counter", "histogram"):
                    assert later[name, labels] >= number, name
