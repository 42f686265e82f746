"""Slack, PagerDuty and other receivers of notifications, played on loopback; they refuse what the real ones would.

Slack: an incoming webhook with attachments, https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments.
PagerDuty: Events API v2, https://developer.pagerduty.com/docs/send-alert-event. Others: Alertmanager's webhook,
version 4.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jsonschema
from aiohttp import web

ROUTING_KEY = "0123456789abcdef0123456789abcdef"
TOKEN = "a-token-of-the-program"
_TEXT = {"type": "string", "minLength": 1}

SLACK: dict[str, Any] = {
    "type": "object",
    "required": ["attachments"],
    "properties": {
        "channel": _TEXT,
        "attachments": {
            "type": "array",
            "minItems": 1,
            "maxItems": 100,
            "items": {
                "type": "object",
                "required": ["fallback", "title", "title_link", "text", "color"],
                "properties": {
                    "fallback": _TEXT,
                    "title": _TEXT,
                    "title_link": {"type": "string", "pattern": "^https://"},
                    "text": _TEXT,
                    "color": {"type": "string", "pattern": "^(good|warning|danger|#[0-9A-Fa-f]{6})$"},
                    "mrkdwn_in": {"type": "array", "items": {"enum": ["fallback", "pretext", "text", "title"]}},
                },
            },
        },
    },
}
PAGERDUTY: dict[str, Any] = {
    "type": "object",
    "required": ["routing_key", "event_action", "dedup_key"],
    "properties": {
        "routing_key": {"type": "string", "minLength": 32, "maxLength": 32},
        "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
        "dedup_key": {"type": "string", "minLength": 1, "maxLength": 255},
        "client": {"type": "string"},
        "client_url": {"type": "string"},
        "links": {"type": "array", "items": {"type": "object", "required": ["href"]}},
        "payload": {
            "type": "object",
            "required": ["summary", "source", "severity"],
            "properties": {
                "summary": {"type": "string", "minLength": 1, "maxLength": 1024},
                "source": _TEXT,
                "severity": {"enum": ["critical", "error", "warning", "info"]},
                "custom_details": {"type": "object"},
            },
        },
    },
    "if": {"properties": {"event_action": {"const": "trigger"}}},
    "then": {"required": ["payload"]},
}
PROGRAM: dict[str, Any] = {
    "type": "object",
    "required": ["version", "groupKey", "status", "receiver", "groupLabels", "commonLabels", "alerts"],
    "properties": {
        "version": {"const": "4"},
        "status": {"enum": ["firing", "resolved"]},
        "alerts": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["status", "labels", "annotations", "startsAt", "fingerprint"]},
        },
    },
}


@dataclass(frozen=True)
class Told:
    """One notification: through which door, of which alert, whether it is over, when it came, and all of it."""

    door: str
    alert: str
    resolved: bool
    at: float
    body: Any
    environment: str = ""


@dataclass
class Pager:
    """``told`` is everything that was taken, ``refused`` why something was not."""

    port: int = 0
    told: list[Told] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def first(self, alert: str, door: str, *, resolved: bool = False, after: float = 0.0) -> Told | None:
        found = (one for one in self.told if (one.alert, one.door, one.resolved) == (alert, door, resolved))
        return next((one for one in found if one.at >= after), None)

    def named(self, door: str) -> set[str]:
        return {one.alert for one in self.told if one.door == door}

    async def arrived(self, alert: str, door: str, seconds: float, *, resolved: bool = False, after: float = 0) -> Told:
        """Return a notification once it has come; fails after ``seconds``."""
        until = time.monotonic() + seconds
        while (found := self.first(alert, door, resolved=resolved, after=after)) is None:
            state = "resolved" if resolved else "firing"
            assert time.monotonic() < until, (
                f"{alert} {state} did not come to {door} within {seconds:g} s; {self.seen()}"
            )
            await asyncio.sleep(0.05)
        return found

    def seen(self) -> str:
        lately = sorted({(one.door, one.alert, "over" if one.resolved else "up") for one in self.told})
        return f"came: {lately}; refused: {self.refused}"

    async def slack(self, request: web.Request) -> web.Response:
        body = await self._read(request, SLACK)
        if body is None:
            return web.Response(status=400, text="invalid_payload")
        for attachment in body["attachments"]:
            runbook = attachment["title_link"]
            self._take("slack", runbook, attachment["title"].startswith("[RESOLVED]"), body)
        return web.Response(text="ok")

    async def pagerduty(self, request: web.Request) -> web.Response:
        body = await self._read(request, PAGERDUTY)
        if body is None or body["routing_key"] != ROUTING_KEY:
            return web.json_response({"status": "invalid event", "errors": self.refused[-1:]}, status=400)
        runbook = (body.get("links") or [{"href": ""}])[0]["href"]
        self._take("pagerduty", runbook, body["event_action"] == "resolve", body)
        said = {"status": "success", "message": "Event processed", "dedup_key": body["dedup_key"]}
        return web.json_response(said, status=202)

    async def program(self, request: web.Request) -> web.Response:
        body = await self._read(request, PROGRAM)
        if body is None:
            return web.Response(status=400)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refused.append("program: no token")
            return web.Response(status=401)
        for alert in body["alerts"]:
            runbook = alert["annotations"]["runbook_url"]
            where = alert["labels"].get("environment", "")
            door = request.path.strip("/")
            self._take(door, runbook, alert["status"] == "resolved", alert, where)
        return web.Response()

    def _take(self, door: str, runbook: str, resolved: bool, body: Any, environment: str = "") -> None:
        name = runbook.rpartition("/")[2].removesuffix(".md")
        self.told.append(Told(door, name, resolved, time.monotonic(), body, environment))

    async def _read(self, request: web.Request, schema: dict[str, Any]) -> Any:
        body = json.loads(await request.read())
        try:
            jsonschema.validate(body, schema)
        except jsonschema.ValidationError as error:
            self.refused.append(f"{request.path}: {error.message} at {error.json_path}")
            return None
        return body


@asynccontextmanager
async def open_pager() -> AsyncIterator[Pager]:
    """Serve until the block ends."""
    pager = Pager()
    app = web.Application()
    app.router.add_post("/slack", pager.slack)
    app.router.add_post("/v2/enqueue", pager.pagerduty)
    app.router.add_post("/program", pager.program)
    app.router.add_post("/heartbeat", pager.program)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pager.port = runner.addresses[0][1]
        yield pager
    finally:
        await runner.cleanup()
