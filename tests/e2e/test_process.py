"""The process itself: its first start, its stop, and what it refuses."""

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.outside import HttpServer, answer, http_server, read_request
from tests.process import DidNotStart, GatewayProcess, bare_environment, gateway_process

KEY_FILES = {"secret_key": "SECRET_KEY", "encryption_key": "OAUTH_ENCRYPTION_KEY"}


class Slow:
    """A server's script that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        self.asked.set()
        await self.go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        await writer.drain()


async def test_sigterm_finishes_what_is_under_way_and_records_it(tmp_path: Path) -> None:
    slow = Slow()
    async with http_server(slow) as sink:
        env = {"EGRESS_ALLOW": f"127.0.0.1:{sink.port}"}
        async with gateway_process(tmp_path, env=env) as gateway, gateway.client() as client:
            params = {"url": f"{sink.url}/hook", "payload": 1}
            asking = asyncio.create_task(client.execute("webhook.save", params))
            await slow.asked.wait()
            gateway.signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            with pytest.raises(aiohttp.ClientError):  # nobody new is let in
                await client.get("/version")
            assert not asking.done()
            slow.go.set()
            answered = await asking
            assert answered.status == 200, answered.body
            assert await gateway.ended() == 0

            await gateway.start()
            kept = await client.get(f"/attempts/{answered.body['attempt_id']}")
            assert (kept.body["status"], kept.body["result"]["body"]) == ("succeeded", "late")
            tags = [event["tag"] for event in (await client.get("/audit?action=webhook.save")).body["items"]]
            assert tags == ["gate:action:outcome", "gate:action:intent"]
            await gateway.verified()
    assert len(sink.requests) == 1


async def test_open_streams_do_not_delay_the_stop(tmp_path: Path) -> None:
    slow = Slow()
    async with http_server(slow) as sink:
        env = {"EGRESS_ALLOW": f"127.0.0.1:{sink.port}"}
        async with gateway_process(tmp_path, env=env) as gateway, gateway.client() as client:
            steps = [{"action": "webhook.save", "params": {"url": f"{sink.url}/hook", "payload": 1}}]
            run_id = (await client.post("/ai/execute", {"steps": steps})).body["run_id"]
            await slow.asked.wait()
            headers = {"Authorization": f"Bearer {gateway.first_key}"}
            async with (
                aiohttp.ClientSession(gateway.url, headers=headers) as session,
                session.get(f"/ai/jobs/{run_id}/events") as stream,
            ):
                assert stream.status == 200
                slow.go.set()
                await client.run_ended(run_id)
                slow.go.clear()
                slow.asked.clear()
                run_id = (await client.post("/ai/execute", {"steps": steps})).body["run_id"]
                await slow.asked.wait()
                async with session.get(f"/ai/jobs/{run_id}/events") as waiting:
                    await waiting.content.readuntil(b"event: step")
                    began = time.monotonic()
                    gateway.signal(signal.SIGTERM)
                    rest = await asyncio.wait_for(waiting.content.read(), 5)
                    assert b'"reason":"shutdown"' in rest
                    slow.go.set()
                    assert await gateway.ended() == 0
                    assert time.monotonic() - began < 8


async def test_a_second_start_prints_no_key_and_keeps_everything(tmp_path: Path) -> None:
    async with gateway_process(tmp_path) as gateway, gateway.client() as client:
        assert gateway.first_key is not None and gateway.out.count("relay_sk_") == 1
        done = await client.execute("relay.echo", {"message": "kept"})
        assert await gateway.stop() == 0
        await gateway.start()
        assert "relay_sk_" not in gateway.out + gateway.log
        kept = await client.get(f"/attempts/{done.body['attempt_id']}")
        assert kept.body["result"] == {"message": "kept"}
        listed = await gateway.command("key", "list", "--json")
        assert listed.stdout.count('"id"') == 1


async def test_the_lines_that_a_first_start_prints_work_as_pasted(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "relay"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m relay "$@"\n')
    command.chmod(0o755)
    async with gateway_process(tmp_path, env={"PATH": f"{bin_folder}:/usr/bin:/bin"}) as gateway:
        lines = [line[4:] for line in gateway.out.splitlines() if line.startswith("    ") and "relay_sk_" not in line]
        (approving,) = [place for place, line in enumerate(lines) if "/approve" in line]
        functions = [line for line in lines if "() {" in line]

        async def paste(pasted: list[str]) -> str:
            command = ["/bin/sh", "-e", "-c", "\n".join(pasted)]
            ended = await asyncio.to_thread(
                subprocess.run, command, cwd=tmp_path, env=gateway.env, capture_output=True, text=True, timeout=60
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
            return ended.stdout

        waits = await paste(lines[:approving])
        assert '"decision":"require_approval"' in waits and '"run_id":"run_' in waits
        assert '"status":"pending"' in waits and "Hello from Relay" in waits.splitlines()[-1]
        assert delivered(gateway) == []
        for file in ("agent.key", "person.key"):
            assert (tmp_path / file).stat().st_mode & 0o777 == 0o600
        ends = await paste([*functions, *lines[approving:]])
        assert '"approval_status":"approved"' in ends and ends.count('"status":"succeeded"') == 2
        assert "approvals:request:approved" in ends and "gate:action:outcome" in ends
        (message,) = delivered(gateway)
        assert "Hello from Relay" in message.read_text()


def delivered(gateway: GatewayProcess) -> list[Path]:
    return list((gateway.data / "mail" / "new").glob("*"))


async def test_demo_walks_the_whole_path_and_leaves_nothing(tmp_path: Path) -> None:
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "relay", "demo"],
        cwd=tmp_path,
        env=bare_environment(tmp_path, TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = ended.stdout
    for step in ("1. ", "2. ", "3. ", "4. ", "5. ", "6. ", "7. ", "verified: ok=True"):
        assert step in said
    refused, approved = said.index("the agent approves: 403"), said.index("approvals:request:approved")
    assert said.index("require_approval") < said.index("pending_approval") < refused < approved
    assert "Message-ID: " in said[:refused] and said.index("To: you@example.com  Subject: First mail") > refused
    assert re.findall(r"s\d  (\w+)  attempt", said) == ["succeeded", "pending_approval", "succeeded", "succeeded"]
    assert re.findall(r"gate:action:outcome +(\S+) +(\w+)", said) == [
        ("relay.echo", "succeeded"),
        ("email.send", "succeeded"),
    ]
    assert not re.search(r"relay_sk_\w{20}", ended.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", KEY_FILES)
@pytest.mark.parametrize("harm", ["another", "gone", "readable"])
async def test_a_database_does_not_open_with_keys_that_are_not_its_own(tmp_path: Path, name: str, harm: str) -> None:
    async with gateway_process(tmp_path) as gateway:
        await gateway.stop()
        key = gateway.data / "keys" / name
        before = key.read_text()
        if harm == "another":
            async with gateway_process(tmp_path / "other") as other:
                key.write_text((other.data / "keys" / name).read_text())
        elif harm == "gone":
            key.unlink()
        else:
            key.chmod(0o644)
        with pytest.raises(DidNotStart) as refused:
            await gateway.start()
        assert KEY_FILES[name] in str(refused.value) or str(key) in str(refused.value)
        assert before not in str(refused.value)
        key.write_text(before)
        key.chmod(0o600)
        await gateway.start()


async def test_a_first_start_is_quick_and_private(tmp_path: Path) -> None:
    began = time.monotonic()
    async with gateway_process(tmp_path) as gateway, gateway.client() as client:
        print(f"cold start: {time.monotonic() - began:.2f} s")
        assert (await client.get("/ready")).status == 200
        assert gateway.data.stat().st_mode & 0o777 == 0o700
        for path in gateway.data.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path
        with closing(sqlite3.connect(gateway.data / "relay.db")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert gateway.first_key is not None and gateway.first_key not in gateway.log
        command_line = Path(f"/proc/{gateway.pid}/cmdline").read_text()
        assert "relay_sk_" not in command_line


async def test_a_busy_port_is_one_line_and_status_1(tmp_path: Path) -> None:
    async with http_server(answer(b"")) as taken, gateway_process(tmp_path, start=False) as gateway:
        ended = await gateway.command("serve", "--port", str(taken.port))
        assert ended.returncode == 1
        says = f"cannot listen on 127.0.0.1 port {taken.port}: Address already in use"
        assert ended.stderr.strip() == f"{says}; choose another port with --port or RELAY_PORT"
