"""Rotation under load in processes of their own: killed at every step, gone on with, and no request fails."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.crypto.envelope import kek_id
from relay.house import open_house
from relay.settings import load_settings
from relay.settings.secret_text import decode_kek, generate_kek
from relay.store.target import Target
from tests.postgres import shared_keys
from tests.process import Client, GatewayProcess, gateway_process
from tests.rotation_kit import key_files, opened, states

STEPS = ("announced", "promoted", "settled", "rewrapping", "retired")


@asynccontextmanager
async def load(*clients: Client) -> AsyncIterator[list[str]]:
    """Preview and execute without end; the list holds what went wrong."""
    failed, ended, done = [], asyncio.Event(), [0]

    async def one(client: Client, number: int) -> None:
        while not ended.is_set():
            params = {"message": f"{number} {done[0]}"}
            try:
                made = await client.post("/actions/preview", {"action": "relay.echo", "params": params})
                answer = await client.post("/actions/execute", {"preview_id": made.body.get("preview_id", "")})
                if (answer.status, answer.body.get("result")) != (200, params):
                    failed.append(f"{made.status} {answer.status} {answer.body}")
            except Exception as error:  # whatever a caller would see counts
                failed.append(repr(error))
            done[0] += 1

    callers = [asyncio.create_task(one(client, number)) for number, client in enumerate(clients * 2)]
    while done[0] < 10 and not failed:
        await asyncio.sleep(0.02)
    try:
        yield failed
        seen = done[0]
        while done[0] < seen + 10 and not failed:
            await asyncio.sleep(0.02)
    finally:
        ended.set()
        await asyncio.gather(*callers)


async def rotate_until(process: GatewayProcess, step: str, env: dict[str, str]) -> bool:
    """Run `relay secrets rotate` and SIGKILL it the moment that it tells of a step; False when it ended before."""
    command = [sys.executable, "-m", "relay", "secrets", "rotate"]
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=process.home,
        env={**process.env, "RELAY_DATA_DIR": str(process.data), **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert running.stderr is not None
    said = b""
    async with asyncio.timeout(100):
        async for line in running.stderr:
            said += line
            if line.startswith(step.encode()):
                with contextlib.suppress(ProcessLookupError):
                    running.send_signal(signal.SIGKILL)
                break
        status = await running.wait()
    assert status in (0, -signal.SIGKILL), said
    return status != 0


async def rotated(process: GatewayProcess, env: dict[str, str]) -> dict[str, Any]:
    """Run the rotation to its end and return what it says of the key-encryption key."""
    kept = process.env
    process.env = {**kept, **env}
    try:
        ended = await process.command("secrets", "rotate", "--json")
    finally:
        process.env = kept
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (item,) = json.loads(ended.stdout)["items"]
    found: dict[str, Any] = item
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("steps", [STEPS[:3], STEPS[3:]])
async def test_an_embedded_installation_survives_a_kill_at_every_step(tmp_path: Path, steps: tuple[str, ...]) -> None:
    async with gateway_process(tmp_path) as process, process.client() as one, process.client() as two:
        used = set()
        async with load(one, two) as failed:
            for step in steps:
                assert await rotate_until(process, step, {}) or step == "retired"
                assert not failed, failed[:3]
                assert {"encryption_key", "secret_key"} <= {*key_files(process.data)}, "these are always there"
                item = await rotated(process, {})
                used.add(item["key"])
                assert (item["ok"], item["waiting"], item["envelopes"]["broken"]) == (True, "", 0)
                assert not failed, failed[:3]
        assert failed == [] and len(used) == len(steps)
        assert key_files(process.data) == ["encryption_key", "secret_key", "webhook_signing_secret"]
        await process.verified()
        assert await process.stop() == 0
        assert "Traceback" not in process.log
        current = kek_id(decode_kek((process.data / "keys" / "encryption_key").read_text().strip()))
        assert item["key"] == current
        async with open_house(
            load_settings({"RELAY_DATA_DIR": str(process.data), "RELAY_ENV": "test"}, tmp_path)
        ) as house:
            count, named = await opened(house)
            assert named == {current} == {*house.envelopes.ids} and count > 20
            assert list((await states(house, "encryption")).values()).count("current") == 1


async def test_a_server_that_dies_in_the_middle_comes_back_with_what_it_needs(tmp_path: Path) -> None:
    async with gateway_process(tmp_path) as process, process.client() as client:
        answered = await client.execute("relay.echo", {"message": "before"})
        assert answered.status == 200
        for step in ("announced", "promoted", "rewrapping"):
            await rotate_until(process, step, {})
            process.kill()
            await process.start()
            assert (await client.execute("relay.echo", {"message": step})).status == 200
        # The dead server's entry counts as living for up to a minute; it holds what it had said.
        item = await rotated(process, {})
        assert item["ok"] and item["waiting"] == ""
        await process.verified()


@pytest.mark.timeout(300)
async def test_two_replicas_roll_to_a_new_key_under_load(postgres_target: Target, tmp_path: Path) -> None:
    keys, new = shared_keys(), generate_kek()
    url = postgres_target.url.replace("postgresql+psycopg", "postgresql")
    old = {"DATABASE_URL": url, **keys}
    both = {**old, "OAUTH_ENCRYPTION_KEY": new, "OAUTH_ENCRYPTION_KEY_PREVIOUS": keys["OAUTH_ENCRYPTION_KEY"]}
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(gateway_process(tmp_path / name, env=old)) for name in ("one", "two")
        ]
        first = replicas[0].first_key
        clients = [await stack.enter_async_context(replica.client(first)) for replica in replicas]

        kept = replicas[1].env
        replicas[1].env = {**kept, **both}
        refused = await replicas[1].command("secrets", "rotate", "--wait", "0")
        assert refused.returncode == 1 and "do not hold the new secret" in refused.stdout, refused.stdout
        replicas[1].env = kept

        for replica, other in ((0, 1), (1, 0)):
            async with load(clients[other]) as failed:
                assert await replicas[replica].stop() == 0
                replicas[replica].env = {**replicas[replica].env, **both}
                await replicas[replica].start()
            assert failed == []
        async with load(*clients) as failed:
            for step in ("promoted", "rewrapping"):
                await rotate_until(replicas[0], step, both)
            item = await rotated(replicas[0], both)
            assert (item["ok"], item["waiting"]) == (True, "")
        assert failed == []
        await replicas[0].verified()
        only_new = {**old, "OAUTH_ENCRYPTION_KEY": new}
        assert await replicas[1].stop() == 0
        replicas[1].env = {**replicas[1].env, **only_new, "OAUTH_ENCRYPTION_KEY_PREVIOUS": ""}
        await replicas[1].start()
        assert (await clients[1].execute("relay.echo", {"message": "new key alone"})).status == 200
        data = {"RELAY_DATA_DIR": str(tmp_path / "look"), "RELAY_ENV": "test", **only_new}
        async with open_house(load_settings(data, tmp_path)) as house:
            assert (await opened(house))[1] == {kek_id(decode_kek(new))}
        replicas[1].env = {**replicas[1].env, **old}
        stale = await replicas[1].command("key", "list")
        assert stale.returncode == 1 and "OAUTH_ENCRYPTION_KEY: this is not the key" in stale.stderr


async def test_the_old_key_is_in_no_file_and_no_argument(tmp_path: Path) -> None:
    async with gateway_process(tmp_path) as process, process.client() as client:
        await client.execute("relay.echo", {"message": "x"})
        old = (process.data / "keys" / "encryption_key").read_text().strip()
        ended = await process.command("secrets", "rotate", "--all")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        new = (process.data / "keys" / "encryption_key").read_text().strip()
        with contextlib.closing(sqlite3.connect(process.data / "relay.db")) as database:
            dump = "\n".join(database.iterdump())
        for text in (ended.stdout, ended.stderr, process.log, process.out, dump):
            assert old not in text and new not in text
        for path in process.data.rglob("*"):
            if path.is_file() and path.name != "encryption_key":
                assert old.encode() not in path.read_bytes() and new.encode() not in path.read_bytes()
        assert os.stat(process.data / "keys" / "encryption_key").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("args", [("--kind", "nothing"), ("--all", "--kind", "pepper"), ("--wait", "-1")])
async def test_wrong_usage_is_told_apart(tmp_path: Path, args: tuple[str, ...]) -> None:
    async with gateway_process(tmp_path, start=False) as process:
        assert (await process.command("secrets", "rotate", *args)).returncode == 2
        assert (await process.command("secrets", "rotate")).returncode == 1, "there is no installation"
