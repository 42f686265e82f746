"""nginx and Caddy as they are shipped in ``deploy/``, in a process of their own, with nothing replaced but places.

Places are ports, addresses to listen on, files of the certificate and folders. The host name stays: clients here find
``relay.example.com`` on loopback.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.left_out import SYSTEM_PATH
from tests.outside import Certificate

DEPLOY = Path(__file__).parents[1] / "deploy"
HOST = "relay.example.com"
START_SECONDS = 15.0
STOP_SECONDS = 10.0

# Like Debian's: what the shipped file has to overrule is set the wrong way here.
NGINX_MAIN = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/main-error.log warn;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    access_log {folder}/main-access.log;
    gzip on;
    gzip_types application/json text/event-stream;
    include {folder}/relay.conf;
}}
"""


@dataclass
class Ports:
    """Where the proxy listens. They are free when they are chosen, and asked for at once."""

    plain: int
    tls: int

    @classmethod
    def free(cls) -> "Ports":
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            return cls(first.getsockname()[1], second.getsockname()[1])


def replaced(text: str, places: Mapping[str, str]) -> str:
    """Return ``text`` with every place replaced; each must stand there, or the shipped file is not what is tested."""
    for place in places:
        assert place in text, place
    one_of = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    return re.sub(one_of, lambda match: places[match[0]], text)


def nginx_command(folder: Path, ports: Ports, upstream: int, certificate: Certificate) -> list[str]:
    """Write nginx's configuration into ``folder`` and return the command that serves it."""
    places = {
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{upstream};",
        "listen 80": f"listen 127.0.0.1:{ports.plain}",
        "listen 443": f"listen 127.0.0.1:{ports.tls}",
        # Not every machine has IPv6.
        "listen [::]:80": f"listen 127.0.0.2:{ports.plain}",
        "listen [::]:443": f"listen 127.0.0.2:{ports.tls}",
        f"https://{HOST}": f"https://{HOST}:{ports.tls}",
        "/etc/ssl/relay/fullchain.pem;": f"{certificate.cert};",
        "/etc/ssl/relay/privkey.pem;": f"{certificate.key};",
        "/var/log/nginx/": f"{folder}/",
        "/var/www/acme": f"{folder}/acme",
    }
    (folder / "relay.conf").write_text(replaced((DEPLOY / "nginx/relay.conf").read_text(), places))
    main = folder / "nginx.conf"
    main.write_text(NGINX_MAIN.format(folder=folder))
    command = [_found("nginx"), "-p", str(folder), "-c", str(main), "-e", str(folder / "main-error.log")]
    # As root, nginx gives its workers to another user, who cannot get into the test's folder.
    return [*command, "-g", "user root;"] if os.geteuid() == 0 else command


def caddy_command(folder: Path, ports: Ports, upstream: int, certificate: Certificate) -> list[str]:
    """Write Caddy's configuration into ``folder`` and return the command that serves it."""
    places = {
        "reverse_proxy 127.0.0.1:8000": f"reverse_proxy 127.0.0.1:{upstream}",
        f"https://{HOST}": f"https://{HOST}:{ports.tls}",
        f"http://{HOST}": f"http://{HOST}:{ports.plain}",
        "\nhttp:// {": f"\nhttp://:{ports.plain} {{",
        "# tls /etc/ssl/relay/fullchain.pem /etc/ssl/relay/privkey.pem": f"tls {certificate.cert} {certificate.key}",
        "admin off\n": f"admin off\ndefault_bind 127.0.0.1\nhttp_port {ports.plain}\nhttps_port {ports.tls}\n",
    }
    made = folder / "Caddyfile"
    made.write_text(replaced((DEPLOY / "caddy/Caddyfile").read_text(), places))
    return [_found("caddy"), "run", "--config", str(made), "--adapter", "caddyfile"]


COMMANDS = {"nginx": nginx_command, "caddy": caddy_command}


def _found(command: str) -> str:
    found = shutil.which(command, path=SYSTEM_PATH)
    assert found is not None, command
    return found


@dataclass
class Proxy:
    """A running proxy. ``folder`` holds everything that it writes."""

    kind: str
    ports: Ports
    folder: Path
    certificate: Certificate

    @property
    def authority(self) -> str:
        return f"{HOST}:{self.ports.tls}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}"

    def written(self) -> str:
        """Return everything that the proxy has logged and kept."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name not in ("key.pem", "cert.pem")]
        return "\n".join(path.read_bytes().decode(errors="replace") for path in files)

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate.cert))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection on which TLS is spoken."""
        return await asyncio.open_connection("127.0.0.1", self.ports.tls, ssl=self.trusting(), server_hostname=HOST)

    def session(self, *, key: str | None = None, address: str = "127.0.0.1") -> aiohttp.ClientSession:
        """Return a client that trusts the certificate, finds every name on loopback and comes from ``address``."""
        connector = aiohttp.TCPConnector(
            ssl=self.trusting(), resolver=_Loopback(), local_addr=(address, 0), force_close=True
        )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return aiohttp.ClientSession(connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=30))


class _Loopback(AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0),
        ]

    async def close(self) -> None:
        return None


def _spawn(kind: str, folder: Path, ports: Ports, upstream: int, certificate: Certificate) -> subprocess.Popen[bytes]:
    folder.mkdir()
    command = COMMANDS[kind](folder, ports, upstream, certificate)
    env = {"HOME": str(folder), "PATH": SYSTEM_PATH, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "out").open("wb") as out:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)


def _said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in (folder / "out", *folder.glob("*.log")))


@asynccontextmanager
async def proxy(kind: str, folder: Path, ports: Ports, upstream: int, certificate: Certificate) -> AsyncIterator[Proxy]:
    """Serve ``deploy/``'s configuration of ``kind`` in front of a Relay on port ``upstream``."""
    process = _spawn(kind, folder, ports, upstream, certificate)
    try:
        await _listening(process, ports, folder)
        yield Proxy(kind, ports, folder, certificate)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _listening(process: subprocess.Popen[bytes], ports: Ports, folder: Path) -> None:
    until = time.monotonic() + START_SECONDS
    for port in (ports.plain, ports.tls):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                running = process.poll() is None and time.monotonic() < until
                assert running, _said(folder)
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
