"""Every order in which approvals, denial, expiry, withdrawal, kill switch, crashes and two dispatchers can meet.

A small model says what must follow from each event. All its states are visited, and beside it the real functions of the
store run on a real SQLite database, which must be in the same state after every single event.
"""

import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from relay.approvals.decide import Decisions, Wish
from relay.approvals.expire import _expire_if_pending
from relay.approvals.outlook import Outlook
from relay.approvals.persons import agreement_of
from relay.core.principal import Principal
from relay.core.problem import AlreadyDecided
from relay.gate.sweep import _declare_unknown
from relay.store.approvals import ApprovalRepository, ApprovalRow, chain
from relay.store.attempts import AttemptRepository
from relay.store.kill_switch import Stop, add_stop, begin_start, remove_stop, stops_here
from relay.store.sqlite import SqliteTx
from relay.store.waiting import cancel_waiting
from relay.store.writer import Tx

W, ATTEMPT, APPROVAL, DIGEST = "default", "att_1", "apr_1", "ab" * 32
DEADLINE = 1_000
MOST_TRIES = 2
STOP = Stop(W, "workspace", W, "workspace", "a test", "key_o", 1)
PERSONS = {
    name: Principal(name, "person", W, frozenset({"approvals:decide"}), name, ("operator",), "api_key")
    for name in ("key_a", "key_b", "key_d")
}
AGENT = Principal("key_r", "agent", W, frozenset({"actions:execute"}), "key_r", ("key_o",), "api_key")
WAITS = ("pending_approval", "ready")
Dispatcher = Literal["one", "two"]


@dataclass(frozen=True)
class State:
    """What the model knows. ``looked`` is the fence that a dispatcher has read and not acted upon; 0 for none.

    ``began`` counts the effects that may have happened, ``tries`` all that began; ``holder`` says which dispatcher's
    is under way, 0 for none.
    """

    attempt: str = "pending_approval"
    approval: str = "pending"
    agreed: tuple[str, ...] = ()
    killed: bool = False
    late: bool = False
    fence: int = 1
    looked: tuple[int, int] = (0, 0)
    began: int = 0
    tries: int = 0
    holder: int = 0


def waiting_ends(state: State, attempt: str, approval: str) -> State:
    return replace(
        state,
        attempt=attempt,
        approval=approval if state.approval == "pending" else state.approval,
        fence=state.fence + 1,
    )


def expected(state: State, event: str, needed: int) -> State:
    """The model: what an event makes of a state."""
    kind, _, who = event.partition(" ")
    return _EXPECTED[kind](state, who, needed)


def _approve(state: State, who: str, needed: int) -> State:
    if state.approval != "pending" or (who in state.agreed and not state.late):
        return state
    if state.late:
        return waiting_ends(state, "expired", "expired")
    agreed = tuple(sorted((*state.agreed, who)))
    if len(agreed) < needed:
        return replace(state, agreed=agreed)
    return replace(state, agreed=agreed, attempt="ready", approval="approved", fence=state.fence + 1)


def _deny(state: State, who: str, needed: int) -> State:
    if state.approval != "pending":
        return state
    return waiting_ends(state, *(("expired", "expired") if state.late else ("denied", "denied")))


def _withdraw(state: State, who: str, needed: int) -> State:
    if state.approval != "pending":
        return state
    return waiting_ends(state, *(("expired", "expired") if state.late else ("cancelled", "withdrawn")))


def _sweep(state: State, who: str, needed: int) -> State:
    return waiting_ends(state, "expired", "expired") if state.late and state.approval == "pending" else state


def _kill(state: State, who: str, needed: int) -> State:
    state = replace(state, killed=True)
    return waiting_ends(state, "cancelled", "cancelled") if state.attempt in WAITS else state


def _look(state: State, who: str, needed: int) -> State:
    place = int(who)
    seen = state.fence if state.attempt == "ready" else 0
    return replace(state, looked=tuple(seen if n == place else old for n, old in enumerate(state.looked)))


def _begin(state: State, who: str, needed: int) -> State:
    place = int(who)
    seen = state.looked[place]
    state = replace(state, looked=tuple(0 if n == place else old for n, old in enumerate(state.looked)))
    if state.attempt != "ready" or seen != state.fence or state.killed:
        return state
    state = replace(state, began=state.began + 1, tries=state.tries + 1, holder=place + 1)
    return replace(state, attempt="running", fence=state.fence + 1)


def _finish(state: State, who: str, needed: int) -> State:
    done = state.attempt == "running" and state.holder == int(who) + 1
    return replace(state, attempt="succeeded" if done else state.attempt, holder=0 if done else state.holder)


def _retry(state: State, who: str, needed: int) -> State:
    """The effect is known to have come to nothing, and may be tried once more."""
    if state.attempt != "running" or state.holder != int(who) + 1 or state.tries >= MOST_TRIES:
        return state
    return replace(state, attempt="ready", fence=state.fence + 1, began=state.began - 1, holder=0)


def _crash(state: State, who: str, needed: int) -> State:
    """Every process dies: what they had read is gone, and what was running is swept."""
    state = replace(state, looked=(0, 0), holder=0)
    return replace(state, attempt="unknown", fence=state.fence + 1) if state.attempt == "running" else state


_EXPECTED: dict[str, Callable[[State, str, int], State]] = {
    "approve": _approve,
    "deny": _deny,
    "withdraw": _withdraw,
    "time": lambda state, who, needed: replace(state, late=True),
    "sweep": _sweep,
    "kill": _kill,
    "unkill": lambda state, who, needed: replace(state, killed=False),
    "look": _look,
    "begin": _begin,
    "finish": _finish,
    "retry": _retry,
    "crash": _crash,
}
EVENTS = [
    *("approve key_a", "approve key_b", "approve key_d", "deny key_d", "withdraw", "time", "sweep", "kill", "unkill"),
    *("look 0", "look 1", "begin 0", "begin 1", "finish 0", "finish 1", "retry 0", "retry 1", "crash"),
]


class World:
    """The real functions on a SQLite database in memory. It can be put back to any state that it has been in."""

    def __init__(self, schema: bytes, needed: int) -> None:
        self.needed = needed
        self.clock = 10
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.deserialize(schema)
        self._decisions = Decisions(
            None,
            None,
            None,
            None,
            None,
            retention=1,
            hold_back=0,
            clock=lambda: self.clock,
        )
        self._decisions._not_before = lambda action, at: at  # type: ignore[method-assign]

    def start(self) -> bytes:
        def unit(tx: Tx) -> None:
            attempt = {
                "id": ATTEMPT,
                "principal_id": AGENT.id,
                "action": "deed.wipe",
                "version": 1,
                "effect": "destructive",
                "nonce": "nce_1",
                "digest": DIGEST,
                "status": "pending_approval",
                "policy_id": "p",
                "policy_version": 1,
                "approval_id": APPROVAL,
                "request_id": "req_00000001",
                "fence": 1,
                "tries": 0,
                "created_at": 1,
            }
            absent = "preview_id run_id step_id lease_until not_before finished_at duration_ms error_code error_detail"
            AttemptRepository(W).insert(tx, **attempt, **dict.fromkeys([*absent.split(), "error_status"]))
            ApprovalRepository(W).insert(tx, self.request())

        self._in_transaction(unit)
        return self._connection.serialize()

    def request(self) -> ApprovalRow:
        return ApprovalRow(
            id=APPROVAL,
            workspace_id=W,
            attempt_id=ATTEMPT,
            action="deed.wipe",
            digest=DIGEST,
            requester_id=AGENT.id,
            requester_made_by=chain(AGENT.made_by),
            status="pending",
            approvers=self.needed,
            other_person=0,
            policy_id="p",
            policy_version=1,
            reason="",
            seen_version=None,
            created_at=1,
            expires_at=DEADLINE,
            decided_at=None,
        )

    def put_back(self, database: bytes, *, late: bool) -> None:
        self._connection.deserialize(database)
        self.clock = DEADLINE if late else 10

    def happen(self, event: str, state: State) -> bytes:
        """Have an event happen for real and return the database after it."""
        kind, _, who = event.partition(" ")
        if kind == "time":
            self.clock = DEADLINE
        elif (unit := self._unit(kind, who, state)) is not None:
            self._in_transaction(unit)
        return self._connection.serialize()

    def _unit(self, kind: str, who: str, state: State) -> Callable[[Tx], Any] | None:
        if kind in ("approve", "deny"):
            wish = Wish("approve" if kind == "approve" else "deny", DIGEST, "", "req_00000002")
            outlook = Outlook() if kind == "approve" else None
            request = self.request()
            return lambda tx: self._decisions.settle_in(tx, PERSONS[who], request, wish, outlook, frozenset(), None)
        units: dict[str, Callable[[Tx], Any]] = {
            "withdraw": lambda tx: self._decisions.withdraw_in(tx, AGENT, self.request(), "req_00000003"),
            "sweep": self._sweep,
            "kill": self._kill,
            "unkill": lambda tx: remove_stop(tx, STOP),
            "begin": lambda tx: self._begin(tx, state.looked[int(who)]),
            "finish": lambda tx: self._finish(tx, state, int(who)),
            "retry": lambda tx: self._retry(tx, state, int(who)),
            "crash": self._crash,
        }
        return units.get(kind)

    def _sweep(self, tx: Tx) -> None:
        _expire_if_pending(self.request(), self.clock, tx)

    def _kill(self, tx: Tx) -> None:
        if STOP not in stops_here(tx, W):
            add_stop(tx, STOP)
        cancel_waiting(tx, W, principals=None, actions=None, code="stopped", detail="a test", limit=10, at=self.clock)

    def _begin(self, tx: Tx, fence: int) -> None:
        begin_start(tx)
        if not fence or stops_here(tx, W):
            return
        AttemptRepository(W).begin(
            tx, ATTEMPT, fence=fence, at=self.clock, lease_until=self.clock + 1, policy_id="p", policy_version=1
        )

    def _finish(self, tx: Tx, state: State, place: int) -> None:
        # Whoever began holds the fence that this raised; a dispatcher that did not has none to finish with.
        fence = state.fence if state.holder == place + 1 else 0
        AttemptRepository(W).finish(tx, ATTEMPT, fence=fence, status="succeeded", at=self.clock, duration_ms=1)

    def _retry(self, tx: Tx, state: State, place: int) -> None:
        if state.holder == place + 1 and state.tries < MOST_TRIES:
            AttemptRepository(W).make_ready(tx, ATTEMPT, was="running", fence=state.fence, not_before=self.clock)

    def _crash(self, tx: Tx) -> None:
        row = AttemptRepository(W).row(tx, ATTEMPT)
        if row is not None and row.status == "running":
            _declare_unknown(row, tx)

    def _in_transaction(self, unit: Callable[[Tx], Any]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        tx = SqliteTx(self._connection)
        try:
            unit(tx)
        except AlreadyDecided:
            assert tx.writes == 0, "a unit refuses before its first write"
            self._connection.execute("ROLLBACK")
        else:
            self._connection.execute("COMMIT")

    def seen(self) -> tuple[str, str, tuple[str, ...], bool, int, int]:
        """Return what the database says: attempt, approval, who agreed, killed, fence and how often it began."""
        tx = SqliteTx(self._connection)
        attempt = AttemptRepository(W).row(tx, ATTEMPT)
        approval = ApprovalRepository(W).lock(tx, APPROVAL)
        assert attempt is not None and approval is not None
        decisions = ApprovalRepository(W).decisions(tx, APPROVAL)
        agreed = tuple(sorted(found.approver_id for found in decisions if found.decision == "approve"))
        killed = bool(stops_here(tx, W))
        if attempt.status == "running":
            assert agreement_of(approval, decisions).persons >= self.needed
        return attempt.status, approval.status, agreed, killed, attempt.fence, attempt.tries


def promised(state: State, needed: int) -> None:
    """What holds in every state."""
    assert state.began <= 1, "at most one effect begins"
    if state.began:
        assert state.approval == "approved" and len(state.agreed) >= needed
    assert (state.attempt == "pending_approval") == (state.approval == "pending")
    assert state.attempt not in ("running", "succeeded", "unknown") or state.began == 1
    assert state.attempt != "ready" or state.began == 0
    if state.attempt in ("denied", "expired"):
        assert state.approval == state.attempt and state.began == 0


def ends(state: State, needed: int) -> bool:
    """Say whether what runs by itself, and time, bring an attempt to its end without anybody's help."""
    for event in ("crash", "unkill", "time", "sweep", "look 0", "begin 0", "finish 0"):
        state = expected(state, event, needed)
    return state.attempt not in (*WAITS, "running")


@pytest.fixture(scope="module")
def schema(sqlite_template: Path) -> bytes:
    connection = sqlite3.connect(sqlite_template)
    try:
        # A database in memory has no write-ahead log: say so in the header (file format, 1.3.3).
        header = bytearray(connection.serialize())
        header[18:20] = b"\x01\x01"
        return bytes(header)
    finally:
        connection.close()


@pytest.mark.parametrize("needed", [1, 2])
def test_every_order_of_events(schema: bytes, needed: int) -> None:
    world = World(schema, needed)
    first = State()
    databases = {first: world.start()}
    waiting = deque([first])
    visited = 0
    while waiting:
        state = waiting.popleft()
        promised(state, needed)
        assert ends(state, needed), state
        for event in EVENTS:
            following = expected(state, event, needed)
            world.put_back(databases[state], late=state.late)
            database = world.happen(event, state)
            visited += 1
            denied = following.approval in ("denied", "expired", "cancelled", "withdrawn")
            attempt, approval, agreed, killed, fence, tries = world.seen()
            assert (attempt, approval, killed, fence, tries) == (
                following.attempt,
                following.approval,
                following.killed,
                following.fence,
                following.tries,
            ), (state, event)
            assert denied or agreed == following.agreed, (state, event)
            if state.attempt not in (*WAITS, "running"):
                assert following.attempt == state.attempt, "an end is an end"
            if following not in databases:
                databases[following] = database
                waiting.append(following)
    assert len(databases) > 100 and visited == len(databases) * len(EVENTS)
