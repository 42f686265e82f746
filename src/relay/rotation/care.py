"""What a server does about secrets by itself: warn of those that are due, end what has ended, rotate what it may."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from relay.core.clock import DAY, HOUR, MICROSECONDS, iso, now
from relay.crypto.envelope import Envelopes
from relay.rotation.ages import Age, ages
from relay.rotation.keyring import Keyring
from relay.rotation.notices import DUE, tell
from relay.rotation.rotate import NothingToRotate, Report, Rotation, RotationRefused
from relay.rotation.tidy import tidy
from relay.rotation.workspaces import warn
from relay.settings.errors import SettingsError
from relay.settings.key_folder import SETTINGS, SecretKind
from relay.store.database import Database
from relay.store.notices import first_time
from relay.store.writer import StoreUnavailable, Tx
from relay.telemetry.surviving import surviving

LOOK_SECONDS: Final = HOUR / MICROSECONDS
_FOR_EVER: Final = 3650 * DAY

log = logging.getLogger("relay.rotation")


class Care:
    """Looks after the secrets of one installation, now and once an hour. Several processes may do so at once.

    ``period`` is the age at which a secret should be rotated, in microseconds. With ``rotates`` what Relay can rotate
    by itself is rotated when it is due; of several processes one does.
    """

    def __init__(
        self,
        database: Database,
        envelopes: Envelopes,
        keyring: Keyring,
        rotation: Rotation,
        *,
        period: int,
        rotates: bool,
    ) -> None:
        self._database = database
        self._envelopes = envelopes
        self._keyring = keyring
        self._rotation = rotation
        self._period = period
        self._rotates = rotates
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._for_ever(), name="rotation-care")

    async def stop(self) -> None:
        """Stop; a rotation that is under way goes on at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self, at: int) -> list[Report]:
        """End what has ended, rotate what is due, warn of the rest; return what was rotated."""
        await self._keyring.refresh()
        await self._end()
        done = await self._rotate(at) if self._rotates else []
        for age in ages(self._keyring):
            await self._warn(age, at)
        await warn(self._database, self._envelopes, period=self._period, at=at)
        return done

    async def _end(self) -> None:
        await self._rotation.end_pepper()
        await self._rotation.end_webhook()
        with self._keyring.folder.rotating() as alone:
            if alone:
                for kind in ("encryption", "signing", "webhook"):
                    await tidy(self._keyring, kind)

    async def _rotate(self, at: int) -> list[Report]:
        before = at - self._period
        steps: list[tuple[str, Callable[..., Awaitable[Report]]]] = [("pepper", self._rotation.pepper)]
        own: tuple[tuple[SecretKind, Callable[..., Awaitable[Report]]], ...] = (
            ("encryption", self._rotation.encryption),
            ("webhook", self._rotation.webhook),
        )
        steps += [(SETTINGS[kind], rotate) for kind, rotate in own if self._keyring.folder.embedded(kind)]
        done = []
        for name, rotate in steps:
            if not any(age.secret == name and age.since <= before for age in ages(self._keyring)):
                continue
            try:
                report = await rotate(due_before=before)
            except NothingToRotate:
                continue
            except RotationRefused as error:
                log.warning("%s is not rotated yet: %s", name, error)
                continue
            log.info("%s was rotated: %s is the current one", name, report.key)
            done.append(report)
        return done

    async def _warn(self, age: Age, at: int) -> None:
        state = age.state(at, self._period)
        if state == "fresh":
            return
        notice = {"name": age.secret, "state": state, "due_at": iso(age.since + self._period)}

        def unit(tx: Tx) -> bool:
            if not first_time(tx, "", f"secret:{age.secret}:{age.id}:{state}", at + _FOR_EVER):
                return False
            tell(tx, DUE, "secret.rotation_due", target=age.secret, outcome=state, notice=notice)
            return True

        if await self._database.writer.run(unit):
            log.warning("%s is %s to be rotated: due at %s", age.secret, state, notice["due_at"])

    async def _looked(self) -> None:
        try:
            await self.look(now())
        except (StoreUnavailable, SettingsError, OSError) as error:  # OSError: a folder that is full or read-only
            log.warning("the secrets are looked after an hour later: %s", error)

    async def _for_ever(self) -> None:
        while True:
            with surviving(log, "looking after the secrets"):
                await self._looked()
            await asyncio.sleep(LOOK_SECONDS)
