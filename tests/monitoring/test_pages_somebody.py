"""It really wakes somebody: a running Relay is attacked, and Slack, PagerDuty and others are told.

Prometheus and Alertmanager are real. The rules come from the shipped templates with short windows; the routes are the
shipped ones, waiting a second. How long each alert takes is printed (``-s``), and stands in docs/alerts.md.
"""

import asyncio
import re
import shlex
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.inbox import smtp_inbox
from tests.monitoring_kit import RUNBOOKS, TOP, default_values, run, runbook_fences
from tests.monitors import Monitors, monitors
from tests.pager import Pager, Told, open_pager
from tests.process import GatewayProcess
from tests.watched_world import SEVERITY, TOKEN, Attacks, World, going_on, open_world

# The three acts.


@pytest.mark.timeout(420)
async def test_each_attack_is_told_and_taken_back(tmp_path: Path, debian: Callable[[str, str], None]) -> None:
    debian("prometheus", "prometheus")
    debian("prometheus-alertmanager", "prometheus-alertmanager")
    async with open_world(tmp_path) as world:
        await callers_misbehave(world)
        await the_house_breaks(world)
        await instances_go(world)
        assert world.pager.refused == []
        check_payloads(world)
        await check_heartbeat(world)
        for name, (took, promise) in sorted(world.measured.items()):
            print(f"{name}: {took:.1f} s, promised {promise:.0f} s")


async def callers_misbehave(world: World) -> None:
    attacks = Attacks(world)
    caused: dict[str, float] = {}

    async def now(name: str, attack: Awaitable[Any]) -> Any:
        done = await attack
        caused[name] = time.monotonic()
        return done

    began = time.monotonic()
    endpoint = await now("WebhookEndpointFailing", attacks.endpoint_fails())
    waiting = await now("ApprovalsWaiting", attacks.something_waits())
    await now("KillSwitchOn", attacks.switch("on"))
    await now("RevokedKeyUsed", attacks.revoked_key_used())
    await now("SecurityViolation", attacks.key_leaks())
    await now("UnknownOutcome", attacks.outcome_unknown())
    once = {"RevokedKeyUsed", "SecurityViolation", "UnknownOutcome", "ManyKeysOneAddress"}
    ongoing = {
        "HighAuthFailureRate": attacks.wrong_key,
        "RateLimitAbuse": attacks.too_much,
        "WebhookSignatureRefusals": attacks.wrong_signature,
        "ActionsFailing": attacks.upstream_fails,
        "ModelUnavailable": attacks.model_does_not_answer,
    }
    standing = {"WrongEnvironment", "DevelopmentMode", "KeyEndsSoon"}  # were so before anybody looked
    async with going_on(*ongoing.values()):
        caused |= dict.fromkeys([*ongoing, "ManyKeysOneAddress"], time.monotonic())
        caused |= dict.fromkeys(standing, world.watched_since)
        await world.all_told(caused)
    ceased = time.monotonic()
    world.receiver.well = True
    await attacks.switch("off")
    assert (await world.client.call("DELETE", f"/keys/{world.soon}")).status in (200, 204)
    assert (await world.client.call("DELETE", f"/webhooks/endpoints/{endpoint}")).status in (200, 204)
    denied = await world.client.post(f"/approvals/{waiting['approval_id']}/deny", {"digest": waiting["digest"]})
    assert denied.status == 200, denied.body
    await world.second.stop()
    world.second.env |= {"RELAY_ENV": "production", "DEV_AUTH_MODE": "false"}
    await world.second.start()
    await world.all_over(*once, since=began)
    await world.all_over(*(caused.keys() - once), since=ceased)


async def the_house_breaks(world: World) -> None:
    """A row of the audit log is changed, and Redis goes away."""
    attacks = Attacks(world)
    assert (await world.client.get("/audit/verify")).body["ok"] is True
    assert (await world.client.execute("relay.echo", {"message": "to be changed"})).status == 200
    began = time.monotonic()
    original = _change_newest(world.production, "forged")
    async with going_on(lambda: _verify(world), pause=1.0):
        await world.told("AuditVerificationFailed", began)
        repaired = time.monotonic()
        _change_newest(world.production, original[1], original[0])
        await world.over("AuditVerificationFailed", repaired)
    went = time.monotonic()
    world.redis.kill()

    async def refused() -> None:
        await world.client.execute("relay.echo", {"message": "not now"})

    async with going_on(refused, attacks.wrong_key):
        await world.all_told(dict.fromkeys(("LimiterFallback", "ErrorBudgetBurnFast"), went))
    back = time.monotonic()
    world.redis.start()
    await world.all_over("LimiterFallback", "ErrorBudgetBurnFast", since=back)


async def _verify(world: World) -> None:
    await world.client.get("/audit/verify")


def _change_newest(gateway: GatewayProcess, principal: str, seq: int | None = None) -> tuple[int, str]:
    """Change the principal of the newest event, or of ``seq``, behind Relay's back; return seq and who it was."""
    with closing(sqlite3.connect(gateway.data / "relay.db", timeout=30)) as database, database:
        where = "seq = (SELECT max(seq) FROM audit_events)" if seq is None else f"seq = {seq}"
        number, before = database.execute(f"SELECT seq, principal FROM audit_events WHERE {where}").fetchone()
        database.execute("UPDATE audit_events SET principal = ? WHERE seq = ?", (principal, number))
    return int(number), str(before)


async def instances_go(world: World) -> None:
    """One of two instances stops, then the other."""
    began = time.monotonic()
    await world.second.stop()
    await world.told("InstanceDown", began)
    assert world.pager.first("RelayDown", "pagerduty") is None, "one instance was still there"
    began = time.monotonic()
    await world.production.stop()
    await world.told("RelayDown", began)
    back = time.monotonic()
    await world.production.start()
    await world.second.start()
    await world.all_over("InstanceDown", "RelayDown", since=back)


# What was sent.


def check_payloads(world: World) -> None:
    """Critical alerts reach PagerDuty and Slack, warnings Slack and mail, the rest mail; all of them the program."""
    for name in world.measured:
        severity = SEVERITY[name]
        assert (world.pager.first(name, "pagerduty") is not None) == (severity == "critical"), name
        assert (world.pager.first(name, "slack") is not None) == (severity != "info"), name
        assert world.pager.first(name, "program") is not None, name
        mails = [mail for mail in world.inbox.mails if f" {name} " in mail.header("Subject")]
        assert bool(mails) == (severity != "critical"), name
    for told in world.pager.told:
        if told.door == "pagerduty":
            _check_pagerduty(told, [one for one in world.pager.told if one.door == "pagerduty"])
    slack = world.pager.first("SecurityViolation", "slack")
    assert slack is not None
    [attachment] = slack.body["attachments"]
    assert slack.body["channel"] == "#relay-alerts" and attachment["color"] == "danger"
    assert attachment["title"] == "[CRITICAL] SecurityViolation (production): Security violation: key_leaked"
    assert attachment["title_link"].endswith("/docs/runbooks/SecurityViolation.md")
    assert "Runbook: https://" in attachment["text"] and "no innocent explanation" in attachment["text"]


def _check_pagerduty(told: Told, all_of_them: list[Told]) -> None:
    """A resolution closes the incident that its trigger opened: both carry the same key."""
    if told.resolved:
        opened = {one.body["dedup_key"] for one in all_of_them if one.alert == told.alert and not one.resolved}
        assert told.body["dedup_key"] in opened
        return
    payload = told.body["payload"]
    assert payload["severity"] == "critical" and payload["component"] == "relay"
    assert payload["summary"].startswith("[CRITICAL") and told.alert in payload["summary"]
    assert payload["custom_details"]["runbook"].endswith(f"/{told.alert}.md")


async def check_heartbeat(world: World) -> None:
    assert world.pager.first("Heartbeat", "heartbeat") is not None
    assert "Heartbeat" not in world.pager.named("slack") | world.pager.named("pagerduty") | world.pager.named("program")


async def test_what_runbooks_tell_works(tmp_path: Path, debian: Callable[[str, str], None]) -> None:
    """Every query is answered by Prometheus, every silence is taken by Alertmanager and mutes the alert it names."""
    debian("prometheus", "prometheus")
    debian("prometheus-alertmanager", "amtool")
    async with (
        open_pager() as pager,
        smtp_inbox() as inbox,
        monitors(tmp_path / "watch", pager, inbox.port, default_values(), {"relay": ["127.0.0.1:1"]}, TOKEN) as watch,
    ):
        await drill(watch, pager)
        pages = sorted(RUNBOOKS.glob("*.md"))
        assert {page.stem for page in pages} == set(SEVERITY)
        for page in pages:
            for text in runbook_fences(page, "promql"):
                await watch.query(text)
            [silence] = [text for text in runbook_fences(page, "shell") if text.startswith("amtool silence add")]
            words = _words(silence.replace("http://127.0.0.1:9093", watch.alertmanager))
            assert f"alertname={page.stem}" in words
            done = await asyncio.to_thread(run, *words)
            assert done.returncode == 0 and re.fullmatch(r"[0-9a-f-]{36}\n", done.stdout), done
        rules = await watch.rules()
        assert [rule["name"] for rule in rules if rule["health"] == "err"] == []


async def drill(watch: Monitors, pager: Pager) -> None:
    """What docs/alerts.md tells whoever installs it to do, so that it is known to ring."""
    [line] = [text for text in runbook_fences(TOP / "docs/alerts.md", "shell") if text.startswith("amtool alert add")]
    done = await asyncio.to_thread(run, *_words(line.replace("http://127.0.0.1:9093", watch.alertmanager)))
    assert done.returncode == 0, done
    for door in ("pagerduty", "slack", "program"):
        await pager.arrived("Drill", door, 90)
    assert pager.refused == []


def _words(line: str) -> list[str]:
    return shlex.split(line.replace("$USER", "somebody"))
