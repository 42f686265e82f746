"""What this process holds, and how it follows what the database says is current.

The database names the current secret of each kind. A process says there what it holds and what it works with, and a
rotation moves on only when every living process has said so:

- a new key is used only once everybody holds it, so that nobody meets an envelope that it cannot open;
- an old key is retired only once everybody has said that they work with the new one. That is said by a unit in the
  process's own writer, after it has begun to seal with the new key: every envelope that it sealed with the old one was
  committed before, or is sealed anew in the transaction that stores it.

A process that has not been heard of for a minute counts as gone. It may only have been frozen; so one that has not
said for 25 seconds that it lives looks in each transaction which key is current, before it writes.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from relay.audit.heads import head_signer
from relay.audit.trust import HeadKeys, PastKey, endorsed
from relay.core.clock import MINUTE, now
from relay.core.ids import new_id
from relay.crypto.envelope import Envelopes
from relay.crypto.signing import HeadSigner
from relay.rotation.enter import Entered, enter, register_webhook
from relay.rotation.identify import Secret, identify
from relay.settings.errors import SettingsError
from relay.settings.key_folder import KeyFolder, SecretKind
from relay.store.database import Database
from relay.store.installation import Installation
from relay.store.rotation import (
    PepperRow,
    SecretRow,
    Secrets,
    beat,
    current_of,
    leave,
    only_one,
    read_peppers,
    read_secrets,
)
from relay.store.writer import StoreUnavailable, Tx
from relay.telemetry.surviving import surviving

LOOK_SECONDS: Final = 0.25
BEAT_SECONDS: Final = 10.0
FRESH_SECONDS: Final = 25.0
KEPT_AFTER: Final = 10 * MINUTE
"""How long a retired key still opens in memory, for whoever read an envelope just before it was re-wrapped."""

log = logging.getLogger("relay.rotation")


class Keyring:
    """The secrets of one process on one database. :meth:`open` proves that they are the right ones."""

    def __init__(self, database: Database, envelopes: Envelopes, folder: KeyFolder, kind: str) -> None:
        self.folder: Final = folder
        self.id: Final = new_id("prc")
        self.kind: Final = kind
        self.rows: tuple[SecretRow, ...] = ()
        self.peppers: tuple[PepperRow, ...] = ()
        self._database = database
        self._envelopes = envelopes
        self._held: dict[str, Secret] = {}
        self._entered: Entered | None = None
        self._heads: HeadKeys | None = None
        self._read_peppers: Callable[[], Awaitable[None]] | None = None
        self._said: tuple[frozenset[str], dict[str, str]] | None = None
        self._read_under: int | None = None
        self._fresh_until = self._next_beat = float("-inf")
        self._fresh_until_wall = 0
        self._unmark: Callable[[], None] = lambda: None
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> Installation:
        """Prove the secrets against the database, or give it its first ones; work with those that it says are current.

        :class:`SettingsError` when a secret that something needs is not here.
        """
        self.read_folder()
        self._unmark = self.folder.mark(self.id)
        entered = await enter(self._database, list(self._held.values()), self.folder, self.id, self.kind)
        self._entered = entered
        self._envelopes.promote(entered.uses["encryption"])
        self._heads = HeadKeys(self._signer(entered.uses["signing"]))
        self._heads.may_store = self._signs
        self._database.writer.before = self.fence
        return entered.installation

    async def start(self, read_peppers: Callable[[], Awaitable[None]]) -> None:
        """Follow the database from now on. ``read_peppers`` has API keys looked up with the peppers that there are."""
        self._read_peppers = read_peppers
        await self.refresh()
        self._task = asyncio.create_task(self._follow(), name="rotation-follow")

    async def stop(self) -> None:
        """Stop following and say that this process is gone. To be called before the database is stopped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._entered is not None:
            with contextlib.suppress(StoreUnavailable):
                await self._database.writer.run(lambda tx: leave(tx, self.id), outcome=True)
        self._unmark()

    async def is_the_only_server(self) -> None:
        """Take it that earlier servers are gone: this one holds the lock that only one can."""
        await self._database.writer.run(lambda tx: only_one(tx, self.kind, self.id))

    @property
    def heads(self) -> HeadKeys:
        """The keys of the audit log's heads."""
        assert self._heads is not None, "open first"
        return self._heads

    def current(self, kind: SecretKind) -> SecretRow | None:
        """Return the current secret of a kind as it was last read."""
        return next((row for row in self.rows if row.kind == kind and row.state == "current"), None)

    def find(self, kind: SecretKind, id: str) -> Secret | None:
        """Return a secret that this process holds, or None."""
        return self._held.get(f"{kind}:{id}")

    def configured(self, kind: SecretKind) -> Secret | None:
        """Return the secret that settings or the plain file name; None where there is none."""
        return next((secret for secret in self._held.values() if secret.kind == kind), None)

    def holding(self, kind: SecretKind) -> list[Secret]:
        """Return the secrets of a kind that this process holds, the configured one first."""
        return [secret for secret in self._held.values() if secret.kind == kind]

    def accepted_webhook_secrets(self, at: int) -> list[str]:
        """Return the secrets that ``/webhooks/relay`` accepts at a moment, the current one first."""
        held = self.holding("webhook")
        rows = {row.id: row for row in self.rows if row.kind == "webhook"}
        embedded, found = self.folder.embedded("webhook"), []
        for number, secret in enumerate(held):
            row = rows.get(secret.id)
            ends: int | None
            if embedded:
                ends = None if row is None else row.retired_at or row.ends_at
            else:
                ends = None if number == 0 else self.folder.webhook_previous_end or 0
            if ends is None or at < ends:
                found.append((row is None or row.state != "current", str(secret.value)))
        return [value for _, value in sorted(found, key=lambda pair: pair[0])]

    def read_folder(self) -> None:
        """Take in what settings and folder hold; :class:`SettingsError` for a file that must not be read."""
        found = {secret.name: secret for secret in identify(self.folder.held())}
        # The configured one leads; what was held before and is still needed stays.
        self._held = found | {name: secret for name, secret in self._held.items() if name not in found}
        for secret in found.values():
            if secret.kind == "encryption" and isinstance(secret.value, bytes):
                self._envelopes.add(secret.value)

    async def refresh(self) -> None:
        """Read what the database says, work with it, and say so there.

        :class:`~relay.store.writer.StoreUnavailable` when it does not answer; then nothing has changed.
        """
        async with self._turn:
            generation = self._database.generation.current()
            self._take(tuple(await read_secrets(self._database.reader)))
            await self._register_webhook()
            self.peppers = tuple(await read_peppers(self._database.reader))
            if self._read_peppers is not None:
                await self._read_peppers()
            await self._say()
            self._read_under = generation

    def fence(self, tx: Tx) -> None:
        """Make sure, before a transaction's first write, that what it seals is sealed with a key that will stay.

        For the database's writer. :class:`~relay.store.writer.StoreUnavailable` when that key is not here.
        """
        if time.monotonic() < self._fresh_until and now() < self._fresh_until_wall:
            return
        current = current_of(tx, "encryption")
        if current is None or current == self._envelopes.current:
            return
        try:
            self._envelopes.promote(current)
        except ValueError:
            raise StoreUnavailable("the current key-encryption key is not here") from None

    def _take(self, rows: tuple[SecretRow, ...]) -> None:
        wanted = {f"{row.kind}:{row.id}" for row in rows if row.state != "retired"}
        if not wanted <= self._held.keys():
            try:
                self.read_folder()
            except SettingsError as error:
                log.error("the keys of this installation cannot be read: %s", "; ".join(error.problems))
        self.rows = rows
        current = self.current("encryption")
        if current is not None and f"encryption:{current.id}" in self._held:
            self._envelopes.promote(current.id)
        signing = self.current("signing")
        if signing is not None and f"signing:{signing.id}" in self._held:
            self._sign_with(signing.id)
        at = now()
        for row in rows:
            if row.state == "retired" and (row.retired_at or 0) < at - KEPT_AFTER:
                self._forget(row)

    async def _register_webhook(self) -> None:
        configured = self.configured("webhook")
        if configured is None or any(row.kind == "webhook" and row.id == configured.id for row in self.rows):
            return
        held, at = list(self._held.values()), now()
        if await self._database.writer.run(lambda tx: register_webhook(Secrets(tx), held, self.folder, at)):
            self._take(tuple(await read_secrets(self._database.reader)))

    def _forget(self, row: SecretRow) -> None:
        secret = self._held.pop(f"{row.kind}:{row.id}", None)
        if secret is not None and row.kind == "encryption" and row.id != self._envelopes.current:
            self._envelopes.drop(row.id)

    def _sign_with(self, id: str) -> None:
        signer = self._signer(id)
        signing = sorted((row for row in self.rows if row.kind == "signing"), key=lambda row: -(row.current_at or 0))
        changing = [
            PastKey(self._signer(row.id).vkey)
            for row in signing
            if row.state == "old" and f"signing:{row.id}" in self._held
        ]
        notes = [row.endorsement for row in signing if row.endorsement]
        self.heads.replace(signer, [*changing, *endorsed(notes, signer.vkey)])

    def _signs(self, tx: Tx, signer: HeadSigner) -> bool:
        current = current_of(tx, "signing")
        secret = self._held.get(f"signing:{current}")
        return secret is not None and self._signer(secret.id).vkey == signer.vkey

    def _signer(self, id: str) -> HeadSigner:
        secret = self._held[f"signing:{id}"]
        assert self._entered is not None and isinstance(secret.value, bytes)
        return head_signer(secret.value, self._entered.installation.id)

    def say_within(self, tx: Tx, promoted: SecretKind | None = None, id: str = "") -> None:
        """Say in a transaction what this process holds, and that it works with the secret promoted there.

        So that whoever is killed right after it keeps nobody waiting who goes on with the rotation. What this process
        stores from then on is sealed with that key, in this transaction too.
        """
        if promoted == "encryption":
            self._envelopes.promote(id)
        uses = self._uses() | ({promoted: id} if promoted is not None else {})
        beat(tx, self.id, self._holds(), uses, now())
        self._said = None

    def _holds(self) -> frozenset[str]:
        return frozenset(self._held) | {f"pepper:{row.id}" for row in self.peppers}

    def _uses(self) -> dict[str, str]:
        uses = {"encryption": self._envelopes.current, "pepper": self.peppers[0].id if self.peppers else ""}
        for kind in ("signing", "webhook"):
            row = self.current(kind)
            uses[kind] = row.id if row is not None and f"{kind}:{row.id}" in self._held else ""
        return uses

    async def _say(self) -> None:
        """Say what this process holds and uses, if that has changed or it is time to say that it lives."""
        holds, uses = self._holds(), self._uses()  # what the unit below says was true before it was queued
        if self._said == (holds, uses) and time.monotonic() < self._next_beat:
            return
        began, began_at = time.monotonic(), now()
        known = await self._database.writer.run(lambda tx: beat(tx, self.id, holds, uses, began_at), outcome=True)
        if not known and self._entered is not None:
            await enter(self._database, list(self._held.values()), self.folder, self.id, self.kind)
            await self._database.writer.run(lambda tx: beat(tx, self.id, holds, uses, began_at), outcome=True)
        self._said = (holds, uses)
        self._next_beat = began + BEAT_SECONDS
        self._fresh_until = began + FRESH_SECONDS
        self._fresh_until_wall = began_at + int(FRESH_SECONDS * 1_000_000)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            generation = self._database.generation.current()
            moved = generation is not None and generation != self._read_under
            if not moved and time.monotonic() < self._next_beat:
                continue
            with surviving(log, "following the secrets"):
                await self._refreshed()

    async def _refreshed(self) -> None:
        try:
            await self.refresh()
        except (StoreUnavailable, SettingsError, OSError) as error:
            log.warning("what is current cannot be looked up now: %s", error)
            self._next_beat = time.monotonic() + 1.0
