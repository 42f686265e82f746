"""Quarantine: a credential that is out of use until a person has looked, and the traps that put one there.

A honey key looks like any other and opens nothing; whoever presents it has found what was meant to be found. A honey
action is in the catalogue like any other and is never run; whoever asks for it looks for what is not theirs.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final, Literal

from relay.audit.cancelling import cancel_some
from relay.audit.record import event
from relay.audit.violations import violation
from relay.core.clock import DAY, now
from relay.core.event import EventDraft
from relay.core.principal import Principal
from relay.core.problem import Conflict
from relay.identity import rules
from relay.identity.issue import Issuer, found_key, networks_of_living
from relay.store.api_keys import ApiKeyRecord, ApiKeyRepository
from relay.store.notices import first_time
from relay.store.writer import StoreUnavailable, Tx

Reason = Literal["by_person", "honey_action_used", "honey_key_used"]

MOST_ALARMS: Final = 100
"""How many alarms of honey keys may be on their way into the database at once; further ones are those of a flood."""
_DETAIL: Final = "The API key that asked for this is in quarantine."

log = logging.getLogger("relay.identity")


class Quarantine:
    """Takes credentials out of use and releases them. It holds here when a call returns, within a second elsewhere.

    With a key its child tokens end, for good, and what waits for either is cancelled. Keys that it made in the ordinary
    way go on: they have makers, by which they can be found.
    """

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._alarms: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Wait for the alarms that are on their way."""
        await asyncio.gather(*self._alarms, return_exceptions=True)

    async def impose(self, actor: Principal, key_id: str, *, request_id: str) -> ApiKeyRecord:
        """Put a key into quarantine and return it; one that is there already stays as it is.

        404 for a key of another workspace, 403 for a person's key if the actor is none, 409 for one that has ended.
        """
        moment = now()

        def unit(tx: Tx) -> tuple[ApiKeyRecord, Collection[str]]:
            networks_of_living(tx, actor, moment)
            keys, key = found_key(tx, actor, key_id)
            rules.require_may_end(actor, key)
            _require_not_ended(key, moment)
            return _impose(tx, keys, key, moment, "by_person", actor.id, request_id)

        key, family = await self._issuer.change(unit)
        await self._cancel(key.workspace_id, family)
        return key

    async def release(self, actor: Principal, key_id: str, *, request_id: str) -> ApiKeyRecord:
        """Take a key out of quarantine and return it; its child tokens stay ended.

        404 for a key of another workspace; 403 for an agent and for whoever descends from the key; 409 for a key that
        is in no quarantine or has ended meanwhile, and for a honey key, which would be a trap that has been sprung.
        """
        moment = now()

        def unit(tx: Tx) -> ApiKeyRecord:
            networks_of_living(tx, actor, moment)
            keys, key = found_key(tx, actor, key_id)
            rules.require_may_release(actor, key)
            _require_not_ended(key, moment)
            if key.honey:
                raise Conflict("A honey key opens nothing and is not released; revoke it and make another.")
            if key.quarantined_at is None:
                raise Conflict("This key is in no quarantine.")
            keys.release(key.id)
            tx.record(_event("released", key, actor.id, request_id))
            return replace(key, quarantined_at=None, quarantine_reason=None)

        return await self._issuer.change(unit)

    def honey_key_used(self, key: ApiKeyRecord, client: str) -> None:
        """Have it recorded that somebody at an address presented a honey key. Never waits and never raises."""
        if len(self._alarms) >= MOST_ALARMS:
            return
        alarm = asyncio.create_task(self._raise_alarm(key, client), name="keys-alarm")
        self._alarms.add(alarm)
        alarm.add_done_callback(self._alarms.discard)

    async def _raise_alarm(self, key: ApiKeyRecord, client: str) -> None:
        moment = now()

        def unit(tx: Tx) -> None:
            keys = ApiKeyRepository(tx, key.workspace_id)
            found = keys.find(key.id)
            day = moment // DAY
            if found is None or not first_time(tx, key.workspace_id, f"honey:{key.id}:{day}", (day + 2) * DAY):
                return
            tx.record(
                violation("honey_key_used", workspace_id=key.workspace_id, target=key.id, details={"address": client})
            )
            _impose(tx, keys, found, moment, "honey_key_used", "", "")

        try:
            await self._issuer.change(unit)
        except StoreUnavailable as error:
            log.error("the use of a honey key could not be recorded: %s", error)

    async def honey_action_used(self, principal: Principal, action: str, *, request_id: str, client: str) -> None:
        """Put the credential of a principal that asked for a honey action into quarantine, and raise the alarm.

        Of a principal that acts without a key only the alarm is raised. StoreUnavailable when neither can be written:
        then the caller must not learn that it has happened.
        """
        moment, workspace = now(), principal.workspace_id

        def unit(tx: Tx) -> Collection[str]:
            keys = ApiKeyRepository(tx, workspace)
            key = keys.find(principal.credential_id)
            tx.record(
                violation(
                    "honey_action_used",
                    workspace_id=workspace,
                    principal=principal.id,
                    request_id=request_id,
                    target=principal.credential_id,
                    action=action,
                    details={"address": client},
                )
            )
            if key is None:
                return ()
            return _impose(tx, keys, key, moment, "honey_action_used", principal.id, request_id)[1]

        await self._cancel(workspace, await self._issuer.change(unit))

    async def _cancel(self, workspace: str, family: Collection[str]) -> None:
        """Cancel what waits. What the database does not take now stays, and is refused when its time comes."""
        if not family:
            return

        def unit(tx: Tx) -> int:
            return cancel_some(
                tx,
                workspace,
                principals=family,
                actions=None,
                tag="gate:action:cancelled",
                code="credential_revoked",
                detail=_DETAIL,
            )

        try:
            while await self._issuer.database.writer.run(unit, outcome=True) > 0:
                pass
        except StoreUnavailable as error:
            log.warning("what waits for a key in quarantine is not cancelled yet: %s", error)


def _impose(
    tx: Tx, keys: ApiKeyRepository, key: ApiKeyRecord, moment: int, reason: Reason, principal: str, request_id: str
) -> tuple[ApiKeyRecord, Collection[str]]:
    """Put a key into quarantine unless it is there or revoked; return it with whose waiting is to be cancelled."""
    family = (key.id, *keys.children(key.id))
    if key.quarantined_at is not None or key.revoked_at is not None:
        return key, family
    keys.quarantine(key.id, moment, reason)
    details = {"children": list(family[1:])} if len(family) > 1 else None
    tx.record(_event("quarantined", key, principal, request_id, notice={"reason": reason}, details=details))
    return replace(key, quarantined_at=moment, quarantine_reason=reason), family


def _require_not_ended(key: ApiKeyRecord, moment: int) -> None:
    if key.revoked_at is not None or moment >= key.expires_at:
        raise Conflict("This key has been revoked or has expired.")


def _event(what: str, key: ApiKeyRecord, principal: str, request_id: str, **more: Any) -> EventDraft:
    return event(
        f"identity:key:{what}",
        workspace_id=key.workspace_id,
        principal=principal,
        request_id=request_id,
        target=key.id,
        **more,
    )
