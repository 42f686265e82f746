"""``relay question`` beside a running server: the operator reads what a model was asked, and the trail says so."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.model_server import FREE, MODEL, ModelServer, open_model_server, say
from tests.process import Client, GatewayProcess, gateway_process

EVIL = "first\nsecond \x1b]0;owned\x07 \u202egnp"


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with open_model_server() as server:
        server.script = lambda _: say(EVIL)
        yield server


@pytest.fixture
async def gateway(tmp_path: Path, model: ModelServer) -> AsyncIterator[GatewayProcess]:
    env = {**model.settings, "AI_PRICES": FREE, "AI_RECORD": "true"}
    async with gateway_process(tmp_path / "home", env=env) as process:
        yield process


async def test_an_operator_reads_a_question_and_the_workspace_sees_it(gateway: GatewayProcess) -> None:
    empty = await gateway.command("question", "list")
    assert (empty.returncode, empty.stdout) == (0, "") and "AI_RECORD" in empty.stderr
    assert gateway.first_key is not None
    async with Client(gateway, gateway.first_key) as client:
        planned = await client.post("/ai/plan", {"prompt": "a very particular prompt"})
        assert planned.status == 200, planned.body
        listed = await gateway.command("question", "list", "--json")
        (item,) = json.loads(listed.stdout)["items"]
        assert (item["model"], item["purpose"], item["outcome"]) == (MODEL, "plan", "answered")
        assert item["request_id"] == planned.headers["x-request-id"]
        table = await gateway.command("question", "list")
        assert table.stdout.splitlines()[1].startswith(item["id"] + "\t")

        short = await gateway.command("question", "show", item["id"])
        assert short.returncode == 0 and "particular" not in short.stdout and "second" not in short.stdout
        assert (
            "digests\tthose of the audit trail\n" in short.stdout
            and "3 answer\n  " in short.stdout
            and " characters" in short.stdout
        )
        whole = await gateway.command("question", "show", item["id"], "--texts", "--reason", "ticket 7")
        assert whole.returncode == 0 and "a very particular prompt" in whole.stdout
        assert "  first\n  second \\u001b]0;owned\\u0007 \\u202egnp\n" in whole.stdout
        assert "\x1b" not in whole.stdout and "\u202e" not in whole.stdout
        as_json = await gateway.command("question", "show", item["id"], "--texts", "--json")
        assert as_json.stdout.isascii() and json.loads(as_json.stdout)["answer"]["text"] == EVIL

        seen = (await client.get("/audit?tag=llm:question:read")).body["items"]
        assert [(one["target"], one["outcome"]) for one in seen] == [
            (item["id"], "texts"),
            (item["id"], "texts"),
            (item["id"], "lengths"),
        ]
        assert [one["details"] for one in seen] == [None, {"reason": "ticket 7"}, None]
    assert (await gateway.command("audit", "verify")).returncode == 0


async def test_wrong_questions_get_one_line(gateway: GatewayProcess) -> None:
    for status, words in (
        (1, ("question", "show", "aud_00000000000000000000000000000000")),
        (2, ("question", "show", "x", "--reason", "")),
        (2, ("question", "show", "aud_\udcff")),
        (2, ("question", "list", "--principal", "a\nb")),
        (2, ("question", "list", "--workspace", "")),
        (2, ("question", "list", "--workspace", "\udcff")),
    ):
        ran = await gateway.command(*words)
        assert (ran.returncode, ran.stdout) == (status, "") and "Traceback" not in ran.stderr
    nowhere = await gateway.command("question", "list", "--workspace", "nope", "--json")
    assert (nowhere.returncode, nowhere.stdout, nowhere.stderr) == (1, "", "there is no workspace nope\n")
    here = await gateway.command("question", "list", "--workspace", "default")
    assert (here.returncode, here.stdout) == (0, "") and here.stderr.startswith("no question is kept")
