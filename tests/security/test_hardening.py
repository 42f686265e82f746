"""What has to hold before an installation may meet strangers: no door by default, no secret where it does not belong.

Limits, webhooks and metrics have tests of their own.
"""

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay.core.principal import SCOPES
from relay.settings import SettingsError, load_settings
from relay.settings.safety import refusals
from relay.store.target import Target
from relay.telemetry.logs import formatter_for
from scripts.house import known_files
from tests.gateway import Gateway, open_gateway
from tests.process import DidNotStart, gateway_process
from tests.sink import open_sink

TOP = Path(__file__).parents[2]
DEV: dict[str, Any] = {"RELAY_ENV": "local", "DEV_AUTH_MODE": "true"}
PLAN = {"prompt": "test"}
DEMO_KEYS = ["relay_sk_demo_preview_key", "relay_sk_demo", "demo", "test_key", "admin"]


# Development mode is off unless the environment says otherwise, and then for this machine alone.


async def test_a_credential_is_wanted_by_default(gateway: Gateway) -> None:
    assert gateway.house.settings.dev_auth_mode is False
    for path in ("/ai/plan", "/actions/preview", "/actions/execute", "/keys"):
        assert (await gateway.post(path, PLAN)).status == 401


@pytest.mark.parametrize("env", ["production", "test", "local"])
async def test_no_environment_brings_it_by_itself(sqlite_target: Target, tmp_path: Path, env: str) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RELAY_ENV=env) as gateway:
        assert (await gateway.get("/actions")).status == 401


@pytest.mark.parametrize("value", ["True", "TRUE", "1", "yes", "on", " true", "true ", "t"])
def test_nothing_but_true_turns_it_on(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="DEV_AUTH_MODE"):
        load_settings({"RELAY_ENV": "local", "DEV_AUTH_MODE": value, "RELAY_DATA_DIR": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"RELAY_ENV": "production"},
        {"RELAY_ENV": "test"},
        {"RELAY_HOST": "0.0.0.0"},
        {"RELAY_HOST": "::"},
        {"RELAY_HOST": "192.0.2.1"},
        {"TRUSTED_PROXIES": "10.0.0.0/8"},
        {"RELAY_PUBLIC_URL": "https://relay.example.com"},
    ],
)
def test_start_up_refuses_it_elsewhere(tmp_path: Path, other: dict[str, str]) -> None:
    fine = load_settings({**DEV, "RELAY_DATA_DIR": str(tmp_path)}, tmp_path)
    assert refusals(fine) == []
    settings = load_settings({**DEV, "RELAY_DATA_DIR": str(tmp_path), **other}, tmp_path)
    assert any("DEV_AUTH_MODE" in sentence for sentence in refusals(settings))


async def test_a_server_does_not_start_with_it_in_production(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, env={"DEV_AUTH_MODE": "true"}, start=False) as process:
        with pytest.raises(DidNotStart, match="DEV_AUTH_MODE=true lets anyone in"):
            await process.start()


async def test_dev_mode_lets_in_whom_it_should_and_nobody_else(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", **DEV) as gateway:
        (await gateway.get("/actions")).expect(200)
        done = (await gateway.post("/actions/execute", {"action": "relay.echo", "params": {"message": "x"}})).expect(
            200
        )
        attempt = (await gateway.get(f"/attempts/{done['attempt_id']}")).expect(200)
        assert attempt["requested_by"] == "dev"
        for headers in (
            {"Origin": "http://localhost:5173"},
            {"Origin": "null"},
            {"X-Forwarded-For": "127.0.0.1"},
            {"X-Forwarded-Host": "localhost"},
            {"Forwarded": "for=127.0.0.1"},
            {"X-Real-IP": "127.0.0.1"},
            {"Via": "1.1 proxy"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "relay.example.com"},
            {"Host": "127.0.0.1.example.com"},
            {"Authorization": "Bearer nonsense"},
            {"Authorization": "Basic ZGV2OmRldg=="},
            {"X-API-Key": "nonsense"},
            {"Cookie": "a=b"},
        ):
            assert (await gateway.get("/actions", headers=headers)).status in (401, 421), headers


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Test-Mode": "true"},
        {"X-Admin": "true"},
        {"X-User-Id": "dev"},
        {"X-Workspace-Id": "default"},
        {"X-Role": "admin"},
        {"X-Dev-Auth": "true"},
        {"X-Original-URL": "/health"},
        {"X-Rewrite-URL": "/health"},
        {"X-HTTP-Method-Override": "GET"},
        {"Cookie": "session=admin"},
    ],
)
async def test_no_header_opens_a_door(sqlite_target: Target, tmp_path: Path, headers: dict[str, str]) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        assert (await gateway.post("/ai/plan", PLAN, headers=headers)).status == 401
        assert (await gateway.get("/keys", headers=headers)).status == 401


async def test_a_header_does_not_choose_the_workspace(gateway: Gateway) -> None:
    other = await gateway.key(*SCOPES, workspace="other")
    for headers in ({"X-Workspace-Id": "default"}, {"X-Workspace": "default"}):
        items = (await gateway.get("/keys", key=other, headers=headers)).expect(200)["items"]
        assert {item["workspace"] for item in items} == {"other"}


# The demo key is gone.


async def test_no_demo_key_works(gateway: Gateway) -> None:
    for key in DEMO_KEYS:
        assert (await gateway.post("/ai/plan", PLAN, key=key)).status == 401
        assert (await gateway.get("/actions", headers={"X-API-Key": key})).status == 401


def test_the_source_knows_no_demo_key() -> None:
    for path in (TOP / "src").rglob("*.py"):
        assert "demo_preview" not in path.read_text(), path


# No secret stands in the code.

SECRETS = re.compile(
    "|".join(
        (
            r"(?<![A-Za-z0-9])sk-[a-zA-Z0-9]{20,}",
            r"(?<![A-Za-z0-9])sk-(?:proj|ant|svcacct|admin)-[A-Za-z0-9_-]{20,}",
            r"GOCSPX-[a-zA-Z0-9_-]{10,}",
            r"relay_sk_(?:live|test|local)_[0-9A-Za-z]{20,}",
            r"relay_sk_(?!live_|test_|local_|demo)[a-zA-Z0-9]{20,}",
            r"whsec_[A-Za-z0-9+/=]{32,}",
            r"AKIA[0-9A-Z]{16}",
            r"gh[pousr]_[A-Za-z0-9]{36,}",
            r"xox[baprs]-[A-Za-z0-9-]{20,}",
            r"-----BEGIN (?:RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{16}",
        )
    )
)


def test_the_patterns_find_what_they_should() -> None:
    for leak in (
        "sk-" + "a1B2c3D4e5F6g7H8i9J0",
        "sk-proj-" + "a1B2_c3D4-e5F6_g7H8-i9J0",
        "GOCSPX-" + "a1B2c3D4e5",
        "relay_sk_live_" + "a1B2c3D4e5F6g7H8i9J0k1",
        "relay_sk_" + "a1B2c3D4e5F6g7H8i9J0k1",
    ):
        assert SECRETS.search(f"key = '{leak}'"), leak
    assert not SECRETS.search("relay_sk_live_… task-abcdefghijklmnopqrstuvwxyz relay_sk_demo_preview_key")


def test_no_secret_stands_in_the_repository() -> None:
    names = known_files(TOP)
    assert len(names) > 100
    found = []
    for name in names:
        for number, line in enumerate((TOP / name).read_bytes().decode("utf-8", "replace").splitlines(), 1):
            if SECRETS.search(line) and "pragma: allowlist secret" not in line:
                found.append(f"{name}:{number}")
    assert found == []


@pytest.mark.parametrize("name", [".env", ".env.local", "server.key", "secrets/token", "deep/down/.env", "relay.db"])
def test_git_ignores_what_holds_secrets(name: str) -> None:
    asked = subprocess.run(["git", "-C", str(TOP), "check-ignore", "--no-index", "-q", name], check=False)
    assert asked.returncode == 0, name


def test_git_tracks_the_example() -> None:
    asked = subprocess.run(["git", "-C", str(TOP), "check-ignore", "--no-index", "-q", ".env.example"], check=False)
    assert asked.returncode == 1 and (TOP / ".env.example").is_file()


def test_no_secret_file_was_ever_committed() -> None:
    log = subprocess.run(
        ["git", "-C", str(TOP), "log", "--all", "--format=", "--name-only", "--", "*.env", ".env.*", "*.key"],
        check=True,
        capture_output=True,
        text=True,
    )
    # All are examples: what systemd's unit reads, and what Railway is given, are settings that are no secrets.
    assert set(log.stdout.split()) <= {".env.example", "deploy/railway/variables.env", "deploy/systemd/relay.env"}


# Secrets that a running server was given stay with it.

CANARY = "Zk7canary9Qw"
GIVEN = {
    "SECRET_KEY": f"{CANARY}SecretKeyOfTwentyFourAndMoreRandomLookingBytes4711",
    "SMTP_URL": f"smtp://relay:{CANARY}Xw3vNp81@127.0.0.1:1",
    "SMTP_FROM": "relay@sender.example",
}


def descendants(pid: int) -> list[int]:
    """Return every process that this one started, directly or not."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def command_lines(pid: int) -> str:
    """Return the command lines of a server and of all that it started, as any user of the machine sees them."""
    return "\n".join(Path(f"/proc/{one}/cmdline").read_bytes().decode() for one in [pid, *descendants(pid)])


def environments_of_children(pid: int) -> str:
    return "\n".join(Path(f"/proc/{one}/environ").read_bytes().decode() for one in descendants(pid))


async def test_secrets_stay_out_of_the_process_list_the_log_and_the_answers(tmp_path: Path) -> None:
    async with open_sink() as sink, gateway_process(tmp_path, env={**GIVEN, **sink.allowed}) as process:
        assert process.first_key is not None
        shown_once = process.out
        async with process.client() as client:
            answers: list[Any] = []
            mail = {"to": ["ada@example.com"], "subject": "x", "text": f"{CANARY}body"}
            answers.append(await client.execute("email.send", mail))
            assert answers[-1].status == 502
            headers = {"Authorization": f"Bearer {CANARY}header"}
            request = {"method": "POST", "url": f"http://127.0.0.1:{sink.port}/", "headers": headers}
            answers.append(await client.execute("http.request", request))
            assert answers[-1].status == 200 and f"{CANARY}header".encode() in sink.requests[0]
            answers.append(await client.execute("http.request", {**request, "method": f"{CANARY}method"}))
            answers.append(await client.post("/keys", {"scopes": [f"{CANARY}scope" * 100]}))
            answers.append(await client.call("GET", "/actions", Authorization=f"Bearer {CANARY}key"))
            answers.append(await client.call("GET", f"/audit?no_such={CANARY}query"))
            assert [answer.status for answer in answers[2:]] == [422, 422, 401, 422]
            for answer in answers:
                assert CANARY not in json.dumps(answer.body) + str(answer.headers)
        seen = command_lines(process.pid) + environments_of_children(process.pid)
        assert CANARY not in seen and process.first_key not in seen and "relay" in seen
        assert await process.stop() == 0
        assert CANARY not in process.log + process.out
        assert process.first_key not in process.log
        assert shown_once.count(process.first_key) == 1 == process.out.count(process.first_key)


async def test_a_traceback_in_the_log_shows_no_value(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"{CANARY} in an exception")

    monkeypatch.setattr(gateway.server.performer, "preview", breaks)
    body = {"action": "relay.echo", "params": {"message": f"{CANARY} in a body"}}
    answer = await gateway.post("/actions/preview", body, key=gateway.admin)
    problem = answer.expect(500)
    assert CANARY.encode() not in answer.body and "RuntimeError" not in problem["detail"]
    assert any(getattr(record, "request_id", "") == problem["request_id"] for record in caplog.records)
    lines = "\n".join(map(formatter_for("json").format, caplog.records))
    assert "RuntimeError" in lines and "test_hardening.py" in lines
    for said in (lines, caplog.text):
        assert CANARY not in said and gateway.admin not in said


async def test_several_workers_keep_their_secrets_too(postgres_target: Target, tmp_path: Path) -> None:
    env = {
        "DATABASE_URL": postgres_target.url.replace("postgresql+psycopg:", "postgresql:", 1),
        "SECRET_KEY": GIVEN["SECRET_KEY"],
        "OAUTH_ENCRYPTION_KEY": "Wms3Y2FuYXJ5OVF3Wms3Y2FuYXJ5OVF3Wms3Y2FuYXI=",
    }
    async with gateway_process(tmp_path, env=env, args=("--workers", "2")) as process:
        for _ in range(200):
            if len(descendants(process.pid)) >= 3:
                break
            await asyncio.sleep(0.05)
        seen = command_lines(process.pid)
        assert seen.count("spawn_main") >= 2, seen
        for secret in env.values():
            assert secret not in seen
        assert await process.stop() == 0


# Keys.


async def test_the_first_key_is_shown_once_and_never_again(tmp_path: Path) -> None:
    async with gateway_process(tmp_path) as process:
        key = process.first_key
        assert key is not None and process.out.count(key) == 1
        async with process.client(key) as client:
            found = (await client.get("/keys")).body["items"]
            assert len(found) == 1
            assert (found[0]["workspace"], found[0]["kind"], found[0]["scopes"]) == ("default", "person", list(SCOPES))
        await process.stop()
        await process.start()
        assert "relay_sk_" not in process.out and key not in process.log
        async with process.client(key) as client:
            assert len((await client.get("/keys")).body["items"]) == 1
        await process.stop()
    for path in process.data.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


async def test_the_first_key_does_not_come_back_after_it_was_revoked(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        [item] = (await gateway.get("/keys", key=gateway.admin)).expect(200)["items"]
        (await gateway.call("DELETE", f"/keys/{item['id']}", key=gateway.admin)).expect(200)
        assert (await gateway.get("/keys", key=gateway.admin)).status == 401
    async with open_gateway(target, tmp_path / "data") as gateway:
        assert gateway.server.first_key is None


async def test_generated_keys_are_their_owner_s_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        async with gateway_process(tmp_path) as process:
            async with process.client() as client:
                await client.execute("email.send", {"to": ["ada@example.com"], "subject": "x", "text": "y"})
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [process.data, *process.data.rglob("*")]}
    finally:
        os.umask(mask)
    assert {path.name for path in modes} >= {"keys", "secret_key", "encryption_key", "relay.db"}
    for path, mode in modes.items():
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    for name in ("secret_key", "encryption_key"):
        assert modes[process.data / "keys" / name] == 0o600
    assert modes[process.data] == modes[process.data / "keys"] == 0o700


async def test_a_database_whose_keys_are_gone_does_not_start(tmp_path: Path) -> None:
    async with gateway_process(tmp_path) as process:
        await process.stop()
        for name in ("secret_key", "encryption_key"):
            kept = (process.data / "keys" / name).read_bytes()
            (process.data / "keys" / name).unlink()
            with pytest.raises(DidNotStart, match="missing but the database has data"):
                await process.start()
            (process.data / "keys" / name).write_bytes(kept)
            (process.data / "keys" / name).chmod(0o600)
        await process.start()


def test_a_command_line_does_not_take_a_secret(tmp_path: Path) -> None:
    """There is no option through which a secret would show up in the process list."""
    for command in (["serve"], ["key", "create"], ["audit", "list"], ["audit", "verify"], ["demo"]):
        shown = subprocess.run(
            [sys.executable, "-m", "relay", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200", "NO_COLOR": "1"},
        ).stdout
        options = set(re.findall(r"--[a-z-]+", shown))
        assert options
        assert not {o for o in options if re.search("secret|password|token|encryption|database-url|smtp", o)}, command
