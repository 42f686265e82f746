"""`relay doctor` on real installations: what it finds, what it prints, how it ends, and that it leaves no trace."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay.app import open_server
from relay.cli.main import app
from relay.core.ids import new_id
from relay.doctor.check import Finding, judge_all
from relay.doctor.gather import gather
from relay.doctor.registry import CHECKS, names
from relay.doctor.watch import watch_of
from relay.engine import Engine
from relay.house import House, open_house
from relay.identity.operator import operator
from relay.settings import load_settings
from relay.settings.secret_text import generate_kek, generate_secret_key
from relay.store.target import Target
from relay.webhooks.schedule import Schedule
from tests.gateway import Gateway
from tests.process import bare_environment, eventually

Found = Callable[..., Awaitable[dict[str, Finding]]]
PASSWORD = "Xb7qLw92ZrTn4kVd"  # pragma: allowlist secret


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def found(data: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """A function that looks at the installation with more settings and returns the findings by name."""

    async def look(**env: str) -> dict[str, Finding]:
        with monkeypatch.context() as patch:
            for name, value in {"RELAY_DATA_DIR": str(data), "SECRETS_FROM_ENVIRONMENT": "accepted", **env}.items():
                patch.setenv(name, value)
            report = judge_all(CHECKS, await gather())
        assert tuple(finding.name for finding in report.findings) == names()
        return {finding.name: finding for finding in report.findings}

    return look


@asynccontextmanager
async def serving(data: Path, **env: str) -> AsyncIterator[House]:
    """Run a server without a socket."""
    settings = load_settings({"RELAY_DATA_DIR": str(data), "SECRETS_FROM_ENVIRONMENT": "accepted", **env}, data.parent)
    async with open_house(settings) as house, open_server(house, listen=("127.0.0.1", 8000)):
        yield house


@pytest.fixture
async def stopped(data: Path) -> Path:
    """The folder of an installation whose server has been started once and stopped."""
    async with serving(data):
        pass
    return data


def statuses(findings: dict[str, Finding], status: str) -> set[str]:
    return {name for name, finding in findings.items() if finding.status == status}


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {str(path): state(path) for path in [folder, *sorted(folder.rglob("*"))]}


def state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    # What was written through a memory map gets its time when the kernel comes round to it.
    return found.st_mode, found.st_size, 0 if path.name.endswith("-shm") else found.st_mtime_ns


def spoil(data: Path, statement: str) -> None:
    database = sqlite3.connect(data / "relay.db")
    database.execute(statement)
    database.commit()
    database.close()


# What is found.


async def test_before_the_first_start_nothing_fails_and_nothing_is_made(found: Found, tmp_path: Path) -> None:
    findings = await found()
    assert statuses(findings, "fail") == set()
    assert findings["installation"].status == "warn" and findings["audit-log"].status == "skip"
    assert list(tmp_path.iterdir()) == []


async def test_a_new_installation_is_sound_and_looking_leaves_no_trace(stopped: Path, found: Found) -> None:
    before = tree(stopped)
    findings = await found()
    assert tree(stopped) == before
    assert statuses(findings, "fail") == set()
    sound = {"audit-log", "root-keys", "schema", "data-folder", "clock", "agent-scopes", "secret-ages", "audit-heads"}
    assert sound <= statuses(findings, "pass")


async def test_beside_a_running_server_it_finds_what_was_just_written(data: Path, found: Found) -> None:
    async with serving(data) as house:
        await house.api_keys.create(
            operator(), workspace="default", kind="agent", scopes=["admin"], request_id=new_id("req")
        )
        await house.api_keys.create(
            operator(), workspace="other", kind="agent", scopes=["admin"], honey=True, request_id=new_id("req")
        )
        findings = await found()
        assert statuses(findings, "fail") == {"agent-scopes"}
        assert findings["agent-scopes"].detail.count("key_") == 1, "a honey key opens nothing"
        assert findings["audit-log"].status == "pass"


async def test_what_is_wrong_with_files_is_found(stopped: Path, found: Found) -> None:
    (stopped / "keys/secret_key").chmod(0o644)
    findings = await found()
    assert statuses(findings, "fail") == {"data-folder", "root-keys", "audit-log"}
    assert "keys/secret_key (0644)" in findings["data-folder"].detail
    assert "others can read" in findings["root-keys"].detail


async def test_another_key_and_a_missing_one_are_found_and_none_is_made(stopped: Path, found: Found) -> None:
    path = stopped / "keys/secret_key"
    path.write_text(generate_secret_key())
    findings = await found()
    assert statuses(findings, "fail") == {"root-keys", "audit-log"}
    assert "SECRET_KEY" in findings["root-keys"].detail
    path.unlink()
    assert "is missing" in (await found())["root-keys"].detail
    assert not path.exists()
    shutil.rmtree(path.parent)
    assert "is missing" in (await found())["root-keys"].detail
    assert not path.parent.exists(), "nor is its folder"


async def test_a_changed_log_is_found(stopped: Path, found: Found) -> None:
    spoil(stopped, "UPDATE audit_events SET target = 'x' WHERE seq = 2")
    findings = await found()
    assert statuses(findings, "fail") == {"audit-log"} and "event 2" in findings["audit-log"].detail


async def test_an_older_schema_is_found_and_left_as_it_is(stopped: Path, found: Found) -> None:
    spoil(stopped, "UPDATE alembic_version SET version_num = '0001'")
    for _ in range(2):
        findings = await found()
        assert "0001, from an older" in findings["schema"].detail
        assert findings["audit-log"].status == "skip"


async def test_refused_settings_are_findings_and_the_rest_is_looked_at(data: Path, found: Found) -> None:
    findings = await found(RELAY_PORT="many", RELAY_NONSENSE="1")
    assert statuses(findings, "fail") == {"settings"}
    assert "RELAY_PORT" in findings["settings"].detail and "RELAY_NONSENSE" in findings["settings"].detail
    assert findings["python"].status == "pass" and findings["tls"].status == "skip"
    together = await found(DEV_AUTH_MODE="true")
    assert {"settings", "dev-auth-mode"} <= statuses(together, "fail")
    assert "RELAY_ENV must be local" in together["settings"].detail
    for refused in ({"EGRESS_ALLOW": "169.254.169.254"}, {"CONCURRENCY_ACTIONS": "no.such=1"}):
        assert "settings" in statuses(await found(**refused), "fail")


async def test_a_model_that_cannot_be_asked_is_a_refused_setting(stopped: Path, found: Found) -> None:
    findings = await found(OPENAI_API_KEY="sk-nobody-0123456789", AI_MODEL="a-model-of-my-own")
    assert findings["settings"].status == "fail" and "AI_MODEL" in findings["settings"].detail
    findings = await found(OPENAI_API_KEY="sk-nobody-0123456789", AI_MODEL="own", AI_PRICES="own=0/0")
    assert findings["settings"].status == "pass"


async def test_a_database_that_is_away_fails_and_the_rest_is_looked_at(found: Found) -> None:
    keys = {"SECRET_KEY": generate_secret_key(), "OAUTH_ENCRYPTION_KEY": generate_kek()}
    url = f"postgresql://relay:{PASSWORD}@127.0.0.1:1/relay"
    findings = await found(DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1", **keys)
    assert statuses(findings, "fail") == {"database", "redis"}
    assert "127.0.0.1 port 1" in findings["database"].detail
    assert findings["tls"].status == "pass" and findings["audit-log"].status == "skip"
    assert not any(secret in repr(findings) for secret in [PASSWORD, *keys.values()])


async def test_postgres_and_redis_are_looked_at(
    data: Path, found: Found, postgres_target: Target, redis_url: str
) -> None:
    shared = {
        "DATABASE_URL": postgres_target.url.replace("postgresql+psycopg:", "postgresql:"),
        "SECRET_KEY": generate_secret_key(),
        "OAUTH_ENCRYPTION_KEY": generate_kek(),
    }
    async with serving(data, **shared):
        assert statuses(await found(**shared), "fail") == set()
        async with serving(data, **shared):
            findings = await found(**shared)
            assert statuses(findings, "fail") == {"shared-limits"}
            assert "2 processes" in findings["shared-limits"].detail
            # The tests' server lets its superuser in.
            assert findings["database-role"].status == "warn"
            assert {"audit-log", "clock", "postgresql", "root-keys"} <= statuses(findings, "pass")
            with_redis = await found(**shared, REDIS_URL=redis_url)
            assert statuses(with_redis, "fail") == set() and with_redis["redis"].status == "pass"
            other = await found(**{**shared, "SECRET_KEY": generate_secret_key()})
            assert "root-keys" in statuses(other, "fail")


async def test_backups_are_looked_at(stopped: Path, found: Found, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()

    async def said() -> str:
        return (await found(BACKUP_FOLDER=str(folder)))["backups"].detail

    assert "no backup" in await said()
    backup = folder / "relay.db.gz"
    backup.write_bytes(b"x")
    backup.chmod(0o600)
    assert await said() == ""
    os.utime(backup, (0, 0))
    assert "hours old" in await said()
    os.utime(backup)
    backup.chmod(0o640)
    assert "relay.db.gz" in await said()


async def test_secrets_in_the_environment_are_named_and_not_shown(stopped: Path, found: Found) -> None:
    token = generate_secret_key()
    findings = await found(METRICS_TOKEN=token, SECRETS_FROM_ENVIRONMENT="warn")
    assert findings["secret-sources"].status == "warn" and "METRICS_TOKEN" in findings["secret-sources"].detail
    assert token not in repr(findings)


# A server's look at itself.


async def test_a_server_shows_what_fails_and_again_what_holds(data: Path) -> None:
    async with serving(data) as house:
        watch = watch_of(house, Engine(house, ("127.0.0.1", 8000), Schedule()))
        assert not any(watch.failing.values()) and tuple(watch.failing) == names()
        (data / "keys").chmod(0o750)
        report = await watch.look()
        assert watch.failing["data-folder"] and not report.ok()
        (data / "keys").chmod(0o700)
        await watch.look()
        assert not any(watch.failing.values())


async def test_scrapes_show_what_a_server_found(gateway: Gateway) -> None:
    async def shown() -> bool:
        text = (await gateway.get("/metrics")).body.decode()
        series = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("relay_doctor_failing{"))
        assert len(series) == len(names())
        # The gateway of the tests has settings that no deployment should have.
        return float(series['relay_doctor_failing{check="environment"}']) == 1.0

    await eventually(shown, 60)


# The command.


def doctor(home: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**bare_environment(home), "RELAY_DATA_DIR": str(home / "data"), **env}
    command = [sys.executable, "-m", "relay", "doctor", *args]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=110)


def test_an_unsafe_installation_fails_with_the_fix_for_each(tmp_path: Path) -> None:
    ended = doctor(
        tmp_path,
        RELAY_HOST="0.0.0.0",
        RELAY_PUBLIC_URL="http://relay.example.com",
        RATE_LIMIT_MODE="observe",
        CORS_ORIGINS="http://app.example.com",
        EGRESS_ALLOW="10.0.0.0/8",
    )
    assert ended.returncode == 1 and ended.stderr == ""
    failed = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == ["tls", "cors", "limits", "egress"]
    fixes = {check.name: check.fix for check in CHECKS}
    assert all(f"fix: {fixes[name]}" in ended.stdout for name in failed)
    assert list(tmp_path.iterdir()) == []


async def test_as_json_beside_another_process(data: Path, tmp_path: Path) -> None:
    async with serving(data):
        ended = doctor(tmp_path, "--json", RATE_LIMIT_GLOBAL_PER_MINUTE="1000000")
    said = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr, said["ok"]) == (0, "", True)
    assert [finding["name"] for finding in said["findings"]] == list(names())
    assert {"name", "looks_at", "title", "status", "detail", "fix"} == said["findings"][0].keys()


@pytest.fixture
def runner(data: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("RELAY_DATA_DIR", str(data))
    return CliRunner()


def test_warnings_fail_when_asked_to(runner: CliRunner) -> None:
    assert runner.invoke(app, ["doctor"]).exit_code == 0
    strict = runner.invoke(app, ["doctor", "--strict", "--json"])
    assert strict.exit_code == 1 and json.loads(strict.stdout)["ok"] is False


def test_a_name_that_a_terminal_would_obey_is_shown_harmless(runner: CliRunner, data: Path) -> None:
    data.mkdir(mode=0o700)
    odd = data / "a\x1b[2Jb"
    odd.write_text("x")
    odd.chmod(0o644)
    assert stat.S_IMODE(odd.stat().st_mode) == 0o644
    said = runner.invoke(app, ["doctor"]).stdout
    assert "\x1b" not in said and "a\\u001b[2Jb" in said


@pytest.mark.parametrize(
    "args",
    [
        ("--burst",),
        ("--ca-file", "/etc/hostname"),
        ("--address", "127.0.0.1"),
        ("--url", "relay.example.com"),
        ("--url", "https://relay.example.com/path"),
        ("--url", "https://user@relay.example.com"),
        ("--url", "ftp://relay.example.com"),
        ("--nonsense",),
    ],
)
def test_wrong_usage(runner: CliRunner, args: tuple[str, ...]) -> None:
    ended = runner.invoke(app, ["doctor", *args])
    assert ended.exit_code == 2 and ended.stdout == ""
