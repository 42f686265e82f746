"""GET /metrics: who may look, what it answers with, and that it answers while the database does not."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.core.principal import SCOPES
from relay.store.target import Target
from relay.store.writer import StoreUnavailable
from relay.telemetry import exposition
from relay.telemetry.catalogue import METRICS
from tests.gateway import Answer, Gateway, open_gateway
from tests.limits_kit import UNLIMITED
from tests.metrics_kit import openmetrics_samples, pick, samples, scrape

TOKEN = "metrics-token-of-a-test-0123456789abcdef"  # pragma: allowlist secret


@pytest.fixture
async def local(sqlite_target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway on SQLite, where the database makes no difference."""
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        yield gateway


def refused(answer: Answer) -> None:
    assert answer.status == 401, answer.body
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert b"relay_" not in answer.body


async def test_a_direct_caller_on_this_machine_needs_nothing(gateway: Gateway) -> None:
    answer = await gateway.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Content-Encoding" not in answer.headers
    found = {sample.name for sample in samples(answer.body.decode())}
    for metric in METRICS:
        suffix = "_count" if metric.kind == "histogram" else ""
        assert metric.name + suffix in found or metric.name.startswith("relay_secret_"), metric.name


async def test_whoever_is_not_plainly_that_is_refused(local: Gateway) -> None:
    for name, value in (
        ("X-Forwarded-For", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1"),
        ("Via", "1.1 proxy"),
        ("Origin", "http://127.0.0.1"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Cookie", "a=b"),
        ("X-API-Key", "relay_sk_test_nothing"),
        ("Authorization", "Bearer nothing"),
    ):
        refused(await local.get("/metrics", headers={name: value}))


async def test_another_name_for_this_machine_is_refused(local: Gateway) -> None:
    """DNS rebinding: a page of evil.example, which resolves to 127.0.0.1, is no operator."""
    for host in (b"evil.example", b"evil.example:%d" % local.port, b"10.0.0.1", b"127.0.0.1.evil.example"):
        answer = await local.raw(b"GET /metrics HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 401 "), host
    twice = b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert (await local.raw(twice)).split(b" ")[1] in (b"400", b"401")


async def test_no_api_key_opens_it(local: Gateway) -> None:
    for kind in ("agent", "person"):
        key = await local.key(*SCOPES, kind=kind)
        refused(await local.get("/metrics", key=key))
        refused(await local.get("/metrics", headers={"X-API-Key": key}))
    refused(await local.get("/metrics", key=local.admin))


async def test_the_token_opens_it_from_anywhere(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", METRICS_TOKEN=TOKEN) as gateway:
        proxied = {"X-Forwarded-For": "203.0.113.7"}
        for value in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
            answer = await gateway.get("/metrics", headers={**proxied, "Authorization": value})
            assert answer.status == 200, value
        for value in (
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN.upper()}",
            f"Basic {TOKEN}",
            "Bearer",
            "Bearer ",
            TOKEN,
            "Bearer \xff\xfe",
        ):
            refused(await gateway.get("/metrics", headers={**proxied, "Authorization": value}))
        refused(await gateway.get("/metrics", headers=proxied))
        refused(await gateway.get("/metrics", headers={**proxied, "X-API-Key": TOKEN}))
        both = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")]
        refused(await gateway.get("/metrics", headers=both))
        refused(await gateway.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}", "X-API-Key": gateway.admin}))
        assert (await gateway.get("/metrics")).status == 200
        refused(await gateway.get("/actions", key=TOKEN))


async def test_the_token_may_be_a_file(sqlite_target: Target, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    async with open_gateway(sqlite_target, tmp_path / "data", METRICS_TOKEN_FILE=str(file)) as gateway:
        assert (await gateway.get("/metrics", key=TOKEN)).status == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"RELAY_PUBLIC_URL": "https://relay.example.com", "TRUSTED_PROXIES": "10.0.0.0/8"},
        {"RELAY_PUBLIC_URL": "http://relay.example.com"},
        {"TRUSTED_PROXIES": "10.0.0.0/8"},
    ],
    ids=lambda settings: " ".join(settings),
)
async def test_where_others_get_in_the_machine_itself_needs_the_token(
    sqlite_target: Target, tmp_path: Path, settings: dict[str, str]
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", METRICS_TOKEN=TOKEN, **settings) as gateway:
        refused(await gateway.get("/metrics"))
        assert (await gateway.get("/metrics", key=TOKEN)).status == 200


async def test_a_bind_beyond_this_machine_wants_the_token(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", listen="0.0.0.0", METRICS_TOKEN=TOKEN) as gateway:
        refused(await gateway.get("/metrics"))
        assert (await gateway.get("/metrics", key=TOKEN)).status == 200


async def test_a_replica_answers_under_its_own_address_whatever_its_public_url(
    sqlite_target: Target, tmp_path: Path
) -> None:
    settings = {"RELAY_PUBLIC_URL": "https://relay.example.com", "TRUSTED_PROXIES": "127.0.0.1/32"}
    async with open_gateway(sqlite_target, tmp_path / "data", METRICS_TOKEN=TOKEN, **settings) as gateway:
        direct = {"Authorization": f"Bearer {TOKEN}", "Host": "relay-7.internal:8000"}
        assert (await gateway.get("/metrics", headers=direct)).status == 200
        assert (await gateway.get("/version", headers=direct)).status == 421
        passed_on = {"Host": "relay.example.com", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http"}
        answer = await gateway.get("/metrics", headers={**passed_on, "Authorization": f"Bearer {TOKEN}"})
        assert answer.status == 308 and answer.headers["Location"].startswith("https://relay.example.com/")


async def test_it_is_never_limited(sqlite_target: Target, tmp_path: Path) -> None:
    limits = {**UNLIMITED, "RATE_LIMIT_GLOBAL_PER_MINUTE": "3", "RATE_LIMIT_CREDENTIALS_PER_5_MINUTES": "2"}
    async with open_gateway(sqlite_target, tmp_path / "data", **limits) as gateway:
        for _ in range(8):
            assert (await gateway.get("/metrics")).status == 200
            refused(await gateway.get("/metrics", key="wrong"))
        statuses = [(await gateway.get("/version")).status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert (await gateway.get("/metrics")).status == 200


async def test_without_telemetry_there_is_no_such_path(sqlite_target: Target, tmp_path: Path) -> None:
    settings = {"TELEMETRY_ENABLED": "false", "METRICS_TOKEN": TOKEN}
    async with open_gateway(sqlite_target, tmp_path / "data", **settings) as gateway:
        for sent in ({}, {"Authorization": f"Bearer {TOKEN}"}):
            assert (await gateway.get("/metrics", headers=sent)).status == 404
        assert "/metrics" not in gateway.server.fastapi.openapi()["paths"]


async def test_other_methods_are_not_there(local: Gateway) -> None:
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert (await local.call(method, "/metrics")).status == 405, method


ACCEPTED = [
    ("", False),
    ("*/*", False),
    ("text/plain", False),
    ("text/html, garbage;;;q=x, ,", False),
    ("application/openmetrics-text", True),
    ("APPLICATION/OpenMetrics-Text; version=1.0.0; charset=utf-8", True),
    ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
    ("application/openmetrics-text;q=0.3,text/plain;q=0.5", False),
    ("application/openmetrics-text;q=0", False),
    ("application/openmetrics-text; version=9.9.9; escaping=anything", True),
]


async def test_the_format_is_the_one_that_is_asked_for(local: Gateway) -> None:
    for accept, openmetrics in ACCEPTED:
        answer = await local.get("/metrics", headers={"Accept": accept})
        assert answer.status == 200
        if openmetrics:
            assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
            assert answer.body.endswith(b"# EOF\n"), accept
            read = openmetrics_samples
        else:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", accept
            read = samples
        assert pick(read(answer.body.decode()), "relay_processes", kind="server") == 1


async def test_promtool_finds_nothing_wrong(local: Gateway, debian: Callable[[str, str], None]) -> None:
    debian("prometheus", "promtool")
    await local.get("/actions", key=local.admin)
    answer = await local.get("/metrics")
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=answer.body, capture_output=True, timeout=60
    )
    assert checked.returncode == 0 and not checked.stdout + checked.stderr, checked.stdout + checked.stderr


async def test_it_is_bounded(local: Gateway) -> None:
    """Some hundred KiB: what is shown grows with what is declared, never with what is asked."""
    before = await local.get("/metrics")
    for number in range(50):
        await local.get(f"/no/such/path/{number}", key=f"relay_sk_test_{number}")
        await local.get(f"/keys/key_{number}", headers={"X-Request-ID": f"request-{number:08}"})
        await local.call(f"ODD{number}", "/actions")
    after = await local.get("/metrics")
    assert before.body.count(b"\n") == after.body.count(b"\n")
    assert len(after.body) < 1_000_000
    for text in (b"no/such", b"key_1", b"request-0", b"ODD1", b"127.0.0.1", b"default", b"relay_sk"):
        assert text not in after.body


async def test_a_database_that_is_away_costs_its_own_gauges_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scrape(gateway)
    reader = gateway.house.database.reader
    hangs = asyncio.Event()

    async def never(*_: Any) -> Any:
        hangs.set()
        await asyncio.Event().wait()

    async def refuses(*_: Any) -> Any:
        raise StoreUnavailable("gone")

    for broken in (never, refuses):
        with monkeypatch.context() as patch:
            patch.setattr(reader, "all", broken)
            patch.setattr(exposition, "READ_SECONDS", 0.05)
            await _forget(gateway)
            found = await scrape(gateway)
            assert pick(found, "relay_metrics_source_up", source="database") == 0
            assert not [s for s in found if s.name in ("relay_audit_size", "relay_runs", "relay_keys")]
            assert pick(found, "relay_http_requests_total", route="/metrics", status="2xx") >= 1
    assert hangs.is_set()
    await _forget(gateway)
    found = await scrape(gateway)
    assert pick(found, "relay_metrics_source_up", source="database") == 1
    assert pick(found, "relay_audit_size") >= 2


async def test_scraping_often_reads_seldom(local: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = local.house.database.reader.all

    async def counted(statement: Any) -> Any:
        calls.append(str(statement))
        return await real(statement)

    def looks() -> int:
        return sum("webhook_endpoints" in call and "GROUP BY" in call for call in calls)

    monkeypatch.setattr(local.house.database.reader, "all", counted)
    for cached in local.server.exposition._sources.values():
        cached.source = exposition.Source(cached.source.read, 3600.0)
    await _forget(local)
    await asyncio.gather(*(scrape(local) for _ in range(10)))
    assert looks() == 1
    for _ in range(5):
        await scrape(local)
    assert looks() == 1
    await _forget(local)
    await scrape(local)
    assert looks() == 2


async def _forget(gateway: Gateway) -> None:
    """Make the next scrape read anew, and nobody wait for a reading that hangs."""
    shown = gateway.server.exposition
    await shown.stop()
    for cached in shown._sources.values():
        cached.asked, cached.task = float("-inf"), None
