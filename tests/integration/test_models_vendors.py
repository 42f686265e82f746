"""Anthropic and Google over their own protocols, TLS, what the environment says, and when libraries are imported."""

import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay.core.problem import ModelUnavailable
from relay.llm.messages import FunctionCall, FunctionResult, Image, Instruction, ModelMessage, Question, UserMessage
from relay.store.target import Target
from tests.model_server import FREE, KEY, MODEL, ModelServer, call, fail, hang, open_model_server, raw, reset, say
from tests.models_kit import SEND, open_models, payer, question
from tests.outside import make_certificate

WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
VENDORS = pytest.mark.parametrize("vendor", ["anthropic", "google"])
NAMES = {"anthropic": "claude-haiku-4-5", "google": "gemini-2.5-flash"}
EVIL = "http://127.0.0.1:9/evil"
POISON = {
    "OPENAI_ORG_ID": "org-evil",
    "OPENAI_PROJECT_ID": "proj-evil",
    "OPENAI_ADMIN_KEY": "sk-admin-evil",
    "OPENAI_CUSTOM_HEADERS": "X-Evil: 1",
    "OPENAI_LOG": "debug",
    "ANTHROPIC_AUTH_TOKEN": "evil-token",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Evil: 1",
    "ANTHROPIC_LOG": "debug",
    "GEMINI_API_KEY": "AIza-evil",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "GOOGLE_CLOUD_PROJECT": "evil",
    "GOOGLE_GENAI_HTTP_CLIENT": "httpx",
    "HTTP_PROXY": EVIL,
    "HTTPS_PROXY": EVIL,
    "ALL_PROXY": EVIL,
    "http_proxy": EVIL,
    "all_proxy": EVIL,
    "LOGFIRE_TOKEN": "evil",
    "OTEL_EXPORTER_OTLP_ENDPOINT": EVIL,
}


def settings_of(vendor: str, server: ModelServer, **more: str) -> dict[str, str]:
    """Return the settings of a model of a vendor that is the scripted server."""
    name = vendor.upper()
    none = dict.fromkeys(server.settings, "")
    model = f"{vendor}:{NAMES[vendor]}"
    return none | {"AI_MODEL": model, f"{name}_API_KEY": KEY, f"{name}_BASE_URL": server.root, **more}


@WAYS
@VENDORS
async def test_other_vendors_answer_in_the_same_words(
    sqlite_target: Target, tmp_path: Path, vendor: str, streamed: bool
) -> None:
    async with open_model_server() as server:
        server.reply(say("Sending it.", call("email_send", {"to": "ann@example.com"}, id="c1"), usage=(30, 11)))
        async with open_models(sqlite_target, tmp_path, server, **settings_of(vendor, server)) as asker:
            answer = await asker.ask(question("Send it", SEND), streamed=streamed)
            spent = (await asker.spent())[("key_1", "day")]
    assert answer.text == "Sending it."
    assert [(one.name, one.arguments.replace(" ", "")) for one in answer.calls] == [
        ("email.send", '{"to":"ann@example.com"}')
    ]
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.estimated) == (30, 11, False)
    assert answer.usage.cost == spent > 0  # by the table's price
    assert answer.model == f"{vendor}:{NAMES[vendor]}"
    asked = server.asked[0]
    assert "email_send" in str(asked.body) and "You are helpful." in str(asked.body)
    assert "authorization" not in asked.headers and asked.headers["user-agent"] == "relay"
    assert not {name for name in asked.headers if name.startswith(("x-stainless", "x-goog-api-client"))}


@WAYS
@VENDORS
async def test_other_vendors_get_whole_conversations(
    sqlite_target: Target, tmp_path: Path, vendor: str, streamed: bool
) -> None:
    picture = Image("image/png", b"\x89PNG picture")
    history = Question(
        (
            Instruction("Be brief."),
            UserMessage("What is this?", (picture,)),
            ModelMessage(
                "I look.", (FunctionCall("c1", "email.send", '{"to": "a"}'), FunctionCall("c2", "no such", "{"))
            ),
            FunctionResult("c1", "email.send", "result of one"),
            FunctionResult("c2", "no such", "result of two"),
            Instruction("Be brief still."),
            UserMessage("And now?"),
        ),
        (SEND,),
        required=True,
        max_tokens=64,
    )
    async with open_model_server() as server:
        server.reply(say("", call("email_send", {})))
        async with open_models(sqlite_target, tmp_path, server, **settings_of(vendor, server)) as asker:
            answer = await asker.ask(history, streamed=streamed)
    assert [one.name for one in answer.calls] == ["email.send"]
    sent = str(server.asked[0].body)
    for words in (
        "Be brief.",
        "Be brief still.",
        "I look.",
        "result of one",
        "result of two",
        "And now?",
        "iVBORyBwaWN0dXJl",
    ):
        assert words in sent or words.replace("iVBORyBwaWN0dXJl", "iVBOR") in sent


@WAYS
@VENDORS
@pytest.mark.parametrize("kind", ["500", "429", "401", "reset", "malformed", "hang", "nothing", "cut"])
async def test_other_vendors_misbehave_and_that_is_a_503(
    sqlite_target: Target, tmp_path: Path, vendor: str, kind: str, streamed: bool
) -> None:
    if kind == "cut":
        reply: Any = say("one two three", then="reset", after=3 if streamed else 1, piece=4)
    else:
        reply = {
            "500": fail(500),
            "429": fail(429, retry_after="1"),
            "401": fail(401),
            "reset": reset(),
            "malformed": raw(b'{"candidates": [{"content": 7}], "content": 7}'),
            "hang": hang(),
            "nothing": raw(b""),
        }[kind]
    async with open_model_server() as server:
        server.reply(reply)
        more = settings_of(vendor, server, AI_TIMEOUT_SECONDS="2" if kind == "hang" else "20")
        async with open_models(sqlite_target, tmp_path, server, **more) as asker:
            with pytest.raises(ModelUnavailable):
                await asker.ask(streamed=streamed)
        assert len(server.asked) == 1  # no library asks again by itself


@WAYS
@VENDORS
async def test_other_vendors_words_about_a_refusal_are_in_the_log(
    sqlite_target: Target, tmp_path: Path, vendor: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_model_server() as server:
        server.reply(fail(404, "no such model here"))
        async with open_models(sqlite_target, tmp_path, server, **settings_of(vendor, server)) as asker:
            with pytest.raises(ModelUnavailable):
                await asker.ask(streamed=streamed)
        assert f"(HTTP 404 from 127.0.0.1:{server.port}): no such model here" in caplog.text


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "google"])
async def test_nothing_of_the_environment_reaches_a_model(
    sqlite_target: Target,
    tmp_path: Path,
    vendor: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in POISON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"{vendor.upper()}_BASE_URL", EVIL)
    monkeypatch.setenv(f"{vendor.upper()}_API_KEY", "sk-evil-environment-key")
    caplog.set_level(0)
    async with open_model_server() as server:
        server.script = lambda _: say("ok")
        given = server.settings if vendor == "openai" else settings_of(vendor, server)
        async with open_models(sqlite_target, tmp_path, server, **given) as asker:
            for streamed in (False, True):
                assert (await asker.ask("canary-words", streamed=streamed)).text == "ok"
    for asked in server.asked:
        assert "evil" not in str(asked.headers).lower() + asked.path
        assert not {name for name in asked.headers if name.startswith(("openai-", "x-evil", "x-stainless"))}
    assert "canary-words" not in caplog.text and KEY not in caplog.text


async def test_a_service_that_wants_no_key_is_sent_none(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    async with open_model_server(key=None) as server:
        server.reply(say("ok"))
        async with open_models(sqlite_target, tmp_path, server) as asker:
            assert (await asker.ask()).text == "ok"
    assert "authorization" not in server.asked[0].headers


async def test_a_certificate_that_nobody_trusts_is_not_believed(sqlite_target: Target, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    async with open_model_server(tls=context) as server:
        server.script = lambda _: say("ok")
        assert server.url.startswith("https://")
        async with open_models(sqlite_target, tmp_path, server) as asker:
            with pytest.raises(ModelUnavailable, match="cannot be reached"):
                await asker.ask(who=payer())
    assert server.asked == []


async def test_a_redirect_is_not_followed_and_the_key_stays(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_model_server() as elsewhere:
        elsewhere.script = lambda _: say("mine now")
        for status in (301, 302, 303, 307, 308):
            server.reply(raw(b"", status=status, headers={"Location": f"{elsewhere.url}/chat/completions"}))
        async with open_models(sqlite_target, tmp_path, server) as asker:
            for streamed in (False, True, False, True, False):
                with pytest.raises(ModelUnavailable):
                    await asker.ask(streamed=streamed)
        assert elsewhere.asked == [] and elsewhere.refused == 0 and elsewhere.connections == 0


LOADED = """
import asyncio, sys
from pathlib import Path
from relay.engine import Engine
from relay.house import open_house
from relay.settings import load_settings
from relay.webhooks.schedule import Schedule

VENDORS = ("pydantic_ai", "openai", "anthropic", "google.genai", "httpx2")

async def main():
    settings = load_settings(cwd=Path(sys.argv[1]))
    async with open_house(settings) as house:
        engine = Engine(house, ("127.0.0.1", 8000), Schedule())
        built = [name for name in VENDORS if name in sys.modules]
        await engine.start(work=True)
        if engine.models._loading is not None:
            await engine.models._loading
        print(built, [name for name in VENDORS if name in sys.modules])
        await engine.stop()

asyncio.run(main())
"""


@pytest.mark.parametrize("model", [None, MODEL])
def test_without_a_model_no_vendor_is_imported_and_with_one_after_the_start(tmp_path: Path, model: str | None) -> None:
    given = {"RELAY_ENV": "test", "RELAY_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"}
    if model is not None:
        given |= {"AI_MODEL": model, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "AI_PRICES": FREE}
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path)],
        env=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    loaded = [] if model is None else ["pydantic_ai", "openai", "httpx2"]
    assert ran.stdout.strip().splitlines()[-1] == f"[] {loaded}"
