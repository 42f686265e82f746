"""No sequence of minting, narrowing, restricting, rotating, revoking and quarantine makes a credential stronger than
its maker was, or lets a child token outlive its parent or have what its parent has not.

A model in plain Python says after each step what every credential may be; the real thing, on SQLite, is asked
each time.
"""

import asyncio
import ipaddress
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay.core.clock import DAY, MICROSECONDS, now
from relay.core.principal import SCOPES, Principal
from relay.core.problem import Problem, Unauthenticated
from relay.identity import rules
from relay.identity.operator import operator
from relay.store.target import parse_target
from tests.keyring import REQUEST, Keyring, open_keyring

SUBSETS = st.sets(st.sampled_from(SCOPES), min_size=1, max_size=4).map(sorted)
NETWORKS = st.sampled_from([(), ("10.0.0.0/8",), ("10.1.0.0/16",), ("192.0.2.0/24",)])
ADDRESSES = ("10.1.2.3", "10.2.0.1", "192.0.2.7", "198.51.100.1")
MINUTE_STEPS = st.sampled_from([1, 10, 45, 24 * 60, 100 * 24 * 60])


@dataclass
class Token:
    """What a credential may be by the model."""

    id: str
    text: str
    maker: str | None
    scopes: frozenset[str]
    ends: int
    networks: tuple[str, ...]
    kind: str
    parent: str | None = None
    ended: bool = False
    held: bool = False


class Keys(RuleBasedStateMachine):
    """Everything goes through the real code; time is moved by hand. ``template`` is an empty database."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.offset = 0
        self.patches = [mock.patch(f"relay.{name}.now", self.now) for name in CLOCKS]
        for each in self.patches:
            each.start()
        target = parse_target(None, Path(self.folder.name))
        assert target.path is not None
        shutil.copyfile(self.template, target.path)
        self.opened = open_keyring(target)
        self.ring: Keyring = self.loop.run_until_complete(self.opened.__aenter__())
        self.tokens: dict[str, Token] = {}

    def now(self) -> int:
        return now() + self.offset

    def teardown(self) -> None:
        self.loop.run_until_complete(self.opened.__aexit__(None, None, None))
        for each in self.patches:
            each.stop()
        self.loop.close()
        self.folder.cleanup()

    def run(self, awaitable: Any) -> Any:
        """Return what comes of a call; None where it is refused."""
        try:
            return self.loop.run_until_complete(awaitable)
        except Problem:
            return None

    def who(self, token: Token) -> Principal | None:
        try:
            return self.loop.run_until_complete(self.ring.api_keys.authenticate(token.text))
        except Unauthenticated:
            return None

    def note(self, made: Any, maker: Token | None, **more: Any) -> None:
        if made is None:
            return
        record, text = made
        self.tokens[record.id] = Token(
            record.id,
            text,
            None if maker is None else maker.id,
            frozenset(record.scopes),
            record.expires_at,
            record.allowed_networks,
            record.kind,
            **more,
        )

    @initialize()
    def a_person_and_an_agent(self) -> None:
        for kind in ("person", "agent"):
            made = self.run(
                self.ring.api_keys.create(
                    operator(), workspace="default", kind=kind, scopes=SCOPES, expires_days=2, request_id=REQUEST
                )
            )
            self.note(made, None)

    @rule(data=st.data(), scopes=SUBSETS, networks=NETWORKS, kind=st.sampled_from(["agent", "person"]))
    def make(self, data: Any, scopes: list[str], networks: tuple[str, ...], kind: Any) -> None:
        maker, actor = self.actor(data)
        if actor is None:
            return
        made = self.run(
            self.ring.api_keys.create(
                actor,
                workspace="default",
                kind=kind,
                scopes=scopes,
                expires_days=1,
                allowed_networks=networks,
                request_id=REQUEST,
            )
        )
        if made is not None:
            assert frozenset(made[0].scopes) <= actor.scopes and maker.parent is None
            assert kind == "agent" or actor.kind == "person"
        self.note(made, maker)

    @rule(data=st.data(), scopes=SUBSETS, networks=NETWORKS, seconds=st.sampled_from([60, 900, 3600]))
    def mint(self, data: Any, scopes: list[str], networks: tuple[str, ...], seconds: int) -> None:
        parent, actor = self.actor(data)
        if actor is None:
            return
        at = self.now()
        made = self.run(
            self.ring.api_keys.mint(
                actor,
                actor.credential_id,
                scopes=scopes,
                expires_seconds=seconds,
                allowed_networks=networks,
                request_id=REQUEST,
            )
        )
        if made is not None:
            record = made[0]
            assert parent.parent is None and record.kind == "agent"
            assert frozenset(record.scopes) <= actor.scopes & frozenset(rules.CHILD_SCOPES)
            assert record.expires_at <= min(parent.ends, self.now() + 3600 * MICROSECONDS)
            assert record.expires_at > at and parent.id in record.made_by
        self.note(made, parent, parent=parent.id)

    @rule(data=st.data(), scopes=SUBSETS)
    def narrow(self, data: Any, scopes: list[str]) -> None:
        _, actor = self.actor(data)
        target = self.any(data)
        if actor is None:
            return
        done = self.run(self.ring.api_keys.narrow_key(actor, target.id, scopes, request_id=REQUEST))
        if done is not None:
            assert frozenset(done.scopes) <= target.scopes
            target.scopes = frozenset(done.scopes)

    @rule(data=st.data(), networks=NETWORKS)
    def restrict(self, data: Any, networks: tuple[str, ...]) -> None:
        _, actor = self.actor(data)
        target = self.any(data)
        if actor is None:
            return
        done = self.run(
            self.ring.api_keys.restrict_key(actor, target.id, networks, address="10.1.2.3", request_id=REQUEST)
        )
        if done is not None:
            target.networks = done.allowed_networks

    @rule(data=st.data(), hours=st.sampled_from([0, 1, 24]))
    def rotate(self, data: Any, hours: int) -> None:
        maker, actor = self.actor(data)
        target = self.any(data)
        if actor is None:
            return
        made = self.run(self.ring.api_keys.rotate(actor, target.id, overlap_hours=hours, request_id=REQUEST))
        if made is None:
            return
        assert target.parent is None and frozenset(made.record.scopes) <= target.scopes & actor.scopes
        assert made.predecessor.expires_at <= target.ends
        target.ends = made.predecessor.expires_at
        self.note((made.record, made.key_text), maker)

    @rule(data=st.data(), how=st.sampled_from(["revoke", "quarantine", "release", "end_child", "leak"]))
    def end(self, data: Any, how: str) -> None:
        maker, actor = self.actor(data)
        target, keys = self.any(data), self.ring.api_keys
        if how == "leak":
            leak = self.run(keys.revoke_leaked(target.text, "test"))
            assert leak is not None
            target.ended = target.ended or leak.record.revoked_at is not None
            self.end_children(target, target.ended)
            return
        if actor is None:
            return
        done = self.run(getattr(keys, how)(actor, target.id, request_id=REQUEST))
        if done is None:
            return
        if how == "release":
            assert actor.kind == "person" and target.id != maker.id
            target.held = False
        elif how == "quarantine":
            target.held = True
            self.end_children(target, True)
        else:
            assert how == "revoke" or (target.parent == maker.id or target.id == maker.id)
            target.ended = True
            self.end_children(target, True)

    @precondition(lambda self: self.offset < 5 * DAY)
    @rule(minutes=MINUTE_STEPS)
    def time_passes(self, minutes: int) -> None:
        self.offset += minutes * 60 * MICROSECONDS

    @invariant()
    def nobody_is_more_than_the_model_says(self) -> None:
        for token in self.tokens.values():
            principal, at = self.who(token), self.now()
            alive = self.lives(token, at)
            assert (principal is not None) == alive, (token, principal)
            again = self.loop.run_until_complete(self.ring.api_keys.reload(token.id))
            assert (again is not None) == alive
            if principal is None:
                continue
            parent = None if token.parent is None else self.tokens[token.parent]
            assert principal.scopes == token.scopes & (token.scopes if parent is None else parent.scopes)
            assert principal.kind == token.kind and principal.account == (token.parent or token.id)
            for address in ADDRESSES:
                if principal.allowed_from is None or principal.allowed_from.admits(address):
                    for each in (token, parent):
                        assert each is None or admits(each.networks, address)

    def lives(self, token: Token, at: int) -> bool:
        own = not token.ended and not token.held and at < token.ends
        return own and (token.parent is None or self.lives(self.tokens[token.parent], at))

    def end_children(self, target: Token, ended: bool) -> None:
        for token in self.tokens.values():
            if token.parent == target.id and ended:
                token.ended = True

    def any(self, data: Any) -> Token:
        return self.tokens[data.draw(st.sampled_from(sorted(self.tokens)))]

    def actor(self, data: Any) -> tuple[Token, Principal | None]:
        """Return a credential with its principal; what has no ``keys:manage`` is refused by the routes, not here."""
        token = self.any(data)
        return token, self.who(token)


def admits(networks: tuple[str, ...], address: str) -> bool:
    return not networks or any(ipaddress.ip_address(address) in ipaddress.ip_network(each) for each in networks)


CLOCKS = (
    "identity.authenticate",
    "identity.issue",
    "identity.children",
    "identity.restrict",
    "identity.quarantine",
    "identity.leaks",
)


def test_no_sequence_makes_a_credential_stronger(sqlite_template: Path) -> None:
    Keys.template = sqlite_template
    run_state_machine_as_test(
        Keys,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
