"""Every query of the dashboards, run by a real Prometheus that scrapes a Relay with something to show."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.crypto.api_key import new_api_key
from relay.store.target import Target
from scripts.dashboards import DASHBOARDS
from tests.chat_talk import HELD, MAIL, held, settled
from tests.dashboards.test_dashboards import panels
from tests.gateway import Gateway
from tests.model_server import Asked, Reply, call, open_model_server, say
from tests.process import eventually
from tests.prometheus_server import PrometheusServer, QueryFailed
from tests.receivers import open_receiver
from tests.sending_kit import act, endpoint, sending

INTERVAL = "15s"
VARIABLES = {"$job": "relay", "$instance": ".*", "$__rate_interval": INTERVAL, "$__range": "1m"}
NOTHING = {
    "Checks that fail": "shows failing checks only, and whether one fails depends on the machine",
    "Since the last verification": "empty until a process has verified the log",
}
"""Panels that may have no series, with the reason."""


def _given(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def _queries() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in DASHBOARDS:
        for panel in panels(name):
            for target in panel["targets"]:
                yield name, panel["title"], target


async def _traffic(gateway: Gateway, received: str, dead: str) -> None:
    """Do something of everything that is counted."""
    admin = gateway.admin
    await endpoint(gateway, received)
    await endpoint(gateway, dead, "action.succeeded")
    for _ in range(3):
        await act(gateway)
    missing = {"action": "http.request", "params": {"method": "GET", "url": "http://192.0.2.1/"}}
    assert (await gateway.post("/actions/execute", missing, key=admin)).status == 403
    agent = await gateway.key("developer")
    asked = {"action": "email.send", "params": {"to": ["a@example.com"], "subject": "s", "text": "b"}}
    (await gateway.post("/actions/execute", asked, key=agent)).expect(202)
    plan = (await gateway.post("/ai/plan", {"prompt": 'echo "hello"'}, key=admin)).json
    assert plan
    run = {"steps": [{"action": "relay.echo", "params": {"message": "hi"}}]}
    (await gateway.post("/ai/execute", run, key=admin)).expect(202)
    await _conversation(gateway)
    (await gateway.get("/keys", key=new_api_key("test"))).expect(401)
    (await gateway.get("/keys", key=agent)).expect(403)
    (await gateway.call("POST", "/webhooks/relay", data=b"{}")).expect(401)


async def _conversation(gateway: Gateway) -> None:
    """Have a call of a conversation approved, so that it waits and goes on."""
    agent = await gateway.key(*HELD)
    session, call = await held(gateway, agent)
    path = f"/chat/sessions/{session}/calls/{call['id']}/approve"
    (await gateway.post(path, {"digest": call["digest"]}, key=gateway.admin)).expect(200)
    await settled(gateway, agent, session)


@asynccontextmanager
async def _busy(gateway: Gateway, received: str, dead: str) -> AsyncIterator[None]:
    """Keep the traffic up until the block ends."""

    async def for_ever() -> None:
        while True:
            await act(gateway)
            await asyncio.sleep(0.1)

    await _traffic(gateway, received, dead)
    task = asyncio.create_task(for_ever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _script(asked: Asked) -> Reply:
    """Have a mail sent when a conversation asks for one; whatever else is asked has an answer, too."""
    if asked.said == MAIL and not asked.results:
        mail = {"to": ["ada@example.com"], "subject": "Lunch", "text": "See you at noon"}
        return say("I send it.", call("email-send", mail))
    return say("Done.")


async def test_every_query_has_something_to_show(
    sqlite_target: Target, tmp_path: Path, debian: Callable[[str, str], None]
) -> None:
    debian("prometheus", "prometheus")
    async with (
        open_receiver() as receiver,
        open_model_server(_script) as model,
        sending(sqlite_target, tmp_path, RATE_LIMIT_PLAN_PER_MINUTE="10", **model.settings) as gateway,
        _busy(gateway, receiver.url, "http://127.0.0.1:9/"),
    ):
        targets = [{"job_name": "relay", "static_configs": [{"targets": [f"127.0.0.1:{gateway.port}"]}]}]
        server = await asyncio.to_thread(PrometheusServer(tmp_path, targets).start)
        try:
            await _shows(server, 'sum(rate(relay_attempts_total{outcome="succeeded"}[15s])) > 0')
            await _traffic(gateway, receiver.url, "http://127.0.0.1:9/")
            await _shows(server, "sum(rate(relay_runs_ended_total[15s])) > 0")
            await _shows(server, "sum(rate(relay_chat_wait_seconds_count[15s])) > 0")
            wrong = await asyncio.to_thread(_wrong, server)
        finally:
            await asyncio.to_thread(server.stop)
    assert wrong == []


async def _shows(server: PrometheusServer, expression: str) -> None:
    await eventually(lambda: asyncio.to_thread(server.query, expression), seconds=60)


def _wrong(server: PrometheusServer) -> list[str]:
    """Return what is wrong with any query: that it does not parse, or shows nothing."""
    found = []
    for name, title, target in _queries():
        expression = _given(target["expr"])
        try:
            series = server.query(expression) if target["instant"] else server.range(expression, seconds=10)
        except QueryFailed as error:
            found.append(f"{name} / {title}: {error}: {expression}")
            continue
        if not series and title not in NOTHING:
            found.append(f"{name} / {title}: no series: {expression}")
        elif not any(map(_has_number, series)) and title not in NOTHING:
            found.append(f"{name} / {title}: no number: {expression}")
    return found


def _has_number(series: dict[str, Any]) -> bool:
    values = series.get("values") or [series["value"]]
    return any(math.isfinite(float(value)) for _, value in values)


def test_the_exceptions_are_panels_that_exist() -> None:
    titles = {title for _, title, _ in _queries()}
    assert NOTHING.keys() <= titles


def test_a_query_that_is_none_is_refused(tmp_path: Path, debian: Callable[[str, str], None]) -> None:
    debian("prometheus", "prometheus")
    with PrometheusServer(tmp_path, []) as server, pytest.raises(QueryFailed, match="parse error"):
        server.query("sum(rate(relay_attempts_total[15s])")
