"""Prometheus and Alertmanager from Debian as `deploy/` configures them, in processes of their own on loopback.

Replaced are places (addresses, files) and how long things take; the rules come from the shipped templates.
"""

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from scripts import alerts
from tests.left_out import SYSTEM_PATH
from tests.monitoring_kit import ALERTMANAGER, PROMETHEUS, load
from tests.pager import ROUTING_KEY, TOKEN, Pager

START_SECONDS = 40.0
SCRAPE_SECONDS = 2
GROUP_WAIT_SECONDS = 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Monitors:
    """Both of them, running, with the client that asks them."""

    prometheus: str
    alertmanager: str
    session: aiohttp.ClientSession
    folder: Path

    async def query(self, text: str) -> list[Any]:
        """Return what a query finds; fails when Prometheus refuses it."""
        async with self.session.get(f"{self.prometheus}/api/v1/query", params={"query": text}) as answer:
            body = await answer.json()
            assert answer.status == 200 and body["status"] == "success", f"{text}: {body}"
            found: list[Any] = body["data"]["result"]
            return found

    async def rules(self) -> list[Any]:
        async with self.session.get(f"{self.prometheus}/api/v1/rules") as answer:
            groups = (await answer.json())["data"]["groups"]
            return [rule for group in groups for rule in group["rules"]]


def prometheus_config(folder: Path, values: Mapping[str, str], targets: Mapping[str, list[str]], port: int) -> Path:
    """Write rules and configuration; ``targets`` are those of each job, jobs without any are left out."""
    (folder / "rules").mkdir()
    for name, text in alerts.render(values).items():
        (folder / "rules" / name).write_text(text)
    config = load(PROMETHEUS / "prometheus.yml")
    every = f"{SCRAPE_SECONDS}s"
    config["global"] |= {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    for job in config["scrape_configs"]:
        job["authorization"]["credentials_file"] = str(folder / "metrics-token")
        job["static_configs"][0]["targets"] = targets[job["job_name"]]
    made = folder / "prometheus.yml"
    made.write_text(yaml.safe_dump(config))
    return made


def alertmanager_config(folder: Path, pager: Pager, mail: int) -> Path:
    """Write the configuration with quick routes that lead to the pager, and mail to an SMTP server without TLS."""
    credentials = folder / "credentials"
    credentials.mkdir()
    (credentials / "slack-url").write_text(f"{pager.url}/slack")
    (credentials / "pagerduty-routing-key").write_text(ROUTING_KEY)
    (credentials / "webhook-token").write_text(TOKEN)
    (credentials / "smtp-password").write_text("unused")
    text = (ALERTMANAGER / "alertmanager.yml").read_text()
    for place, by in {
        "/etc/prometheus/credentials": str(credentials),
        "https://events.example.com/alertmanager": f"{pager.url}/program",
        "https://heartbeat.example.com/relay": f"{pager.url}/heartbeat",
    }.items():
        assert place in text
        text = text.replace(place, by)
    config = yaml.safe_load(text)
    config["global"]["pagerduty_url"] = f"{pager.url}/v2/enqueue"
    config["global"] |= {"smtp_smarthost": f"127.0.0.1:{mail}", "smtp_require_tls": False}
    for name in ("smtp_auth_username", "smtp_auth_password_file"):  # never sent without TLS
        del config["global"][name]
    _hasten(config["route"])
    shutil.copy(ALERTMANAGER / "relay.tmpl", folder)
    made = folder / "alertmanager.yml"
    made.write_text(yaml.safe_dump(config))
    return made


def _hasten(route: dict[str, Any]) -> None:
    for name in ("group_wait", "group_interval"):
        if name in route:
            route[name] = f"{GROUP_WAIT_SECONDS}s"
    for inner in route.get("routes", []):
        _hasten(inner)


@asynccontextmanager
async def _server(name: str, folder: Path, *arguments: str) -> AsyncIterator[None]:
    command = shutil.which(name, path=SYSTEM_PATH)
    assert command is not None, name
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([command, *arguments], cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def monitors(
    folder: Path, pager: Pager, mail: int, values: Mapping[str, str], targets: Mapping[str, list[str]], token: str
) -> AsyncIterator[Monitors]:
    """Run both until the block ends."""
    folder.mkdir()
    (folder / "metrics-token").write_text(token)
    prometheus, alertmanager = free_port(), free_port()
    config = prometheus_config(folder, values, targets, alertmanager)
    routes = alertmanager_config(folder, pager, mail)
    async with (
        _server(
            "prometheus-alertmanager", folder, f"--config.file={routes}", f"--storage.path={folder / 'am'}",
            f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address=",
        ),
        _server(
            "prometheus", folder, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        ),
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):  # fmt: skip
        running = Monitors(f"http://127.0.0.1:{prometheus}", f"http://127.0.0.1:{alertmanager}", session, folder)
        for url in (running.prometheus, running.alertmanager):
            await _ready(session, url, folder)
        yield running


async def _ready(session: aiohttp.ClientSession, url: str, folder: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            async with session.get(f"{url}/-/ready") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        said = "\n".join(file.read_text()[-3000:] for file in folder.glob("*.log"))
        assert time.monotonic() < until, re.sub(r"\n+", "\n", said)
        await asyncio.sleep(0.1)
