"""`relay doctor --url`: our own gateway behind real proxies passes, deployments that violate one thing each do not."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.doctor.check import Finding, judge_all
from relay.doctor.outside import ask as asking
from relay.doctor.outside.ask import BURST, STRANGER, ask, guarded_routes
from relay.doctor.outside.registry import CHECKS, names
from tests.gateway import Gateway
from tests.openapi import GUARDED, current, guarded_of
from tests.outside import make_certificate
from tests.process import bare_environment, gateway_process
from tests.proxies import COMMANDS, HOST, Ports, proxy
from tests.strangers import Asked, Said, Spoil, deployment, ok, problem

MOST_REQUESTS = 100


def doctor(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", "doctor", "--json", *args]
    return subprocess.run(command, cwd=home, env=bare_environment(home), capture_output=True, text=True, timeout=120)


async def found(home: Path, *args: str) -> dict[str, dict[str, Any]]:
    ended = await asyncio.to_thread(doctor, home, *args)
    assert ended.stderr == "", ended.stderr
    said = json.loads(ended.stdout)
    assert said["ok"] == (ended.returncode == 0)
    return {finding["name"]: finding for finding in said["findings"]}


def failing(findings: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: each["detail"] for name, each in findings.items() if each["status"] != "pass"}


# Relay itself.


@pytest.mark.parametrize("kind", sorted(COMMANDS))
async def test_our_own_gateway_behind_a_real_proxy_passes(
    kind: str, debian: Callable[[str, str], None], tmp_path: Path
) -> None:
    debian({"nginx": "nginx-light"}.get(kind, kind), kind)
    ports, certificate = Ports.free(), make_certificate(tmp_path, names=(HOST,), days=30)
    env = {
        "RELAY_PUBLIC_URL": f"https://{HOST}:{ports.tls}",
        "TRUSTED_PROXIES": "127.0.0.1",
        "RATE_LIMIT_GLOBAL_PER_MINUTE": "150",
    }
    async with (
        gateway_process(tmp_path / "relay", env=env) as gateway,
        proxy(kind, tmp_path / kind, ports, gateway.port, certificate) as running,
    ):
        where = ("--url", running.url, "--address", "127.0.0.1", "--ca-file", str(certificate.cert))
        findings = await found(tmp_path, *where, "--burst")
        assert failing(findings) == {}
        # The proxy's certificate is vouched for by nobody that this machine trusts.
        assert failing(await found(tmp_path, *where[:4])).keys() >= {"certificate", "certificate-end"}


async def test_a_gateway_on_this_machine_lacks_https_alone(gateway: Gateway, tmp_path: Path) -> None:
    findings = await found(tmp_path, "--url", gateway.url)
    # Whoever calls directly from the machine itself may see the metrics.
    failed = {name: each["detail"] for name, each in findings.items() if each["status"] == "fail"}
    assert failed.keys() == {"https", "metrics"}, failed
    skipped = {name for name, each in findings.items() if each["status"] == "skip"}
    assert skipped == {"certificate", "certificate-end", "tls-versions", "hsts"}


async def test_a_gateway_in_development_mode_is_open(tmp_path: Path) -> None:
    env = {"RELAY_ENV": "local", "DEV_AUTH_MODE": "true", "WEBHOOK_ALLOW_UNSIGNED": "true"}
    async with gateway_process(tmp_path / "relay", env=env) as gateway:
        findings = await found(tmp_path, "--url", gateway.url)
        bad = failing(findings)
        assert {"authentication", "signatures", "docs", "https"} <= bad.keys()
        assert "GET /actions" in bad["authentication"]


async def test_a_gateway_in_pilot_mode_has_an_open_chat_and_nothing_else(tmp_path: Path) -> None:
    async with gateway_process(tmp_path / "relay", env={"RELAY_ENV": "local", "CHAT_PILOT_MODE": "true"}) as gateway:
        said = failing(await found(tmp_path, "--url", gateway.url))["authentication"]
        assert "/chat" in said and "/actions" not in said and "/ai/" not in said


async def test_the_list_of_routes_is_that_of_the_gateway() -> None:
    assert GUARDED.read_text() == guarded_of(await current()), "run: python -m tests.openapi"
    assert len(guarded_routes()) > 40 and ("POST", "/actions/execute") in guarded_routes()


# Deployments that violate one thing.


async def judged(url: str, certificate: Path | None, *, burst: bool = False) -> dict[str, Finding]:
    return {each.name: each for each in judge_all(CHECKS, await ask(url, ca_file=certificate, burst=burst)).findings}


def when(match: Callable[[Asked], bool], answer: Said | Callable[[Said], Said]) -> Spoil:
    def spoil(asked: Asked, said: Said) -> Said:
        if not match(asked):
            return said
        return (
            answer(said) if callable(answer) else Said(answer.status, {**said.headers, **answer.headers}, answer.body)
        )

    return spoil


def at(path: str, answer: Said | Callable[[Said], Said]) -> Spoil:
    return when(lambda asked: asked.path.partition("?")[0] == path, answer)


def header(name: str, value: str | None) -> Spoil:
    def spoil(_: Asked, said: Said) -> Said:
        kept = {key: text for key, text in said.headers.items() if key.lower() != name.lower()}
        return replace(said, headers=kept if value is None else {**kept, name: value})

    return spoil


def reflecting(_asked: Asked, said: Said) -> Said:
    origin = _asked.headers.get("origin")
    return said if origin is None else replace(said, headers={**said.headers, "Access-Control-Allow-Origin": origin})


def local(asked: Asked) -> bool:
    return asked.path == "/metrics" and asked.headers.get("x-forwarded-for") == "127.0.0.1"


def reflecting_only(origin: str) -> Spoil:
    return when(
        lambda asked: asked.headers.get("origin") == origin and asked.method == "GET",
        lambda said: replace(said, headers={**said.headers, "Access-Control-Allow-Origin": "null"}),
    )


def echo(asked: Asked, said: Said) -> Said:
    if asked.method != "TRACE":
        return said
    return Said(405, said.headers, "\n".join(f"{name}: {value}" for name, value in asked.headers.items()).encode())


ELSEWHERE = Said(302, {"Location": "https://elsewhere.example/health"})
TRACEBACK = b'{"detail": "Traceback (most recent call last):\\n  File \\"/app/x.py\\", line 3"}'

# By check: how a deployment violates it, whether a burst is asked for, and a part of what is said.
BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "reachable": [
        ({"spoil": at("/health", ELSEWHERE)}, "redirects to elsewhere.example"),
        ({"spoil": at("/health", problem(503))}, "/health is answered 503"),
        ({"spoil": at("/version", ok({"name": "other"}))}, "/version"),
        ({"spoil": at("/health", Said(0))}, "no answer comes"),
    ],
    "https": [({"tls": False}, "in the clear")],
    "certificate": [
        ({"names": ("other.example",)}, "not trusted"),
        ({"days": -0.5}, "not trusted"),
    ],
    "certificate-end": [({"days": 13}, "13 days")],
    "tls-versions": [({"old_tls": True}, "TLS 1.1")],
    "hsts": [
        ({"spoil": header("Strict-Transport-Security", None)}, "no Strict-Transport-Security"),
        ({"spoil": header("Strict-Transport-Security", "max-age=300")}, "300 s"),
    ],
    "authentication": [
        ({"spoil": at("/audit", ok({"items": []}))}, "GET /audit"),
        ({"spoil": at("/keys/doctor", ok({}))}, "DELETE /keys/{key_id}"),
        ({"spoil": at("/policies", problem(422))}, "/policies"),
        ({"spoil": at("/budgets", Said(302, {"Location": "/login"}))}, "/budgets"),
        ({"spoil": at("/approvals", Said(0))}, "not known: GET /approvals"),
        ({"spoil": when(lambda asked: asked.path not in ("/health", "/version"), problem(404))}, "not Relay"),
    ],
    "signatures": [
        ({"spoil": at("/webhooks/relay", ok({"received": True}))}, "is answered 200"),
        ({"spoil": at("/webhooks/relay", problem(401, "Who?"))}, "is answered 401"),
        ({"spoil": at("/webhooks/relay", Said(0))}, "gets no answer"),
    ],
    "rate-limits": [
        ({"spoil": header("RateLimit", None)}, "no RateLimit headers"),
        ({"limit": 1_000_000, "burst": True}, f"{BURST} requests"),
        ({"limit": 40, "burst": True, "spoil": header("Retry-After", None)}, "when to come back"),
    ],
    "security-headers": [
        ({"spoil": header("X-Content-Type-Options", None)}, "x-content-type-options"),
        ({"spoil": header("Content-Security-Policy", "default-src *")}, "content-security-policy"),
        ({"spoil": header("Cache-Control", "public")}, "cache-control"),
        ({"spoil": header("X-Frame-Options", "ALLOWALL")}, "x-frame-options"),
        ({"spoil": header("Referrer-Policy", None)}, "referrer-policy"),
    ],
    "foreign-pages": [
        ({"spoil": reflecting}, STRANGER),
        ({"spoil": header("Access-Control-Allow-Origin", "*")}, "*"),
        ({"spoil": reflecting_only("null")}, "null"),
    ],
    "metrics": [
        ({"spoil": at("/metrics", ok("relay_build_info 1", "text/plain"))}, "without a token is answered 200"),
        ({"spoil": when(local, ok("relay_build_info 1", "text/plain"))}, "claims to come from this machine"),
    ],
    "docs": [
        ({"spoil": at("/docs", ok("<html>", "text/html"))}, "/docs"),
        ({"spoil": at("/openapi.json", ok({"openapi": "3.1.0"}))}, "/openapi.json"),
    ],
    "silent-errors": [
        ({"spoil": when(lambda asked: asked.path.startswith("/doctor-"), Said(404, {}, TRACEBACK))}, "error-missing"),
        ({"spoil": when(lambda asked: asked.method == "BREW", Said(405, {}, b"<hr>nginx/1.22.1"))}, "error-method"),
        ({"spoil": when(lambda asked: len(asked.path) > 8192, problem(500))}, "error-long is answered 500"),
        (
            {"spoil": when(lambda asked: asked.path.startswith("/doctor-"), Said(404, {"Content-Type": "text/html"}))},
            "problem document",
        ),
    ],
    "server-header": [
        ({"spoil": header("Server", "nginx/1.22.1")}, "Server"),
        ({"spoil": header("X-Powered-By", "Express 4.18")}, "X-Powered-By"),
    ],
    "host-header": [
        ({"spoil": when(lambda asked: asked.headers["host"] == "attacker.example", ok({"name": "relay"}))}, "200"),
        ({"spoil": when(lambda asked: asked.headers["host"] == "attacker.example", ELSEWHERE)}, "302"),
    ],
    "trace": [
        ({"spoil": when(lambda asked: asked.method == "TRACE", ok({}))}, "is answered 200"),
        ({"spoil": echo}, "is answered 405"),
    ],
    "security-txt": [
        ({"spoil": at("/.well-known/security.txt", problem(404))}, "is answered 404"),
        ({"spoil": at("/.well-known/security.txt", ok("Contact: mailto:a@b", "text/plain"))}, "no date"),
        (
            {
                "spoil": at(
                    "/.well-known/security.txt",
                    ok("Contact: mailto:a@b\nExpires: 2020-01-01T00:00:00Z\n", "text/plain"),
                )
            },
            "expired",
        ),
    ],
    "server-clock": [
        ({"spoil": header("Date", "Mon, 01 Jan 2024 00:00:00 GMT")}, "differ by"),
        ({"spoil": header("Date", "yesterday")}, "no date"),
    ],
}


def test_every_check_is_violated_by_some_deployment() -> None:
    assert set(BAD) == set(names())


async def test_a_sound_deployment_passes_in_a_bounded_number_of_requests(tmp_path: Path) -> None:
    async with deployment(tmp_path) as there:
        findings = await judged(there.url, there.certificate.cert, burst=True)
        assert [(each.name, each.status, each.detail) for each in findings.values() if each.status != "pass"] == []
        assert len(there.asked) <= MOST_REQUESTS + BURST
        assert all("authorization" not in asked.headers and "x-api-key" not in asked.headers for asked in there.asked)
    async with deployment(tmp_path) as there:
        await ask(there.url)
        assert len(there.asked) <= MOST_REQUESTS


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [(name, how, says) for name, cases in BAD.items() for how, says in cases],
    ids=[f"{name}-{number}" for name, cases in BAD.items() for number in range(len(cases))],
)
async def test_a_violation_is_found(name: str, how: dict[str, Any], says: str, tmp_path: Path) -> None:
    options = {key: value for key, value in how.items() if key != "burst"}
    async with deployment(tmp_path, **options) as there:
        authorities = there.certificate.cert if there.certificate is not None else None
        finding = (await judged(there.url, authorities, burst=how.get("burst", False)))[name]
    severity = next(check.severity for check in CHECKS if check.name == name)
    assert finding.status == severity and says in finding.detail, finding


async def test_where_nobody_listens_the_rest_is_not_looked_at(tmp_path: Path) -> None:
    async with deployment(tmp_path) as there:
        gone = there.url
    for url in (gone, gone.replace("https:", "http:")):
        findings = await judged(url, None)
        assert findings["reachable"].status == "fail"
        others = {each.status for each in findings.values() if each.name not in ("reachable", "https")}
        assert others == {"skip"}


async def test_a_refusal_for_too_many_requests_is_waited_for_and_never_taken_for_a_closed_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asking, "pause", sleep)

    def limited(asked: Asked, said: Said) -> Said:
        if asked.path != "/audit" or len(slept) >= 1:
            return said
        return Said(429, {**said.headers, "Retry-After": "7"}, problem(429).body)

    async with deployment(tmp_path, limited) as there:
        assert (await judged(there.url, there.certificate.cert))["authentication"].status == "pass"
    assert slept == [7.0]
    async with deployment(tmp_path, at("/audit", Said(429, {"Retry-After": "7"}))) as there:
        finding = (await judged(there.url, there.certificate.cert))["authentication"]
    assert finding.status == "fail" and "GET /audit" in finding.detail
    assert slept == [7.0, 7.0, 7.0], "twice at most"


async def test_what_comes_in_pieces_is_read_whole_and_what_never_ends_is_waited_for_no_longer_than_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def piecemeal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode())
        slow = "/health" not in asked[-1]
        writer.write(b"HTTP/1.1 200 OK\r\nDate: 1 Jan 1 0:0:0 -9999999999999999\r\nConnection: close\r\n\r\n")
        for part in (b'{"sta', b'tus": ', b'"ok"}'):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.3 if slow else 0.02)
        writer.close()

    monkeypatch.setattr(asking, "PATIENCE", 2.0)
    server = await asyncio.start_server(piecemeal, "127.0.0.1", 0)
    async with server:
        seen = await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert json.loads(seen.reply("health").body) == {"status": "ok"}
    assert 2 <= len(asked) < len(guarded_routes())
    findings = {finding.name: finding for finding in judge_all(CHECKS, seen).findings}
    assert findings["server-clock"].detail == "answers carry no date"
    assert findings["authentication"].status == "fail"


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    async with (
        deployment(tmp_path / "there") as there,
        deployment(tmp_path, at("/health", Said(302, {"Location": f"{there.url}/health"}))) as here,
    ):
        await ask(here.url)
        assert there.asked == []


def test_no_key_is_needed_and_none_is_read(tmp_path: Path) -> None:
    environment = {**bare_environment(tmp_path), "RELAY_PORT": "not a number"}
    command = [sys.executable, "-m", "relay", "doctor", "--url", "https://127.0.0.1:1", "--json"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "reachable" in ended.stdout and ended.stderr == ""
    assert os.listdir(tmp_path) == []
