"""Secrets of every kind are put into a real server; it is driven through success, every class of error and a crash at
the most talkative log level; then they are looked for wherever somebody might read."""

import asyncio
import base64
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.crypto.api_key import new_api_key
from relay.settings.secret_text import generate_kek, generate_secret_key, generate_webhook_secret
from relay.store.target import Target
from tests.e2e.canary_kit import Hunt, broken, canary
from tests.model_server import Asked, ModelServer, Reply, call, open_model_server, say
from tests.outside import HttpServer, answer, http_server
from tests.process import Client, GatewayProcess, eventually, gateway_process

JSON = {"Content-Type": "application/json"}
SHOWN = frozenset(
    {
        # A problem names the path it is about, to who asked for it.
        ("path", "answers"),
        ("unknown path", "answers"),
        # A plan repeats what it was asked, a 422 points at the field that was sent, to who sent it.
        ("a prompt", "answers"),
        ("name of a field", "answers"),
        # A session shows its owner what was said in it and what its calls returned.
        ("key in a message", "answers"),
        ("word in a message", "answers"),
        # What has not the form of a secret is what a model is asked.
        ("word in a message", "model"),
        ("a prompt", "model"),
        ("key in a result", "answers"),
        ("session", "answers"),
        ("id of a session", "answers"),
        # Where an endpoint's deliveries go is shown to those who manage webhooks.
        ("path of an endpoint", "answers"),
        ("query of an endpoint", "answers"),
    }
)


@pytest.fixture
async def world() -> AsyncIterator[HttpServer]:
    async with http_server(answer("HTTP/1.1 204 No Content\r\n\r\n")) as server:
        yield server


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A model that looks whatever it is told to look at up, and repeats what it has found."""

    def script(asked: Asked) -> Reply:
        if asked.results:
            return say(f"It says {[*asked.results.values()][-1]}"[:2_000])
        if url := re.search(r"look at (http://\S+)", asked.said):
            return say("I look.", call("http-request", {"method": "GET", "url": url[1]}))
        return say(f"You said {asked.said}"[:2_000])

    async with open_model_server(script, key=canary("sk-proj-")) as server:
        yield server


def files_for(folder: Path, secrets: dict[str, str]) -> dict[str, str]:
    """Write each secret into a file of its own; return the settings that name them."""
    folder.mkdir(mode=0o700)
    for name, text in secrets.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return {f"{name}_FILE": str(folder / name) for name in secrets}


def settings_of(hunt: Hunt, folder: Path, model: ModelServer, **more: str) -> dict[str, str]:
    made = {
        "OPENAI_API_KEY": model.settings["OPENAI_API_KEY"],
        "CHAT_API_KEY": canary(),
        "SECRET_KEY": generate_secret_key(),
        "OAUTH_ENCRYPTION_KEY": generate_kek(),
        "WEBHOOK_SIGNING_SECRET": generate_webhook_secret(),
        "METRICS_TOKEN": canary(),
        "SMTP_URL": f"smtp://relay:{hunt.put('SMTP password')}@127.0.0.1:9",
    }
    hunt.secrets |= {name: text.removeprefix("whsec_") for name, text in made.items() if name != "SMTP_URL"}
    return {
        **files_for(folder, {**made, **more}),
        **{name: value for name, value in model.settings.items() if name != "OPENAI_API_KEY"},
        "AI_RECORD": "true",
        "CHAT_SCOPES": "chat actions:preview actions:execute",
        "SMTP_FROM": "relay@example.com",
        "LOG_LEVEL": "debug",
        "METRICS_TOKEN_FILE": str(folder / "METRICS_TOKEN"),
    }


class Driver:
    """Puts secrets into every door and keeps all that comes back."""

    def __init__(
        self, hunt: Hunt, gateway: GatewayProcess, client: Client, world: HttpServer, model: ModelServer
    ) -> None:
        self.hunt, self.gateway, self.client, self.world, self.model = hunt, gateway, client, world, model

    async def send(self, method: str, path: str, *, status: set[int], data: Any = None, **headers: str) -> Any:
        """Send one request as it is; keep the whole answer; return its JSON."""
        given = {"Authorization": f"Bearer {self.gateway.first_key}", **JSON, **headers}
        sent = {name: value for name, value in given.items() if value}
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.gateway.url + path, data=body, headers=sent) as came,
        ):
            text = await came.read()
            self.hunt.saw("answers", text + repr(came.headers).encode())
            assert came.status in status, (came.status, text)
        return json.loads(text) if text and came.content_type.endswith("json") else None

    async def succeed(self) -> None:
        """Actions, plans, runs, keys and endpoints that work, each with something secret in it."""
        put, send, url = self.hunt.put, self.send, self.world.url
        request = {
            "method": "POST",
            "url": url + "/",
            "headers": {"Authorization": f"Bearer {put('header of an action')}"},
            "body": put("body of an action"),
        }
        await send("POST", "/actions/execute", data={"action": "http.request", "params": request}, status={200})
        saved = {"url": url + "/hook", "payload": {"token": put("payload of a webhook")}}
        await send("POST", "/actions/execute", data={"action": "webhook.save", "params": saved}, status={200, 422})
        echo = {"action": "relay.echo", "params": {"message": "fine"}}
        await send("POST", "/ai/execute", data={"steps": [echo]}, status={202})
        await send("POST", "/ai/plan", data={"prompt": f"what is {put('a prompt')}"}, status={200})
        endpoint = {"url": f"{url}/{put('path of an endpoint')}?t={put('query of an endpoint')}", "events": ["*"]}
        made = await self.client.post("/webhooks/endpoints", endpoint)
        assert made.status == 201, made.body
        self.hunt.secrets["secret of an endpoint"] = made.body["secret"].removeprefix("whsec_")
        receiver = await self.client.post("/webhooks/receivers", {"scheme": "standard"})
        self.hunt.secrets["secret of a receiver"] = receiver.body["secret"].removeprefix("whsec_")
        key = (await self.client.post("/keys", {"kind": "agent", "scopes": ["actions:preview"]})).body
        self.hunt.secrets["API key"] = key["key"]
        await send("GET", "/actions", status={200}, Authorization=f"Bearer {key['key']}")

    async def talk(self) -> None:
        """Secrets in what is said, in what an action returns to a conversation, and in what a plan is given to know."""
        put, send = self.hunt.put, self.send
        message = f"Mind {put('word in a message')} and my key {put('key in a message', 'sk-proj-')}."
        begun = await send("POST", "/chat/", data={"message": message}, status={200})
        assert begun["status"] == "done" and "You said" in begun["message"]
        self.hunt.secrets["session"] = begun["session_id"]
        session = f"/chat/sessions/{begun['session_id']}"
        leak = self.hunt.secrets["key in a result"] = canary("ghp_")
        async with http_server(answer(f"HTTP/1.1 200 OK\r\nContent-Length: {len(leak)}\r\n\r\n{leak}")) as found:
            look = {"message": f"Please look at {found.url}/page", "session_id": begun["session_id"]}
            turn = await send("POST", "/chat/", data=look, status={200})
        [made] = turn["tool_calls"]
        assert made["status"] == "succeeded" and made["untrusted"] is True, made
        context = {"note": f"token: {put('secret in a context', 'xoxb-')}"}
        await send("POST", "/ai/plan", data={"prompt": "look at the note", "context": context}, status={200, 422})
        await send("GET", session, status={200})
        await send("GET", "/chat/sessions/" + put("id of a session"), status={404})
        key = {"X-API-Key": self.hunt.secrets["CHAT_API_KEY"], "Authorization": ""}
        await send("POST", "/chat/", data={"message": "Hello"}, status={200}, **key)
        await send(
            "POST", "/chat/", data={"message": "Hello"}, status={401}, **{**key, "X-API-Key": put("bad chat key")}
        )
        await send("GET", "/actions", status={401, 403}, **key)
        hidden = {"message": f"x\u202e{put('message that is refused')}"}
        await send("POST", "/chat/", data=hidden, status={422})
        spoilt = {
            "message": "Hello",
            "attachments": [{"data": put("attachment that is none"), "media_type": "image/png"}],
        }
        await send("POST", "/chat/", data=spoilt, status={422})
        assert len(self.model.asked) >= 4 and self.model.refused == 0

    async def fail(self) -> None:
        """Each class of error, with a secret where it may be repeated."""
        put, send = self.hunt.put, self.send
        for name, value in {
            "revoked key": new_api_key("live"),
            "password as a credential": canary(),
            "OpenAI key as a credential": canary("sk-proj-"),
        }.items():
            self.hunt.secrets[name] = value
            await send("GET", "/actions", status={401}, Authorization=f"Bearer {value}")
            await send("GET", "/actions", status={401}, Authorization="", **{"X-API-Key": value})
        await send("GET", "/actions", status={400, 401}, Authorization=f"Basic {put('basic credential')}")
        await send("GET", f"/attempts/{put('path')}", status={404})
        await send("GET", f"/audit?limit=1&token={put('query')}", status={200, 422})
        await send("GET", f"/{put('unknown path')}", status={404})
        await send("TRACE", "/actions", status={400, 405, 501}, **{"X-Secret": put("header")})
        await send(
            "POST", "/actions/preview", data=put("text body").encode(), status={415}, **{"Content-Type": "text/plain"}
        )
        broken_json = b'{"action": "relay.echo", "params": {"message": "' + put("broken JSON").encode()
        await send("POST", "/actions/preview", data=broken_json, status={400, 422})
        unknown = {"action": put("action name"), "params": {"a": put("parameter of an unknown action")}}
        await send("POST", "/actions/preview", data=unknown, status={404, 422})
        wrong = {"action": "http.request", "params": {"url": [put("value of a wrong type")], put("name of a field"): 1}}
        await send("POST", "/actions/preview", data=wrong, status={422})
        large = put("oversize body").encode() + b"x" * 700_000
        await send("POST", "/ai/plan", data=large, status={413})
        mail = {"to": ["you@example.com"], "subject": put("subject"), "text": put("text of a mail")}
        await send(
            "POST", "/actions/execute", data={"action": "email.send", "params": mail}, status={200, 202, 502, 504}
        )
        refused = {"method": "GET", "url": f"http://169.254.169.254/{put('refused URL')}"}
        await send("POST", "/actions/execute", data={"action": "http.request", "params": refused}, status={403})
        await send("POST", "/webhooks/relay", data=put("unsigned webhook").encode(), status={401})
        signed = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": f"v1,{put('signature')}"}
        await send("POST", "/webhooks/relay", data={}, status={401}, **signed)
        same = {"Idempotency-Key": put("idempotency key")}
        echo = {"action": "relay.echo", "params": {"message": "one"}}
        await send("POST", "/actions/execute", data=echo, status={200}, **same)
        await send("POST", "/actions/execute", data={**echo, "params": {"message": "two"}}, status={409}, **same)
        await send("POST", "/actions/preview", data=echo, status={421}, Host=put("host") + ".example")
        await send("POST", "/keys", data={"kind": put("kind of a key"), "scopes": ["no"]}, status={422})
        policies = {"text": f'permit (principal, action, resource) when {{ "{put("broken policy")}" }};'}
        await send("PUT", "/policies", data=policies, status={422})
        self.hunt.secrets["leaked key of nobody"] = new_api_key("live")
        await send("POST", "/keys/report-leak", data={"token": self.hunt.secrets["leaked key of nobody"]}, status={202})

    async def look(self) -> None:
        """Everything that can be asked for."""
        for path in (
            "/openapi.json",
            "/audit?limit=200",
            "/metrics",
            "/keys",
            "/webhooks/endpoints",
            "/webhooks/deliveries",
        ):
            await self.send("GET", path, status={200, 401})
        async with aiohttp.ClientSession() as session, session.get(self.gateway.url + "/metrics") as came:
            assert came.status == 200
            self.hunt.saw("metrics", await came.read())
        for command in (
            ("audit", "export"),
            ("audit", "list", "--json"),
            ("doctor", "--json"),
            ("key", "list", "--json"),
        ):
            ran = await self.gateway.command(*command)
            assert "Traceback" not in ran.stderr
            self.hunt.saw("commands", ran.stdout + ran.stderr)


async def drive(hunt: Hunt, gateway: GatewayProcess, world: HttpServer, model: ModelServer) -> Driver:
    assert gateway.first_key is not None
    hunt.secrets["first key"] = gateway.first_key
    async with gateway.client() as client:
        driver = Driver(hunt, gateway, client, world, model)
        await driver.succeed()
        await driver.talk()
        for asked in model.asked:
            headers = {name: value for name, value in asked.headers.items() if name != "authorization"}
            hunt.saw("model", asked.raw + repr((asked.path, headers)).encode())
        await driver.fail()
        hunt.look_at_processes(gateway)
        await driver.look()
    return driver


@pytest.mark.timeout(300)
async def test_no_secret_is_anywhere_it_does_not_belong_on_sqlite(
    tmp_path: Path, world: HttpServer, model: ModelServer
) -> None:
    hunt = Hunt()
    env = settings_of(hunt, tmp_path / "secrets", model) | {"EGRESS_ALLOW": "127.0.0.1"}
    async with gateway_process(tmp_path / "home", env=env) as gateway:
        driver = await drive(hunt, gateway, world, model)
        hunt.look_at_sqlite(gateway.data / "relay.db", tmp_path / "backup.db")
        broken(gateway)
        step = {"action": "relay.echo", "params": {"message": hunt.put("what broke it")}}
        await driver.send("POST", "/actions/preview", data=step, status={500, 503})

        async def told() -> bool:
            return "previews" in gateway.log

        await eventually(told)
        gateway.signal(signal.SIGABRT)
        assert await gateway.ended() == -signal.SIGABRT
        hunt.look_at_output(gateway)
        hunt.look_at_folder(gateway.data)
        (tmp_path / "secrets/SECRET_KEY").write_text(hunt.put("another SECRET_KEY"))
        (tmp_path / "secrets/OAUTH_ENCRYPTION_KEY").write_text(hunt.put("a bad OAUTH_ENCRYPTION_KEY"))
        (tmp_path / "secrets/WEBHOOK_SIGNING_SECRET").write_text(hunt.put("a bad WEBHOOK_SIGNING_SECRET", "whsec_!"))
        for command in ("serve", "doctor"):
            ran = await gateway.command(command)
            assert ran.returncode == 1
            hunt.saw("output", ran.stdout + ran.stderr)
    _judge(hunt)


@pytest.mark.timeout(300)
async def test_no_secret_is_anywhere_it_does_not_belong_with_several_processes(
    tmp_path: Path, world: HttpServer, model: ModelServer, postgres_target: Target
) -> None:
    hunt = Hunt()
    url = postgres_target.url.replace("postgresql+psycopg", "postgresql")
    env = settings_of(hunt, tmp_path / "secrets", model, DATABASE_URL=url) | {"EGRESS_ALLOW": "127.0.0.1"}
    async with gateway_process(tmp_path / "home", env=env, args=("--workers", "2")) as gateway:

        async def both() -> bool:
            return gateway.out.count("relay listens on") == 2

        await eventually(both, 60)
        gateway.read_first_key()
        await drive(hunt, gateway, world, model)
        await asyncio.to_thread(hunt.look_at_postgres, url)
        assert await gateway.stop() == 0
        hunt.look_at_output(gateway)
        hunt.look_at_folder(gateway.data)
    assert "children's environments" in hunt.seen
    _judge(hunt)


def _judge(hunt: Hunt) -> None:
    assert {"arguments", "answers", "output", "commands", "metrics", "backup", "model"} <= set(hunt.seen)
    assert hunt.found(SHOWN) == set()


def test_the_hunt_finds_what_is_there() -> None:
    hunt = Hunt()
    secret = hunt.put("one")
    for number in range(3):
        hunt.saw("somewhere", b"x" * number + secret.encode())
        assert hunt.found() == {("one", "somewhere")}
        hunt.seen.clear()
    for number in range(3):
        hunt.saw("encoded", base64.b64encode(b"x" * number + secret.encode() + b"yz"))
        assert hunt.found() == {("one", "encoded")}
        hunt.seen.clear()
    hunt.saw("hex", secret.encode().hex())
    assert hunt.found() == {("one", "hex")}
    assert hunt.found(frozenset({("one", "hex")})) == set()
