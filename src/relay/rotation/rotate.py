"""Putting one secret in the place of another while everything runs. Each step is safe to repeat and to be killed in.

    announce   the new secret is on the disk and named in the database; nothing uses it
    promote    every living process holds it; from this transaction on it is the current one
    settle     every living process has said that it works with it
    re-wrap    no envelope names the old one any more
    retire     the old one is needed by nothing; its file goes

Whoever runs it again goes on where it stopped: the state is in the database, and each step looks before it acts.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from relay.audit.heads import head_signer
from relay.audit.trust import endorse
from relay.core.clock import HOUR, MINUTE, iso, now
from relay.core.ids import new_id
from relay.crypto.api_key import new_pepper
from relay.crypto.envelope import Envelopes
from relay.identity.peppers import PURPOSE as PEPPER_PURPOSE
from relay.rotation.identify import Secret
from relay.rotation.keyring import Keyring
from relay.rotation.notices import RETIRED, ROTATED, tell
from relay.rotation.rewrap import Rewrapped, rewrap_all
from relay.rotation.tidy import tidy
from relay.settings.key_folder import SETTINGS, SecretKind
from relay.store.database import Database
from relay.store.installation import Installation
from relay.store.rotation import ProcessRow, SecretRow, Secrets, leave
from relay.store.writer import Tx

WAIT_SECONDS: Final = 90.0
OVERLAP: Final = 72 * HOUR
REST: Final = MINUTE
"""How long a pepper rests before the one before it may go: by then every key that was being made has been stored."""
_LOOK_SECONDS: Final = 0.2
_PASSES: Final = 10

T = TypeVar("T")


class RotationRefused(Exception):
    """The rotation cannot begin or go on now; nothing that was done is lost, and it may be run again."""


class NothingToRotate(RotationRefused):
    """There is no new secret to go over to, and no rotation to finish."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a rotation came to. ``waiting`` says what still needs the old secret, empty when nothing does."""

    secret: str
    key: str
    changed: bool
    waiting: str = ""
    envelopes: Rewrapped = field(default_factory=Rewrapped)

    @property
    def ok(self) -> bool:
        """Whether every envelope opens."""
        return self.envelopes.broken == 0


Progress = Callable[[str, str], None]


class Rotation:
    """Rotates the secrets of an installation, beside servers or inside of one.

    ``progress`` hears of each step: its name, and a sentence. ``wait`` is for how many seconds other processes are
    waited for. ``due_before`` of each method leaves a secret alone that has been current since then or later.
    """

    def __init__(
        self,
        database: Database,
        envelopes: Envelopes,
        keyring: Keyring,
        installation: Installation,
        *,
        principal: str,
        progress: Progress = lambda _step, _what: None,
        wait: float = WAIT_SECONDS,
    ) -> None:
        self._database = database
        self._envelopes = envelopes
        self._keyring = keyring
        self._installation = installation
        self._principal = principal
        self._progress = progress
        self._wait = wait

    async def encryption(self, *, due_before: int | None = None) -> Report:
        """Go over to another key-encryption key and re-wrap every envelope under it.

        :class:`RotationRefused` while a living process does not hold it; an old key stays as long as an envelope names
        it that cannot be re-wrapped.
        """
        async with self._alone():
            target, changed = await self._target("encryption", due_before)
            if changed:
                await self._promote("encryption", target)
            await self._settled("encryption", target)
            done = await self._rewrap()
            if done.broken == 0:
                await self._retire("encryption", target, lambda _secrets, _id: None, details=_counts(done))
            await tidy(self._keyring, "encryption")
        waiting = f"{done.broken} envelopes do not open with any key that is here" if done.broken else ""
        return Report(SETTINGS["encryption"], target, changed, waiting, done)

    async def signing(self, *, due_before: int | None = None) -> Report:
        """Sign the log's heads with another key, which vouches for the one before it."""
        async with self._alone():
            target, changed = await self._target("signing", due_before)
            if changed:
                await self._promote("signing", target)
            await self._settled("signing", target)
            await self._retire("signing", target, self._endorsement(target))
            await tidy(self._keyring, "signing")
        await self._keyring.refresh()
        return Report(SETTINGS["signing"], target, changed)

    async def webhook(self, *, due_before: int | None = None, overlap: int = OVERLAP) -> Report:
        """Give ``/webhooks/relay`` another secret; the one before is accepted for ``overlap`` microseconds more.

        While one before is still accepted no other is made; without ``overlap`` that one ends now, and nothing else
        happens. :class:`NothingToRotate` where the settings give the secret: there the settings say until when.
        """
        if not self._keyring.folder.embedded("webhook"):
            raise NothingToRotate(
                "WEBHOOK_SIGNING_SECRET is given by the settings: set the new one there, the one before as "
                "WEBHOOK_SIGNING_SECRET_PREVIOUS with its last day, and restart"
            )
        async with self._alone():
            current = self._keyring.current("webhook")
            if await self.end_webhook(early=overlap == 0) and current is not None:
                target, changed = current.id, False
                self._progress("retired", "no earlier WEBHOOK_SIGNING_SECRET is accepted any more")
            else:
                target, changed = await self._target("webhook", due_before)
            if changed:
                await self._promote("webhook", target, ends_at=now() + overlap)
            await tidy(self._keyring, "webhook")
        olds = [row for row in self._keyring.rows if row.kind == "webhook" and row.state == "old"]
        ends = max((row.ends_at or 0 for row in olds), default=0)
        waiting = f"the one before is accepted until {iso(ends)}" if ends > now() else ""
        return Report(SETTINGS["webhook"], target, changed, waiting)

    async def pepper(self, *, due_before: int | None = None) -> Report:
        """Hash API keys with another pepper; a key is re-hashed when it is used, and the old one goes with the last.

        There are never more than two: while keys need the old one, no third is made.
        """
        await self._keyring.refresh()
        before = len(self._keyring.peppers)
        waiting = await self.end_pepper()
        await self._keyring.refresh()
        if len(self._keyring.peppers) < before:  # that was the end of a rotation, not the beginning of one
            return Report("pepper", self._keyring.peppers[0].id, False, waiting)
        target, changed = await self._announce_pepper(due_before)
        if changed:
            await self._wait_for(f"pepper:{target}", lambda secrets, at: self._use_pepper(secrets, target, at))
            await self._keyring.refresh()
            await self._settled("pepper", target)
        return Report("pepper", target, changed, await self.end_pepper())

    async def end_pepper(self) -> str:
        """Retire the older pepper if no living key needs it; return what still does, empty when nothing."""

        def unit(tx: Tx) -> str:
            secrets, at = Secrets(tx), now()
            live = secrets.peppers()
            if len(live) < 2 or live[0].current_at is None or live[1].current_at is None:
                return ""
            if needing := secrets.keys_under(live[1].id, at):
                return f"{needing} of the living API keys not used since: the old pepper stays until they are, or end"
            if at < live[0].current_at + REST:
                return "the old pepper rests a minute before it goes"
            secrets.retire_pepper(live[1].id, at)
            self._tell_retired(tx, "pepper", live[1].id)
            return ""

        return await self._write(unit)

    async def end_webhook(self, *, early: bool = False) -> bool:
        """Retire a webhook secret whose overlap has ended, with ``early`` one that lasts; say whether one did."""

        def unit(tx: Tx) -> bool:
            secrets, at, cut = Secrets(tx), now(), False
            for row in secrets.of("webhook"):
                lasts = (row.ends_at or 0) > at
                if row.state == "old" and (early or not lasts):
                    secrets.retire(row, at)
                    self._tell_retired(tx, SETTINGS["webhook"], row.id)
                    cut = cut or lasts
            return cut

        if not any(row.kind == "webhook" and row.state == "old" for row in self._keyring.rows):
            return False
        was = await self._write(unit)
        await self._keyring.refresh()
        return was

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Keep other rotations of this data folder out, waiting for one that is under way."""
        deadline = time.monotonic() + self._wait
        while True:
            with self._keyring.folder.rotating() as alone:
                if alone:
                    yield
                    return
            if time.monotonic() >= deadline:
                raise RotationRefused("another rotation is under way here; look again when it has ended")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _target(self, kind: SecretKind, due_before: int | None) -> tuple[str, bool]:
        """Return the id of the key to go over to, and whether it has to be promoted; announce it where it is new."""
        await self._keyring.refresh()
        current = self._keyring.current(kind)
        if current is None:
            raise NothingToRotate(f"there is no {SETTINGS[kind]} yet")
        choose = self._own if self._keyring.folder.embedded(kind) else self._given
        chosen = choose(kind, current, due_before)
        if chosen is None:
            return current.id, False

        def unit(tx: Tx) -> None:
            secrets = Secrets(tx)
            if secrets.find(kind, chosen.id) is None:
                secrets.add(kind, chosen.id, chosen.check_value, now())
            self._keyring.say_within(tx)

        await self._write(unit)
        self._progress("announced", f"the new {SETTINGS[kind]} is {chosen.id}")
        await self._keyring.refresh()
        return chosen.id, True

    def _own(self, kind: SecretKind, current: SecretRow, due_before: int | None) -> Secret | None:
        """Return the secret of the folder to go over to, making it where there is none; None to finish what began."""
        keyring = self._keyring
        keyring.read_folder()  # a rotation that was killed may have left one
        states = {row.id: row.state for row in keyring.rows if row.kind == kind}
        if kind != "webhook" and "old" in states.values():
            return None
        fresh = [secret for secret in keyring.holding(kind) if states.get(secret.id, "known") == "known"]
        if not fresh:
            if "old" in states.values():
                raise NothingToRotate(
                    "the webhook secret before this one is still accepted; an overlap of 0 ends it now"
                )
            if due_before is not None and (current.current_at or 0) > due_before:
                raise NothingToRotate(f"{SETTINGS[kind]} is not due")
            keyring.folder.make(kind)
            keyring.read_folder()
            fresh = [secret for secret in keyring.holding(kind) if secret.id not in states]
        return fresh[0]

    def _given(self, kind: SecretKind, current: SecretRow, _due_before: int | None) -> Secret | None:
        """Return the secret of the settings to go over to; None to finish what began."""
        states = {row.id: row.state for row in self._keyring.rows if row.kind == kind}
        configured = self._keyring.configured(kind)
        assert configured is not None
        if configured.id == current.id:
            if kind == "encryption" or "old" in states.values():
                return None
            raise NothingToRotate(
                f"{SETTINGS[kind]} is the current key already: set a new one, this one as {SETTINGS[kind]}_PREVIOUS, "
                "restart every process, and run this again"
            )
        if states.get(configured.id) in ("old", "retired"):
            raise RotationRefused(f"{SETTINGS[kind]} is a key that was used before; make a new one")
        return configured

    async def _promote(self, kind: SecretKind, id: str, *, ends_at: int | None = None) -> None:
        def step(secrets: Secrets, at: int) -> Callable[[Tx], None] | None:
            row, before = secrets.find(kind, id), secrets.current(kind)
            if row is None:
                raise RotationRefused(f"the key {id} is not announced any more; run this again")
            if row.state != "known":
                return None
            secrets.promote(row, at, ends_at=ends_at)
            details = {"secret": SETTINGS[kind], "key": id, "before": before.id if before is not None else ""}

            def record(tx: Tx) -> None:
                self._keyring.say_within(tx, kind, id)
                self._tell_rotated(tx, SETTINGS[kind], id, details)

            return record

        await self._wait_for(f"{kind}:{id}", step)
        self._progress("promoted", f"{SETTINGS[kind]} {id} is the current one from now on")
        await self._keyring.refresh()

    def _use_pepper(self, secrets: Secrets, id: str, at: int) -> Callable[[Tx], None] | None:
        if not any(row.id == id and row.current_at is None for row in secrets.peppers()):
            return None
        secrets.use_pepper(id, at)
        return lambda tx: self._tell_rotated(tx, "pepper", id, {"secret": "pepper", "key": id})

    async def _announce_pepper(self, due_before: int | None) -> tuple[str, bool]:
        await self._keyring.refresh()
        fresh, text = new_id("pep"), new_pepper()

        def unit(tx: Tx) -> tuple[str, bool]:
            secrets = Secrets(tx)
            live = secrets.peppers()
            if not live:
                raise NothingToRotate("there is no pepper yet")
            if len(live) > 1:
                waiting = next((row.id for row in live if row.current_at is None), None)
                return (waiting, True) if waiting is not None else (live[0].id, False)
            if due_before is not None and (live[0].current_at or 0) > due_before:
                raise NothingToRotate("the pepper is not due")
            sealed = self._envelopes.seal(text, workspace="", purpose=PEPPER_PURPOSE, record=fresh)
            secrets.add_pepper(fresh, sealed, now())
            return fresh, True

        found = await self._write(unit)
        await self._keyring.refresh()
        return found

    async def _wait_for(self, name: str, step: Callable[[Secrets, int], Callable[[Tx], None] | None]) -> None:
        """Take a step, in the transaction that finds that every living process holds a secret."""

        def unit(tx: Tx) -> list[ProcessRow]:
            secrets, at = Secrets(tx), now()
            lacking = [process for process in secrets.living(at) if name not in process.holds]
            if not lacking and (record := step(secrets, at)) is not None:
                record(tx)
            return lacking

        await self._until(unit, "do not hold the new secret")

    async def _settled(self, kind: str, id: str) -> None:
        """Wait until every living process has said that it works with this secret."""

        def unit(tx: Tx) -> list[ProcessRow]:
            return _behind(Secrets(tx), kind, id)

        await self._until(unit, "do not use the new secret yet")
        self._progress("settled", f"every process uses the {kind} secret {id}")

    async def _until(self, unit: Callable[[Tx], list[ProcessRow]], what: str) -> None:
        deadline, told = time.monotonic() + self._wait, False
        while lacking := await self._write(unit):
            if gone := [process.id for process in lacking if self._keyring.folder.is_gone(process.id)]:
                await self._write(partial(_take_out, gone))
                continue
            names = ", ".join(f"{process.kind} {process.id}" for process in lacking)
            if time.monotonic() >= deadline:
                raise RotationRefused(
                    f"these processes {what}: {names}; restart them with it, or stop them, and run this again"
                )
            if not told:
                self._progress("waiting", f"for {names}")
                told = True
            await asyncio.sleep(_LOOK_SECONDS)
            await self._keyring.refresh()

    async def _rewrap(self) -> Rewrapped:
        """Walk every envelope until a whole walk finds none under another key than the current one."""
        total = Rewrapped()
        for _ in range(_PASSES):
            done = await rewrap_all(self._database, self._envelopes, self._show)
            total.seen, total.broken, total.examples = done.seen, done.broken, done.examples
            total.rewrapped += done.rewrapped
            total.skipped += done.skipped
            if not done.rewrapped and not done.skipped:
                return total
        raise RotationRefused("envelopes change faster than they can be looked through; run this again")

    def _show(self, done: Rewrapped) -> None:
        self._progress("rewrapping", f"{done.rewrapped} of {done.seen} envelopes so far")

    async def _retire(
        self,
        kind: SecretKind,
        target: str,
        endorse_old: Callable[[Secrets, str], str | None],
        details: dict[str, Any] | None = None,
    ) -> None:
        def unit(tx: Tx) -> None:
            secrets, at = Secrets(tx), now()
            current = secrets.current(kind)
            if current is None or current.id != target or _behind(secrets, kind, target):
                raise RotationRefused("a process began in the meantime; run this again")
            for row in secrets.of(kind):
                if row.state == "old":
                    secrets.retire(row, at, endorse_old(secrets, row.id))
                    self._tell_retired(tx, SETTINGS[kind], row.id, details)

        await self._write(unit)
        self._progress("retired", f"nothing needs an earlier {SETTINGS[kind]} any more")
        await self._keyring.refresh()

    def _endorsement(self, target: str) -> Callable[[Secrets, str], str | None]:
        origin = self._installation.id
        keys = {secret.id: secret.value for secret in self._keyring.holding("signing")}

        def endorse_old(secrets: Secrets, id: str) -> str | None:
            new, old = keys.get(target), keys.get(id)
            if not isinstance(new, bytes) or not isinstance(old, bytes):
                raise RotationRefused(f"the key {id} is not here, so that nothing could vouch for it")
            return endorse(head_signer(new, origin), head_signer(old, origin).vkey, secrets.log_size())

        return endorse_old

    def _tell_rotated(self, tx: Tx, secret: str, id: str, details: dict[str, Any]) -> None:
        tell(
            tx,
            ROTATED,
            "secret.rotated",
            target=secret,
            principal=self._principal,
            notice={"name": secret, "key": id},
            details=details,
        )

    def _tell_retired(self, tx: Tx, secret: str, id: str, details: dict[str, Any] | None = None) -> None:
        about = {"secret": secret, "key": id, **(details or {})}
        tell(tx, RETIRED, "", target=secret, principal=self._principal, notice={}, details=about)

    async def _write(self, unit: Callable[[Tx], T]) -> T:
        result = await self._database.writer.run(unit)
        self._database.generation.changed()  # on SQLite nobody else tells this process of its own changes
        return result


def _behind(secrets: Secrets, kind: str, id: str) -> list[ProcessRow]:
    return [process for process in secrets.living(now()) if process.uses.get(kind) != id]


def _take_out(process_ids: list[str], tx: Tx) -> None:
    for process_id in process_ids:
        leave(tx, process_id)


def _counts(done: Rewrapped) -> dict[str, int]:
    return {"envelopes": done.seen, "rewrapped": done.rewrapped}
