"""The text of answers that are being given: in memory for this process, now and then sealed for the others."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final, Self

from pydantic_core import from_json, to_json

from relay.chat.journal import Claim, Journal
from relay.runs.changes import Changes
from relay.runs.journal import LeaseLost
from relay.store.writer import StoreUnavailable

KEEP_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.03
"""Pieces that come in within so short a time are told together: nobody reads faster."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running answer's text so far, after the entry ``seq``."""

    turn_id: str
    seq: int
    text: str

    def pack(self) -> bytes:
        """Return it as it is sealed."""
        return to_json([self.seq, self.text])

    @classmethod
    def unpack(cls, turn_id: str, plaintext: bytes) -> Self:
        """Return what :meth:`pack` was given."""
        seq, text = from_json(plaintext)
        return cls(turn_id, seq, text)


class Progress:
    """The running answer of one turn. Its text is harmless already: it is what people are shown."""

    def __init__(self, session_id: str, turn_id: str, changes: Changes) -> None:
        self._session_id = session_id
        self._turn_id = turn_id
        self._changes = changes
        self._seq = 0
        self._pieces: list[str] = []
        self._running = False
        self._telling: asyncio.TimerHandle | None = None
        self._told_at = -GATHER_SECONDS

    def begin(self, seq: int) -> None:
        """An answer is about to be given, after the entry ``seq``."""
        self._seq, self._pieces, self._running = seq, [], True

    def add(self, piece: str) -> None:
        """Add to its text."""
        if piece:
            self._pieces.append(piece)
            self._tell()

    def _tell(self) -> None:
        """Wake who watches: at once after a while of silence, else once that while is over."""
        if self._telling is not None:
            return
        loop = asyncio.get_running_loop()
        wait = self._told_at + GATHER_SECONDS - loop.time()
        if wait > 0:
            self._telling = loop.call_later(wait, self._told)
        else:
            self._told()

    def _told(self) -> None:
        self._telling, self._told_at = None, asyncio.get_running_loop().time()
        self._changes.notify(self._session_id)

    def end(self) -> None:
        """The answer has been recorded."""
        self._running, self._pieces = False, []
        if self._telling is not None:
            self._telling.cancel()
        self._told()

    def now(self) -> Running | None:
        """Return it as it stands, None while there is none."""
        if not self._running:
            return None
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return Running(self._turn_id, self._seq, self._pieces[0] if self._pieces else "")


class Keeping:
    """Keeps a running answer's text, once a second while it grows, until the context is left."""

    def __init__(self, journal: Journal, claim: Claim, progress: Progress) -> None:
        self._journal = journal
        self._claim = claim
        self._progress = progress
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep(), name=f"text-{self._claim.turn.id}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        kept = 0
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            running = self._progress.now()
            if running is None or len(running.text) == kept:
                continue
            kept = len(running.text)
            # A lost lease is the hold's to notice; what was not kept is kept a second later.
            with contextlib.suppress(StoreUnavailable, LeaseLost):
                await self._journal.keep_text(self._claim, running.pack())
