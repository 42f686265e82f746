"""What the documentation shows really happens: its examples run against real gateways, its code is imported and run."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest

import relay.app
from relay.egress.http import HttpClient
from relay.egress.policy import EgressPolicy
from relay.store.target import Target
from relay.surface.declare import Routes
from tests.docs_reading import ADDRESS, EXECUTED, checkout, differs, fences, read, run_examples, section
from tests.gateway import open_gateway
from tests.inbox import smtp_inbox
from tests.outside import OK, http_server
from tests.process import bare_environment, eventually, gateway_process


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", EXECUTED)
async def test_examples_print_what_is_shown(name: str, tmp_path: Path) -> None:
    async with gateway_process(tmp_path / "home") as gateway:
        env = {**gateway.env, "RELAY_DATA_DIR": str(gateway.data)}
        folder = checkout(tmp_path / "checkout")
        came = await asyncio.to_thread(run_examples, name, folder, gateway.url, env)
        assert came
        for fence, said in came:
            if fence.shown is not None:
                assert (wrong := differs(fence.shown, said)) is None, f"{fence}: {wrong}; it printed:\n{said}"
        await gateway.verified()


async def test_real_mail_as_the_quick_start_shows_it(tmp_path: Path) -> None:
    text = section("docs/quickstart.md", "Real mail")
    start, ask, result = [fence for fence in fences("docs/quickstart.md") if fence.text in text]
    functions = re.findall(r"^\w+\(\) \{.*\}$", read("docs/quickstart.md"), re.MULTILINE)
    *assignments, make, run = start.text.split()
    env = dict(assignment.split("=", 1) for assignment in assignments)
    assert (make, run) == ("make", "run")
    home = tmp_path / "home"
    home.mkdir()
    async with smtp_inbox() as inbox:
        _write_secret(home / env["SMTP_URL_FILE"], f"smtp://127.0.0.1:{inbox.port}")
        async with gateway_process(home, env=env) as gateway:
            _write_secret(home / "person.key", f"Authorization: Bearer {gateway.first_key}")
            script = "\n".join([*functions, ask.text]).replace(ADDRESS, gateway.url)
            ran = await asyncio.to_thread(
                subprocess.run, ["sh", "-euc", script], cwd=home, env=gateway.env, check=True, capture_output=True
            )
    shown, sent = map(json.loads, ran.stdout.decode().splitlines())
    assert shown["warnings"] == [] and shown["rendering"]["from"] == env["SMTP_FROM"]
    wanted = dict(re.findall(r'"(\w+)":([^,\n]+)', result.text))
    assert wanted == {"transport": '"smtp"', "delivered": "true", "warning": "null"}
    assert sent["result"] | {"transport": "smtp", "delivered": True, "warning": None} == sent["result"]
    assert [mail.recipients for mail in inbox.mails] == [("you@example.com",)]


async def test_a_head_is_taken_from_the_log_as_the_audit_page_shows_it(tmp_path: Path) -> None:
    [taken] = [fence for fence in fences("docs/audit.md") if "server.log" in fence.text]
    async with gateway_process(tmp_path / "home") as gateway:
        assert await gateway.stop() == 0
        (tmp_path / "server.log").write_text(gateway.log)
        await asyncio.to_thread(subprocess.run, ["sh", "-euc", taken.text], cwd=tmp_path, env=gateway.env, check=True)
        ended = await gateway.command("audit", "verify", "--head", str(tmp_path / "head.txt"))
    assert ended.returncode == 0, ended.stdout + ended.stderr


async def test_postgresql_as_the_readme_shows_it(postgres_target: Target, tmp_path: Path) -> None:
    text = section("README.md", "PostgreSQL")
    make_keys, serve = [fence for fence in fences("README.md") if fence.text in text]
    folder = checkout(tmp_path / "checkout")
    env = bare_environment(tmp_path)
    await asyncio.to_thread(subprocess.run, ["sh", "-euc", make_keys.text], cwd=folder, env=env, check=True)
    url = postgres_target.url.replace("postgresql+psycopg:", "postgresql:", 1)
    _write_secret(folder / "secrets/database_url", url)
    port = _free_port()
    out = tmp_path / "out"
    server = _start(f"{serve.text.rstrip()} --port {port}", folder, env, out)
    try:
        await eventually(lambda: _ready(port), seconds=60, pause=0.2)
        # The process that made the key need not be the one that was ready first.
        await eventually(lambda: _printed(out, "relay listens on", 2), seconds=60, pause=0.2)
        assert len(re.findall(r"^ {4}relay_sk_live_\w+$", out.read_text(), re.MULTILINE)) == 1
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        await asyncio.to_thread(server.wait, 45)


async def test_the_connector_of_the_development_page_works(sqlite_target: Target, tmp_path: Path) -> None:
    module = _module("connectors")
    async with http_server(OK) as page:
        module.BASE = page.url
        client = HttpClient(EgressPolicy([f"127.0.0.1:{page.port}"]), frozenset({"127.0.0.1"}))
        added = [(module.connector, client)]
        async with open_gateway(sqlite_target, tmp_path / "data", connectors=added) as gateway:
            key = await gateway.key("actions:preview", "actions:execute", kind="person")
            body = {"action": "status.set", "params": {"message": "All well", "token": "hunter2-VERY-secret"}}
            preview = (await gateway.post("/actions/preview", body, key=key)).expect(200)
            done = (await gateway.post("/actions/execute", {"preview_id": preview["preview_id"]}, key=key)).expect(200)
            seen = (await gateway.get(f"/attempts/{done['attempt_id']}", key=key)).expect(200)
    assert preview["decision"] == "allow" and preview["summary"] == "Show “All well” on the status page"
    assert done["result"] == {"status": 200}
    assert page.requests[0].startswith(b"PUT /message HTTP/1.1\r\n") and b"hunter2-VERY-secret" in page.requests[0]
    assert b"All well" in page.requests[0].partition(b"\r\n\r\n")[2]
    assert "hunter2" not in str([preview, done, seen])


async def test_the_connector_of_the_development_page_reaches_its_host_only() -> None:
    module = _module("connectors")
    assert module.connector.hosts == {"status.example.com"}
    client = HttpClient(EgressPolicy(), module.connector.hosts)
    assert client.refusal(module.BASE) is None
    assert client.refusal("https://example.com/") is not None


async def test_the_route_of_the_development_page_works(sqlite_target: Target, tmp_path: Path) -> None:
    module = _module("web/api")
    real: Callable[..., Routes] = vars(relay.app)["system_routes"]
    with mock.patch.object(relay.app, "system_routes", lambda *a, **k: _joined(real(*a, **k), module.caller_routes())):
        async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
            viewer, auditor = await gateway.key("viewer"), await gateway.key("auditor")
            who = (await gateway.get("/caller", key=viewer)).expect(200)
            (await gateway.get("/caller", key=auditor)).expect(403)
            (await gateway.get("/caller")).expect(401)
    assert (who["kind"], who["workspace"]) == ("agent", "default") and who["principal"].startswith("key_")


def _joined(one: Routes, other: Routes) -> Routes:
    one._declared.extend(other._declared)
    return one


def _module(home: str) -> Any:
    """Import the example that the development page puts into ``src/relay/<home>``."""
    examples = [fence for fence in fences("docs/DEVELOPMENT.md") if fence.language == "python"]
    wanted = [fence for fence in examples if ("Connector(" in fence.text) == (home == "connectors")]
    assert len(examples) == 2 and len(wanted) == 1
    module = types.ModuleType("example")
    code = compile(wanted[0].text, str(wanted[0]), "exec", dont_inherit=True)
    with mock.patch.dict("sys.modules", {"example": module}):
        exec(code, vars(module))
    return module


def _start(script: str, folder: Path, env: dict[str, str], out: Path) -> "subprocess.Popen[bytes]":
    command = ["sh", "-euc", script]
    with out.open("wb") as stream:
        return subprocess.Popen(
            command, cwd=folder, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )


def _write_secret(path: Path, text: str) -> None:
    path.write_text(text + "\n")
    path.chmod(0o600)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _printed(out: Path, text: str, times: int) -> bool:
    return out.read_text().count(text) == times


async def _ready(port: int) -> bool:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/ready") as answer,
        ):
            return answer.status == 200
    except aiohttp.ClientError:
        return False
