"""Language models of an installation without its gateway: a real database, real settings, a scripted model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from relay.audit.log import AuditLog, Filters
from relay.llm.messages import Answer, Function, Instruction, Payer, Piece, Question, UserMessage
from relay.llm.service import LanguageModels
from relay.settings import load_settings
from relay.store.database import Database
from relay.store.tables import audit_events
from relay.store.tables.chat import model_spending
from relay.store.target import Target
from relay.store.vault import Vault
from relay.telemetry.metrics import Metrics
from tests.keyring import Keyring, open_keyring
from tests.model_server import ModelServer

QUICK = {"AI_TIMEOUT_SECONDS": "20", "AI_IDLE_SECONDS": "10", "AI_RETRIES": "0"}
SEND = Function(
    "email.send",
    "Send a mail.",
    {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"], "additionalProperties": False},
)
PAYER = Payer("default", "key_1", "key_1", "req_test_0001", "chat", "a" * 64)


def question(text: str = "Hello", *functions: Function, **more: Any) -> Question:
    """Return a question with an instruction before it."""
    return Question((Instruction("You are helpful."), UserMessage(text)), functions, **more)


def payer(account: str = "key_1", session: str | None = None, workspace: str = "default") -> Payer:
    return Payer(workspace, account, account, "req_test_0001", "chat", session)


@dataclass
class Asker:
    """One process's models, and what is in its database."""

    models: LanguageModels
    ring: Keyring
    vault: Vault
    metrics: Metrics
    pieces: list[str] = field(default_factory=list)
    """Those of the stream that was begun last."""

    @property
    def database(self) -> Database:
        return self.ring.database

    async def ask(self, asked: Question | str = "Hello", who: Payer = PAYER, *, streamed: bool = False) -> Answer:
        """Ask as a whole or streamed; the pieces of a stream are the text of its answer."""
        asked = question(asked) if isinstance(asked, str) else asked
        if not streamed:
            return await self.models.ask(asked, who)
        self.pieces = pieces = list[str]()
        answer: Answer | None = None
        async for item in self.models.stream(asked, who):
            assert answer is None, "the answer is the last item"
            if isinstance(item, Piece):
                pieces.append(item.text)
            else:
                answer = item
        assert answer is not None
        assert "".join(pieces) == answer.text
        return answer

    async def spent(self) -> dict[tuple[str, str], int]:
        """Return what each account has spent of each budget that is not a day's; a day is called ``day``."""
        rows = await self.database.reader.all(select(model_spending))
        return {(row.account, "day" if len(row.scope) == 10 else row.scope): row.spent for row in rows}

    async def events(self) -> list[Any]:
        """Return the audit events about questions, oldest first."""
        rows = await self.database.reader.all(
            select(audit_events).where(audit_events.c.tag == "llm:question:asked").order_by(audit_events.c.seq)
        )
        return list(rows)

    async def details(self, event_id: str) -> dict[str, Any]:
        """Return the details of an audit event."""
        page = await AuditLog(self.database.reader, self.ring.envelopes).of("default").page(Filters())
        return next(entry.details or {} for entry in page.entries if entry.event.id == event_id)

    def metric(self, name: str, *labels: str) -> float:
        """Return the value of a counter or gauge."""
        return read_metric(self.metrics, name, *labels)


def read_metric(metrics: Metrics, name: str, *labels: str) -> float:
    """Return the value of a counter or gauge of this process."""
    instrument = metrics.counter(name) if name.endswith("_total") else metrics.gauge(name)
    return float(instrument._cells[instrument._index[labels]])


@asynccontextmanager
async def open_models(target: Target, folder: Path, server: ModelServer, **settings: str) -> AsyncIterator[Asker]:
    """Open the models of one process; ``settings`` come on top of those of the scripted server."""
    given = {"RELAY_ENV": "test", "RELAY_DATA_DIR": str(folder / "data"), **server.settings, **QUICK, **settings}
    loaded = load_settings({name: value for name, value in given.items() if value}, cwd=folder)
    async with open_keyring(target) as ring:
        vault, metrics = Vault(ring.envelopes, ring.database.reader), Metrics()
        models = LanguageModels(loaded, ring.database, vault, metrics)
        await models.start()
        try:
            yield Asker(models, ring, vault, metrics)
        finally:
            await models.stop()
