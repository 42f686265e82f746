"""What is kept of questions and answers, and what never leaves: digests, sealed texts, redaction at the one door."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from relay.core.canonical import canonical_json
from relay.core.clock import DAY, now
from relay.core.problem import ModelUnavailable
from relay.crypto.digest import sha256_hex
from relay.llm.messages import (
    Function,
    FunctionCall,
    FunctionResult,
    Image,
    Instruction,
    ModelMessage,
    Question,
    UserMessage,
)
from relay.llm.records import ANSWER, QUESTION, question_form
from relay.llm.redacting import redacted
from relay.store.retention import Purge
from relay.store.tables import envelopes
from relay.store.target import Target
from relay.store.writer import StoreUnavailable
from tests.model_server import MODEL, PRICES, call, fail, open_model_server, say
from tests.models_kit import SEND, Asker, open_models, payer, question

SECRET = "sk-" + "S3cr3t" * 6
TALK = Question(
    (
        Instruction(f"instruction {SECRET}"),
        UserMessage(f"user {SECRET}", (Image("image/png", b"picture"),)),
        ModelMessage(f"model {SECRET}", (FunctionCall("c1", "f", f'{{"api_key": "{SECRET}"}}'),)),
        FunctionResult("c1", "f", f'{{"password": "{SECRET}"}}'),
        UserMessage("and now?"),
    ),
    (Function("f", f"description {SECRET}", {"type": "object", "properties": {}}),),
)


async def kept(asker: Asker, event_id: str) -> dict[str, bytes | None]:
    return {
        purpose: await asker.vault.open(workspace="default", purpose=purpose, record_id=event_id)
        for purpose in (QUESTION, ANSWER)
    }


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_no_secret_reaches_a_model_nor_what_is_kept(
    sqlite_target: Target, tmp_path: Path, streamed: bool
) -> None:
    async with (
        open_model_server() as server,
        open_models(sqlite_target, tmp_path, server, AI_RECORD="true") as asker,
    ):
        server.reply(say("ok"))
        await asker.ask(TALK, streamed=streamed)
        sent = server.asked[0].raw.decode()
        assert SECRET not in sent and "S3cr3tS3cr3t" not in sent
        for words in ("instruction ", "user ", "model ", "description ", "and now?"):
            assert words in sent
        (row,) = await asker.events()
        question_kept = (await kept(asker, row.id))[QUESTION]
        assert question_kept is not None and SECRET.encode() not in question_kept
        assert b"picture" not in question_kept and sha256_hex(b"picture").encode() in question_kept


async def test_each_question_leaves_digests_and_what_it_took(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(target, tmp_path, server, AI_PRICES=PRICES) as asker:
        server.reply(say("ok", call("email_send", {"to": "x"}, id="c1"), usage=(10, 2)), fail(500))
        asked = question("Hello", SEND)
        await asker.ask(asked, payer(session="d" * 64))
        with pytest.raises(ModelUnavailable):
            await asker.ask(asked, payer())
        answered, failed = await asker.events()
        assert (answered.outcome, answered.target, answered.principal) == ("answered", MODEL, "key_1")
        assert answered.request_id == "req_test_0001" and answered.workspace_id == "default"
        assert answered.digest == failed.digest == sha256_hex(canonical_json(question_form(redacted(asked))))
        details = await asker.details(answered.id)
        answer = {"text": "ok", "calls": [{"id": "c1", "name": "email.send", "arguments": '{"to": "x"}'}]}
        assert details == {
            "purpose": "chat",
            "model": MODEL,
            "answer_digest": sha256_hex(canonical_json(answer)),
            "input_tokens": 10,
            "output_tokens": 2,
            "cost_billionths": 30_000,
            "estimated": False,
            "session": "d" * 64,
        }
        assert failed.outcome == "failed" and (await asker.details(failed.id))["reason"] == "failing"
        assert await kept(asker, answered.id) == {QUESTION: None, ANSWER: None}


async def test_with_the_setting_both_are_kept_sealed_for_their_time(target: Target, tmp_path: Path) -> None:
    more = {"AI_RECORD": "true", "RETENTION_DAYS": "3"}
    async with open_model_server() as server, open_models(target, tmp_path, server, **more) as asker:
        server.reply(say("a very particular answer"))
        await asker.ask("a very particular question")
        (row,) = await asker.events()
        found = {purpose: json.loads(body or b"") for purpose, body in (await kept(asker, row.id)).items()}
        assert found[QUESTION]["messages"][1]["text"] == "a very particular question"
        assert found[ANSWER] == {"text": "a very particular answer", "calls": []}
        at_rest = await asker.database.reader.all(select(envelopes))
        assert all(b"particular" not in one.body for one in at_rest)
        await Purge(asker.database.writer).once(now() + 3 * DAY + 1)
        assert await kept(asker, row.id) == {QUESTION: None, ANSWER: None}
        assert len(await asker.events()) == 1


async def test_an_answer_that_cannot_be_recorded_is_not_given(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server) as asker:
        server.script = lambda _: say("ok")

        def refuses(tx: object) -> None:
            raise StoreUnavailable("the disk is full")

        asker.database.writer.before = refuses
        for streamed in (False, True):
            with pytest.raises(StoreUnavailable):
                await asker.ask(streamed=streamed)
        asker.database.writer.before = None
        assert (await asker.ask()).text == "ok"
