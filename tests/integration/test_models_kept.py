"""Reading back what was kept of questions: with lengths or texts, and never without a trace."""

import json
from pathlib import Path

import pytest
from sqlalchemy import bindparam, select, update

from relay.audit.log import AuditLog
from relay.audit.tags import TAGS
from relay.core.clock import DAY, now
from relay.core.problem import ModelUnavailable
from relay.llm.kept import Kept, KeptQuestions, NotKept, Reading
from relay.llm.messages import FunctionCall, FunctionResult, Image, Instruction, ModelMessage, Question, UserMessage
from relay.store.query import Query
from relay.store.retention import Purge
from relay.store.tables import audit_events
from relay.store.target import Target
from relay.store.writer import StoreUnavailable
from tests.model_server import call, fail, open_model_server, say
from tests.models_kit import SEND, Asker, open_models, payer, question

TALK = Question(
    (
        Instruction("instruction-text"),
        UserMessage("user-text", (Image("image/png", b"picture"),)),
        ModelMessage("model-text", (FunctionCall("c1", "email.send", '{"to": "argument-text"}'),)),
        FunctionResult("c1", "email.send", "result-text"),
    ),
    (SEND,),
)
KEPT = {"AI_RECORD": "true"}


def kept(asker: Asker) -> KeptQuestions:
    return KeptQuestions(asker.database, asker.vault, AuditLog(asker.database.reader, asker.ring.envelopes))


async def read(asker: Asker, event_id: str, *, texts: bool = True, reason: str | None = None) -> Kept:
    return await kept(asker).read(event_id, Reading("operator", "req_reading", texts, reason))


async def readings(asker: Asker) -> list:
    return list(await asker.database.reader.all(select(audit_events).where(audit_events.c.tag == "llm:question:read")))


async def test_texts_are_read_back_as_they_were_sent_and_that_is_recorded(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(target, tmp_path, server, **KEPT) as asker:
        server.reply(say("answer-text", call("email_send", {"to": "call-text"}, id="c2")))
        await asker.ask(TALK, payer(workspace="shop"))
        (row,) = await asker.events()
        found = await read(asker, row.id, reason="ticket 7")
        said = [message["text"] for message in found.question["messages"]]
        assert said == ["instruction-text", "user-text", "model-text", "result-text"]
        assert found.answer["text"] == "answer-text"
        assert found.answer["calls"] == [{"id": "c2", "name": "email.send", "arguments": '{"to": "call-text"}'}]
        assert found.agrees and found.entry.event.id == row.id
        (event,) = await readings(asker)
        assert (event.workspace_id, event.principal, event.request_id) == ("shop", "operator", "req_reading")
        assert (event.target, event.outcome) == (row.id, "texts")
        log = AuditLog(asker.database.reader, asker.ring.envelopes)
        entry = await log.of("shop").entry(event.id)
        assert entry is not None and entry.details == {"reason": "ticket 7"}
        assert await log.of("other").entry(event.id) is None
        assert event.tag in TAGS


async def test_without_texts_it_says_who_said_how_much(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **KEPT) as asker:
        server.reply(say("answer-text", call("email_send", {"to": "call-text"}, id="c2")))
        await asker.ask(TALK)
        (row,) = await asker.events()
        found = await read(asker, row.id, texts=False)
        shown = json.dumps([found.question, found.answer])
        assert "-text" not in shown and "Send a mail" not in shown and "properties" not in shown
        instruction, user, model, result = found.question["messages"]
        assert (instruction["role"], instruction["text"]) == ("instruction", "16 characters")
        assert user["text"] == "9 characters" and user["images"][0]["bytes"] == 7
        assert model["calls"] == [{"id": "c1", "name": "email.send", "arguments": "23 characters"}]
        assert (result["name"], result["text"]) == ("email.send", "11 characters")
        assert found.answer["text"] == "11 characters" and found.agrees
        assert [event.outcome for event in await readings(asker)] == ["lengths"]


async def test_what_is_not_kept_is_not_read_and_leaves_no_trace(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server:
        server.script = lambda _: say("ok")
        async with open_models(target, tmp_path, server) as asker:
            await asker.ask()
        async with open_models(target, tmp_path, server, RETENTION_DAYS="3", **KEPT) as asker:
            await asker.ask()
            before, since = (row.id for row in await asker.events())
            for unknown in (before, "aud_00000000000000000000000000000000", "", "'"):
                with pytest.raises(NotKept):
                    await read(asker, unknown)
            assert [entry.event.id for entry in await kept(asker).newest(9)] == [since]
            await read(asker, since)
            with pytest.raises(NotKept, match="no question"):
                await read(asker, (await readings(asker))[0].id)  # an event, and no question
            await Purge(asker.database.writer).once(now() + 3 * DAY + 1)
            with pytest.raises(NotKept, match="RETENTION_DAYS"):
                await read(asker, since)
            assert len(await readings(asker)) == 1
            assert await kept(asker).newest(9) == []


async def test_nothing_is_read_that_cannot_be_recorded(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **KEPT) as asker:
        server.reply(say("ok"))
        await asker.ask()
        (row,) = await asker.events()

        def refuses(tx: object) -> None:
            raise StoreUnavailable("the disk is full")

        asker.database.writer.before = refuses
        with pytest.raises(StoreUnavailable):
            await read(asker, row.id)
        asker.database.writer.before = None
        assert (await read(asker, row.id)).agrees


async def test_what_contradicts_the_trail_is_called_so(sqlite_target: Target, tmp_path: Path) -> None:
    """Whoever owns the database may put one question's digest in place of another's."""
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **KEPT) as asker:
        server.script = lambda _: say("ok")
        await asker.ask("one")
        await asker.ask("two")
        one, two = await asker.events()
        swapped = Query(update(audit_events).where(audit_events.c.id == bindparam("e")).values(digest=bindparam("d")))
        await asker.database.writer.run(lambda tx: tx.run(swapped, e=one.id, d=two.digest))
        assert not (await read(asker, one.id)).agrees
        assert (await read(asker, two.id)).agrees


async def test_the_newest_come_first_of_one_workspace_or_principal(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(target, tmp_path, server, **KEPT) as asker:
        server.script = lambda asked: fail(500) if "fail" in asked.said else say("ok")
        for account, workspace in (("key_1", "a"), ("key_2", "a"), ("key_1", "b")):
            await asker.ask(question(), payer(account, workspace=workspace))
        with pytest.raises(ModelUnavailable):
            await asker.ask("fail", payer("key_3", workspace="b"))
        asked = [row.id for row in await asker.events()][::-1]
        found = kept(asker)

        async def ids(limit: int, **only: str) -> list[str]:
            return [entry.event.id for entry in await found.newest(limit, **only)]

        assert await ids(9) == asked and await ids(2) == asked[:2]
        assert await ids(9, workspace="a") == asked[2:] and await ids(9, principal="key_1") == [asked[1], asked[3]]
        assert await ids(9, workspace="a", principal="key_1") == [asked[3]] and await ids(9, workspace="c") == []
        failed = await read(asker, asked[0])
        assert failed.agrees and failed.answer == {"text": "", "calls": []}
