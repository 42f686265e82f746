"""A draft, tried on the decisions that were recorded: which would flip, from what to what, and why."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from relay.core.clock import DAY, HOUR, now
from relay.core.principal import Principal
from relay.core.problem import NotFound, TooManyRunning
from relay.crypto.envelope import EnvelopeError
from relay.policy.check import CatalogSchema
from relay.policy.checked import check, digest_of, refusal
from relay.policy.engine import evaluate, lacks_counters
from relay.policy.inputs import decode_inputs
from relay.policy.recorded import unpacked
from relay.policy.source import Active
from relay.store.database import Database
from relay.store.decisions import PURPOSE, DecisionRepository, DecisionRow
from relay.store.policies import PolicyRepository, ReplayRow
from relay.store.vault import Vault
from relay.store.writer import Tx

DRAFT_ID: Final = "draft"
COUNTS_FOR: Final = HOUR
MAX_DAYS: Final = 3650
_BATCH: Final = 250
_RETRY_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Ruling:
    """One side of a flip: what was decided, and which policies decided it."""

    effect: str
    approvers: int
    other_person: bool
    reason: str
    policies: tuple[str, ...]

    def demands(self) -> tuple[str, int, bool]:
        """Return what of it matters to whoever asked: the words of a reason may change without a flip."""
        return (self.effect, self.approvers, self.other_person) if self.needs_approval else (self.effect, 0, False)

    @property
    def needs_approval(self) -> bool:
        """Whether somebody has to agree, so that it matters how many and who."""
        return self.effect == "require_approval"


@dataclass(frozen=True, slots=True)
class Flip:
    """A recorded decision that the draft would have made otherwise: another effect, or other approvers."""

    row: DecisionRow
    before: Ruling
    after: Ruling


@dataclass(slots=True)
class Replayed:
    """What a replay found. ``truncated``: its time was over before it had looked back to ``since``.

    Decisions are taken newest first; ``reached`` is when the oldest one that was looked at was made, None for none.
    ``unreadable`` ones were recorded in a form that cannot be decided again, and are not among ``replayed``,
    nor are those ``not_judged``: the draft looks at counters there, and none had been read for the recorded decision.
    """

    digest: str
    since: int
    until: int
    replayed: int = 0
    unreadable: int = 0
    not_judged: int = 0
    flips: int = 0
    reached: int | None = None
    truncated: bool = False
    transitions: dict[tuple[str, str], int] = field(default_factory=dict)


class Replays:
    """Tries texts on what a workspace has recorded, one at a time."""

    def __init__(self, database: Database, vault: Vault, schema: CatalogSchema) -> None:
        self._database = database
        self._vault = vault
        self._schema = schema
        self._busy = False

    async def run(
        self,
        principal: Principal,
        workspace_id: str,
        text: str,
        *,
        days: int,
        seconds: float | None,
        on_flip: Callable[[Flip], None],
    ) -> Replayed:
        """Decide anew about every decision of the last ``days`` and hand each flip to ``on_flip``, newest first.

        Nothing is kept of a decision that was looked at, so that their number does not matter. After ``seconds`` it
        ends ``truncated``; a replay that came to its end is remembered for an hour, for activations that demand one.
        422 for a text that does not check, 429 while another replay is under way in this process, 404 for a workspace
        that does not exist.
        """
        if self._busy:
            raise TooManyRunning("Another replay is under way.", retry_after=_RETRY_SECONDS)
        self._busy = True
        try:
            return await self._run(principal, workspace_id, text, days, seconds, on_flip)
        finally:
            self._busy = False

    async def _run(
        self,
        principal: Principal,
        workspace_id: str,
        text: str,
        days: int,
        seconds: float | None,
        on_flip: Callable[[Flip], None],
    ) -> Replayed:
        began, until = time.monotonic(), now()
        digest = digest_of(text)
        # Compiled for itself: what decides for callers is not shared with a thread.
        checked = await asyncio.to_thread(check, text, self._schema)
        if checked.policies is None:
            raise refusal(checked.problems)
        draft = Active(DRAFT_ID, 0, checked.policies)
        found = Replayed(digest, until - days * DAY, until)
        decisions, after = DecisionRepository(workspace_id), None
        while True:
            page = await decisions.page(
                self._database.reader, since=found.since, until=until, after=after, limit=_BATCH
            )
            for flip in await asyncio.to_thread(self._flips, workspace_id, page, draft, found):
                on_flip(flip)
            if len(page) < _BATCH:
                break
            after = page[-1][0]
            if seconds is not None and time.monotonic() - began >= seconds:
                found.truncated = True
                return found
        await self._remember(principal, workspace_id, days, found)
        return found

    def _flips(
        self, workspace_id: str, page: list[tuple[DecisionRow, bytes | None]], draft: Active, found: Replayed
    ) -> list[Flip]:
        flips = []
        for row, body in page:
            found.reached = row.occurred_at
            flip = self._flip(workspace_id, row, body, draft, found)
            if flip is not None:
                flips.append(flip)
                found.flips += 1
                turn = (flip.before.effect, flip.after.effect)
                found.transitions[turn] = found.transitions.get(turn, 0) + 1
        return flips

    def _flip(
        self, workspace_id: str, row: DecisionRow, body: bytes | None, draft: Active, found: Replayed
    ) -> Flip | None:
        try:
            if body is None:
                raise ValueError("purged")
            opened = self._vault.unseal(body, workspace=workspace_id, purpose=PURPOSE, record_id=row.id)
            recorded = unpacked(opened)
            inputs = decode_inputs(recorded.inputs)
        except (EnvelopeError, ValueError):
            found.unreadable += 1
            return None
        if lacks_counters(inputs, draft):
            found.not_judged += 1
            return None
        found.replayed += 1
        before = Ruling(row.effect, row.approvers, bool(row.other_person), recorded.reason, recorded.policies)
        try:
            decision = evaluate(inputs, draft)
            after = Ruling(
                decision.effect, decision.approvers, decision.other_person, decision.reason, decision.policies
            )
        except Exception:  # whatever breaks while deciding is a denial at the gate, and so it is here
            after = Ruling("deny", 1, False, "The policy could not be evaluated.", ())
        return None if before.demands() == after.demands() else Flip(row, before, after)

    async def _remember(self, principal: Principal, workspace_id: str, days: int, found: Replayed) -> None:
        at, policies = now(), PolicyRepository(workspace_id)
        row = ReplayRow(found.digest, principal.id, at, days, found.replayed, found.flips, at + COUNTS_FOR)

        def unit(tx: Tx) -> None:
            if policies.lock(tx) is None:
                raise NotFound("There is no such workspace.")
            policies.note_replay(tx, row)

        await self._database.writer.run(unit)
