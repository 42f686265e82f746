"""The kill switch: what is stopped does not start, here and in every other process."""

import asyncio
import logging
from typing import Any, Final

from relay.audit.record import event
from relay.catalog import ActionSpec, Catalog
from relay.core.clock import now
from relay.core.principal import Principal
from relay.core.problem import Conflict, Denied, Invalid, NotFound
from relay.policy.actors import Services, require_key, require_living, require_person
from relay.policy.stopping import Stopping
from relay.policy.stops import named, problem_of, stop_of, stops_key
from relay.store.cache import GenerationCache
from relay.store.database import Database
from relay.store.kill_switch import (
    EVERYWHERE,
    Authority,
    Stop,
    StopKind,
    add_stop,
    begin_start,
    begin_turn,
    find_stop,
    has_workspace,
    read_all_stops,
    read_stops,
    remove_stop,
    stops_here,
    workspace_ids,
)
from relay.store.writer import StoreUnavailable, Tx

MAX_REASON: Final = 500
MAX_STOPS: Final = 1000
_PAGE: Final = 200
_AUTHORITIES: Final[tuple[Authority, ...]] = ("operator", "workspace")

log = logging.getLogger("relay.policy")


class KillSwitch:
    """Stops a workspace, a key with all that it made, an action, a connector, or everything.

    Turning it on is exact: when :meth:`turn` has returned nothing that it stops begins any more, in no process, since
    :meth:`check` and :meth:`turn` exclude one another. An effect that had begun before goes on to its outcome.
    :class:`~relay.store.writer.StoreUnavailable` from any method when the database does not answer: what is not known
    to be allowed does not start. ``services`` are stopped by their ids, as keys are.
    """

    def __init__(self, database: Database, catalog: Catalog, services: Services) -> None:
        self._database = database
        self._catalog = catalog
        self._services = services
        self._here: GenerationCache[list[Stop]] = GenerationCache(database.generation)
        self._turning: set[asyncio.Task[Any]] = set()
        self.stopping: Final = Stopping(database, catalog)

    async def stopped(self, principal: Principal, spec: ActionSpec) -> Stop | None:
        """Return the stop that holds for an action of this principal, at most a second old, or None."""
        return stop_of(await self._stops(principal.workspace_id), principal, spec)

    def check(self, tx: Tx, principal: Principal, spec: ActionSpec) -> None:
        """Refuse what is stopped (:class:`~relay.core.problem.Stopped`), exactly. Writes nothing.

        From here to the commit nobody can turn the switch. To be called before the unit takes any other lock.
        """
        begin_start(tx)
        stop = stop_of(stops_here(tx, principal.workspace_id), principal, spec)
        if stop is not None:
            raise problem_of(stop)

    async def on(self, workspace_id: str) -> list[Stop]:
        """Return what is stopped in a workspace, what is stopped everywhere included."""
        return await read_stops(self._database.reader, workspace_id)

    async def on_everywhere(self) -> list[Stop]:
        """Return every stop of every workspace. For the operator's command line alone."""
        return await read_all_stops(self._database.reader)

    async def turn(
        self,
        actor: Principal,
        *,
        on: bool,
        kind: StopKind,
        subject: str,
        workspace: str,
        reason: str,
        request_id: str,
    ) -> list[Stop]:
        """Turn the switch for one thing, cancel what waits behind it, and return what is stopped in ``workspace``.

        Doing again what is done already changes nothing. Everybody who may turn it at all may turn it on; off, only a
        person whose own key is not stopped, and what the operator turned on, only the operator. The operator alone
        stops everything (``subject`` and ``workspace`` empty), or an action, a connector or a service in every
        workspace (``workspace`` empty). 403 otherwise; 404 for a workspace or a key that is not the caller's; 409 for
        more than 1000 stops; 422 for an action or a connector that does not exist, and for a reason of more than 500
        printable characters, or none.
        """
        turn = _Turn(actor, on, kind, subject, workspace, checked_reason(reason), request_id, self._services)
        turn.require_allowed()
        known = kind not in ("action", "connector") or self._exists(kind, subject)
        # A caller that hangs up must not leave the switch half turned, nor this process with a cache of before.
        task = asyncio.create_task(self._turn(turn, known))
        self._turning.add(task)
        task.add_done_callback(self._turning.discard)
        await asyncio.shield(task)
        return await self.on(workspace)

    async def _turn(self, turn: "_Turn", known: bool) -> None:
        try:
            stop = await self._database.writer.run(lambda tx: turn.unit(tx, known), outcome=True)
        finally:  # also when it failed: the change may have become durable without an answer
            self._database.generation.changed()
        # The switch is turned: what follows may have to wait for the database, the caller's answer does not change.
        try:
            if turn.on:
                await self.stopping.cancel(stop or turn.stop())
            if stop is not None and stop.workspace_id == EVERYWHERE:
                await self._tell_workspaces(turn, stop)
        except StoreUnavailable as error:
            log.warning("what follows from the kill switch is not complete yet: %s", error)

    async def _tell_workspaces(self, turn: "_Turn", stop: Stop) -> None:
        """Write into each workspace's own log that something was stopped, or may run again, everywhere."""
        after = ""
        while page := await workspace_ids(self._database.reader, after, _PAGE):
            drafts = [turn.event(stop, workspace) for workspace in page]

            def unit(tx: Tx, drafts: list[Any] = drafts) -> None:
                for draft in drafts:
                    tx.record(draft)

            await self._database.writer.run(unit, outcome=True)
            after = page[-1]

    def _exists(self, kind: StopKind, subject: str) -> bool:
        if kind == "action":
            return self._catalog.get(subject) is not None
        return any(spec.connector == subject for spec in self._catalog)

    async def _stops(self, workspace_id: str) -> list[Stop]:
        found = self._here.get(workspace_id)
        if found is None:
            generation = self._database.generation.current()
            found = await read_stops(self._database.reader, workspace_id)
            self._here.put(workspace_id, found, generation)
        return found


class _Turn:
    """One turn of the switch, as somebody asked for it."""

    def __init__(
        self,
        actor: Principal,
        on: bool,
        kind: StopKind,
        subject: str,
        workspace: str,
        reason: str,
        request_id: str,
        services: Services,
    ) -> None:
        self.actor = actor
        self.on = on
        self.kind = kind
        self.subject = subject
        self.workspace = workspace
        self.reason = reason
        self.request_id = request_id
        self.services = services
        self.at = now()
        self.by_operator = actor.auth_method == "operator"

    def require_allowed(self) -> None:
        if not self.by_operator:
            if self.workspace != self.actor.workspace_id or (
                self.kind == "workspace" and self.subject != self.workspace
            ):
                raise NotFound("There is no such workspace.")
            if self.kind == "everything":
                raise Denied("Only the operator can stop everything, by the command line.")
            if not self.on:
                require_person(self.actor, "turn the kill switch off")

    def stop(self, authority: Authority | None = None) -> Stop:
        authority = authority or ("operator" if self.by_operator else "workspace")
        return Stop(self.workspace, self.kind, self.subject, authority, self.reason, self.actor.id, self.at)

    def unit(self, tx: Tx, known: bool) -> Stop | None:
        """Turn it; return what was turned, None when it was that way already."""
        require_living(tx, self.actor, self.at)
        wanted = self.stop()
        existing = [found for whose in _AUTHORITIES if (found := self._existing(tx, whose)) is not None]
        if not existing:
            self._require_subject(tx)
        mine = next((found for found in existing if found.authority == wanted.authority), None)
        if not known and not existing:
            raise _invalid(f"/scope/{self.kind}", f"There is no {self.kind} of this name.")
        return self._switch_on(tx, wanted, mine) if self.on else self._switch_off(tx, mine, existing)

    def _existing(self, tx: Tx, whose: Authority) -> Stop | None:
        return find_stop(tx, self.workspace, self.kind, self.subject, whose)

    def _switch_on(self, tx: Tx, wanted: Stop, mine: Stop | None) -> Stop | None:
        if mine is not None:
            return None
        if not self.by_operator and len(stops_here(tx, self.workspace)) >= MAX_STOPS:
            raise Conflict(f"A workspace has at most {MAX_STOPS} stops; stop the workspace.")
        begin_turn(tx)
        if self._existing(tx, wanted.authority) is not None:  # somebody was quicker
            return None
        add_stop(tx, wanted)
        tx.record(self.event(wanted, wanted.workspace_id))
        return wanted

    def _switch_off(self, tx: Tx, mine: Stop | None, existing: list[Stop]) -> Stop | None:
        own = stops_key(stops_here(tx, self.workspace), self.actor)
        if own is not None:
            raise problem_of(own)
        if mine is None and existing and not self.by_operator:
            raise Denied("The operator turned this on; only the operator can turn it off, by the command line.")
        lifted = existing if self.by_operator else [mine] if mine is not None else []
        if not lifted:
            return None
        begin_turn(tx)
        removed = [stop for stop in lifted if remove_stop(tx, stop)]
        for stop in removed:
            tx.record(self.event(stop, stop.workspace_id))
        return removed[0] if removed else None

    def _require_subject(self, tx: Tx) -> None:
        if self.workspace and self.by_operator and not has_workspace(tx, self.workspace):
            raise NotFound("There is no such workspace.")
        if self.kind == "key" and not (self.workspace == EVERYWHERE and self.subject in self.services):
            require_key(tx, self.workspace, self.subject, self.services)

    def event(self, stop: Stop, workspace: str) -> Any:
        """Return the event of this turn for one workspace's log."""
        scope = {stop.kind: stop.subject or True}
        return event(
            f"policy:kill_switch:{'on' if self.on else 'off'}",
            workspace_id=workspace,
            principal=self.actor.id,
            request_id=self.request_id,
            target=named(stop),
            details={"scope": scope, "reason": self.reason, "authority": stop.authority},
            notice={"on": self.on, "scope": scope},
        )


def checked_reason(reason: str) -> str:
    """Return why the switch is turned, as it will be shown; 422 when nothing is said, or more than can be shown."""
    said = reason.strip()
    if not said or len(said) > MAX_REASON or not said.isprintable():
        raise _invalid("/reason", f"1 to {MAX_REASON} printable characters.")
    return said


def _invalid(pointer: str, message: str) -> Invalid:
    return Invalid(message, errors=[{"pointer": pointer, "message": message}])
