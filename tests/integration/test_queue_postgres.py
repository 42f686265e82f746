"""The queue of several processes: messages in PostgreSQL that may be lost or doubled, and never in the way."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from relay.queue.postgres import ProcrastinateQueue
from relay.store import queue_schema, schema
from relay.store.target import Target, parse_target
from relay.store.writer import StoreUnavailable
from tests.integration.test_queue import Recorder, running, until
from tests.postgres import Postgres, own_postgres


def rows(target: Target, sql: str) -> list[Any]:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        found = connection.execute(sql.encode())
        return found.fetchall() if found.description else []


def messages(target: Target) -> list[tuple[str, str, Any]]:
    """Return what stands in the table: state, queue, arguments."""
    return rows(target, "SELECT status, queue_name, args FROM procrastinate_jobs ORDER BY id")


@asynccontextmanager
async def process(target: Target, *kinds: str, work: bool = True, room: int = 2) -> AsyncIterator[Any]:
    """Run a queue as one process would; give it and its handlers by kind."""
    queue, handlers = ProcrastinateQueue(target, room), {kind: Recorder() for kind in kinds}
    for kind, handler in handlers.items():
        queue.handle(kind, handler)
    async with running(queue, work=work):
        yield queue, handlers
        for handler in handlers.values():
            handler.gate.set()


async def test_what_one_process_has_no_place_for_goes_to_another(postgres_target: Target) -> None:
    async with process(postgres_target, "run") as (one, first), process(postgres_target, "run") as (_, second):
        first["run"].gate.clear()
        second["run"].gate.clear()
        for number in range(4):
            await one.put("run", str(number))
        await until(lambda: len(first["run"].active) == 2 and len(second["run"].active) == 2)
        assert sorted(first["run"].active + second["run"].active) == ["0", "1", "2", "3"]


async def test_a_process_is_woken_and_need_not_look(postgres_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.queue.postgres.POLL_SECONDS", 3600)
    async with (
        process(postgres_target, "run", "other", work=False) as (server, _),
        process(postgres_target, "run", "other") as (_, handlers),
    ):
        await server.put("run", "first")
        await until(lambda: handlers["run"].seen == ["first"])
        for number in range(5):
            await asyncio.sleep(0.2)
            await server.put("run", f"run{number}")
            await server.put("other", f"other{number}")
            await until(lambda: handlers["run"].seen[-1] == f"run{number}")  # noqa: B023 - called at once
            await until(lambda: handlers["other"].seen[-1:] == [f"other{number}"])  # noqa: B023 - called at once


async def test_a_process_that_does_not_work_leaves_everything_to_those_that_do(postgres_target: Target) -> None:
    async with process(postgres_target, "run", work=False) as (server, idle):
        for number in range(10):
            await server.put("run", str(number))
        await until(lambda: len(messages(postgres_target)) == 10)
        assert {(status, queue) for status, queue, _ in messages(postgres_target)} == {("todo", "relay-run")}
        assert messages(postgres_target)[0][2] == {"id": "0"}
        async with process(postgres_target, "run") as (_, handlers):
            await until(lambda: len(handlers["run"].seen) == 10)
            await server.put("run", "late")
            await until(lambda: "late" in handlers["run"].seen)
        assert idle["run"].seen == []


async def test_a_message_that_waits_is_not_added_twice_and_none_stays_behind(postgres_target: Target) -> None:
    async with (
        process(postgres_target, "run", "other", work=False) as (server, _),
        process(postgres_target, "run", "other", work=False) as (twin, _),
    ):
        for _ in range(5):
            await server.put("run", "x")
            await twin.put("run", "x")
            await server.put("other", "x")
            await asyncio.sleep(0.05)
        await until(lambda: len(messages(postgres_target)) == 2)
        async with process(postgres_target, "run", "other") as (_, handlers):
            await until(lambda: handlers["run"].seen == ["x"] and handlers["other"].seen == ["x"])
            await until(lambda: messages(postgres_target) == [])
    assert rows(postgres_target, "SELECT count(*) FROM procrastinate_events") == [(0,)]
    assert rows(postgres_target, "SELECT count(*) FROM procrastinate_workers") == [(0,)]


async def test_a_message_is_gone_while_the_work_goes_on_so_that_it_blocks_nobody(postgres_target: Target) -> None:
    async with (
        process(postgres_target, "run", work=False) as (server, _),
        process(postgres_target, "run") as (_, handlers),
    ):
        handlers["run"].gate.clear()
        await server.put("run", "x")
        await until(lambda: handlers["run"].active == ["x"] and messages(postgres_target) == [])
        async with process(postgres_target, "run") as (_, others):
            await server.put("run", "y")
            await server.put("run", "z")
            await until(lambda: len(handlers["run"].active) + len(others["run"].seen) == 3)


async def test_messages_that_died_with_their_process_are_dropped(
    postgres_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.queue.postgres.HEARTBEAT_SECONDS", 0.05)
    rows(
        postgres_target,
        """
        WITH dead AS (
            INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour') RETURNING id
        )
        INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, args, status, worker_id)
        SELECT 'relay-run', 'relay.run', 'run:x', '{"id": "x"}', 'doing', id FROM dead
        """,
    )
    async with process(postgres_target, "run") as (_, _), process(postgres_target, "run") as (_, _):
        await until(lambda: messages(postgres_target) == [])
        assert rows(postgres_target, "SELECT count(*) FROM procrastinate_workers") == [(2,)]


async def test_a_process_that_was_struck_off_the_list_registers_again(
    postgres_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        process(postgres_target, "run", work=False) as (server, _),
        process(postgres_target, "run") as (_, handlers),
    ):
        await server.put("run", "before")
        await until(lambda: handlers["run"].seen == ["before"])
        # In a thread: a worker of this loop may hold the row, and lets go of it only while the loop turns.
        await asyncio.to_thread(rows, postgres_target, "DELETE FROM procrastinate_workers")
        await server.put("run", "after")
        await until(lambda: handlers["run"].seen == ["before", "after"])


async def test_a_message_that_is_none_harms_nobody(postgres_target: Target) -> None:
    rows(
        postgres_target,
        """INSERT INTO procrastinate_jobs (queue_name, task_name, args)
        VALUES ('relay-run', 'x', '{}'), ('relay-run', 'x', '{"id": 7}'), ('elsewhere', 'x', '{"id": "y"}')""",
    )
    async with process(postgres_target, "run") as (_, handlers):
        await until(lambda: len(messages(postgres_target)) == 1)
        assert handlers["run"].seen == []
    assert messages(postgres_target)[0][1] == "elsewhere"


@pytest.fixture
def server() -> Iterator[Postgres]:
    with own_postgres() as made:
        yield made


async def test_it_goes_on_after_the_server_has_crashed_and_puts_fail_nobody_meanwhile(
    server: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = parse_target(server.url, tmp_path)
    schema.upgrade(target)
    async with process(target, "run", work=False) as (one, _), process(target, "run") as (_, handlers):
        await one.put("run", "before")
        await until(lambda: handlers["run"].seen == ["before"])
        await asyncio.to_thread(server.crash)
        began = time.monotonic()
        for number in range(100):
            await one.put("run", f"away{number}")
        assert time.monotonic() - began < 3, "a put waited for the database"
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(60):
            while "after" not in handlers["run"].seen:
                await one.put("run", "after")
                await asyncio.sleep(0.2)
        async with asyncio.timeout(60):
            # The listener is back as well: what is put now is found at once.
            while True:
                asked = time.monotonic()
                await one.put("run", f"quick{asked}")
                await until(lambda: handlers["run"].seen[-1] == f"quick{asked}")  # noqa: B023 - called at once
                if time.monotonic() - asked < 1:
                    break
    assert "waits for the database" in caplog.text


async def test_a_database_that_does_not_answer_refuses_the_start_and_no_password_is_said(
    server: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    password = secrets.token_hex(12)
    server.query(f"CREATE ROLE stranger LOGIN PASSWORD '{password}'")
    url = make_url(server.url).set(username="stranger", password=password)
    target = parse_target(url.render_as_string(hide_password=False), tmp_path)
    with caplog.at_level(logging.DEBUG):
        queue = ProcrastinateQueue(target, 1)
        queue.handle("run", Recorder())
        await queue.start()
        await queue.put("run", "x")  # there are no tables: every statement fails
        await asyncio.sleep(0.5)
        await queue.stop(1)
        assert "waits for the database" in caplog.text
        server.crash()
        other = ProcrastinateQueue(target, 1)
        with pytest.raises(StoreUnavailable) as refused:
            await other.start()
        server.start()
    assert password not in caplog.text + repr(refused.value) + repr(queue)


class TestTables:
    def test_the_newest_migration_is_the_installed_package_s(self) -> None:
        assert queue_schema.migrations()[-1].name == f"{queue_schema.QUEUE_HEAD}.sql"

    def test_they_are_made_once_by_however_many_processes(self, server: Postgres, tmp_path: Path) -> None:
        target = parse_target(server.url, tmp_path)
        assert queue_schema.queue_revision(target) is None
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda _: queue_schema.upgrade_queue(target), range(8)))
        assert done.count(True) == 1
        assert queue_schema.queue_revision(target) == queue_schema.QUEUE_HEAD
        assert schema.upgrade(target) and not schema.upgrade(target)

    def test_an_older_version_gets_what_came_after_it(self, server: Postgres, tmp_path: Path) -> None:
        target = parse_target(server.url, tmp_path)
        queue_schema.upgrade_queue(target)
        before = "03.04.00_01_pre_add_retry_failed_job_procedure"
        server.query("DROP TRIGGER procrastinate_trigger_status_events_update_v1 ON procrastinate_jobs")
        server.query("DROP FUNCTION procrastinate_trigger_function_status_events_update_v1")
        server.query(f"COMMENT ON TABLE procrastinate_jobs IS 'relay: procrastinate at {before}'")
        assert queue_schema.queue_revision(target) == before
        assert queue_schema.upgrade_queue(target)
        assert queue_schema.queue_revision(target) == queue_schema.QUEUE_HEAD
        names = server.query(
            "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'procrastinate_trigger_status_events_upd%'"
        )
        assert names == [("procrastinate_trigger_status_events_update_v1",)]

    def test_a_newer_version_is_left_alone_and_another_application_s_is_refused(
        self, server: Postgres, tmp_path: Path
    ) -> None:
        target = parse_target(server.url, tmp_path)
        queue_schema.upgrade_queue(target)
        server.query("COMMENT ON TABLE procrastinate_jobs IS 'relay: procrastinate at 99.00.00_01_post_new'")
        assert not queue_schema.upgrade_queue(target)
        server.query("COMMENT ON TABLE procrastinate_jobs IS NULL")
        with pytest.raises(StoreUnavailable, match="another application's"):
            queue_schema.upgrade_queue(target)
