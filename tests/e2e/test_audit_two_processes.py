"""Two processes append to one PostgreSQL chain; one freezes inside its transaction, holding the head, and is killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.audit.trust import Trust
from relay.audit.verify import verify_log
from relay.store.target import Target
from tests.audit_kit import all_rows, open_kit

# Appends without end and says on standard output what was acknowledged. With a number as second argument it stops
# itself (SIGSTOP) in the transaction that holds this process's so-manieth event, after the head was locked and moved.
APPENDER = """
import asyncio, os, signal, sys
from pathlib import Path
from relay.audit.record import Recorder, event
from relay.crypto.envelope import Envelopes
from relay.store.database import Database
from relay.store.target import parse_target
from relay.store.writer import StoreUnavailable

freeze_at = int(sys.argv[1]) if len(sys.argv) > 1 else 0
recorder = Recorder(Envelopes.of(bytes(range(32))))
written = 0

def say(text):
    os.write(1, text.encode() + b"\\n")

def finish(tx, drafts):
    global written
    recorder.finish(tx, drafts)
    before, written = written, written + len(drafts)
    if before < freeze_at <= written:
        say("frozen")
        os.kill(os.getpid(), signal.SIGSTOP)

async def append(database):
    while True:
        draft = event("gate:action:intent", workspace_id="default", details={"pid": os.getpid()})
        try:
            await database.writer.run(lambda tx: tx.record(draft))
        except StoreUnavailable:
            say("failed " + draft.id)
            await asyncio.sleep(0.05)
        else:
            say("done " + draft.id)
            await asyncio.sleep(0.002)

async def main():
    database = Database(parse_target(sys.stdin.readline().strip(), Path("/nonexistent")), finish)
    await database.start()
    await asyncio.gather(*(append(database) for _ in range(4)))

asyncio.run(main())
"""


class Appender:
    """A process that appends; what it says is in a file, so that nothing is lost when it is killed."""

    def __init__(self, target: Target, output: Path, *args: str) -> None:
        self._output = output
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", APPENDER, *args],
                stdin=subprocess.PIPE,
                stdout=stream,
                env={"PYTHONPATH": ":".join(sys.path)},
            )
        assert self.process.stdin is not None
        self.process.stdin.write(target.url.encode() + b"\n")
        self.process.stdin.close()

    def said(self, word: str) -> list[str]:
        text = self._output.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == word]

    def wait_for(self, word: str, count: int, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while len(self.said(word)) < count:
            assert time.monotonic() < deadline, f"{word} was not said {count} times"
            time.sleep(0.02)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def appender(target: Target, output: Path, *args: str) -> Iterator[Appender]:
    made = Appender(target, output, *args)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.parametrize("thawed", [False, True], ids=["killed while frozen", "thawed and then killed"])
def test_the_other_goes_on_and_nothing_acknowledged_is_lost(
    postgres_target: Target, tmp_path: Path, thawed: bool
) -> None:
    with appender(postgres_target, tmp_path / "lively") as lively:
        lively.wait_for("done", 20)
        with appender(postgres_target, tmp_path / "frozen", "40") as frozen:
            frozen.wait_for("frozen", 1)
            _, status = os.waitpid(frozen.process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            acknowledged_then = set(frozen.said("done"))
            done_then = len(lively.said("done"))
            # The head is locked by the one that does not move: for a moment nobody can append, then the server lets go.
            lively.wait_for("done", done_then + 100, seconds=20)
            assert set(frozen.said("done")) == acknowledged_then
            if thawed:
                frozen.process.send_signal(signal.SIGCONT)
                frozen.wait_for("done", len(acknowledged_then) + 20)
        done = len(lively.said("done"))
        lively.wait_for("done", done + 20)

    assert not lively.said("failed"), "waiting for the lock is not a failure"
    acknowledged = lively.said("done") + frozen.said("done")
    assert len(acknowledged) == len(set(acknowledged)) > 100
    rows = all_rows(postgres_target)
    ids = {row[1] for row in rows}
    assert ids >= set(acknowledged)
    assert not ids & set(frozen.said("failed")), "what was called failed was not written"
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))

    async def holds() -> bool:
        async with open_kit(postgres_target) as kit:
            return (await verify_log(kit.database.reader, Trust(), envelopes=kit.envelopes)).ok

    assert asyncio.run(holds())
