"""Making keys weaker: from where they may be used, and which scopes they keep; each change one unit with its event."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from relay.audit.record import event
from relay.core.clock import now
from relay.core.principal import Principal, Scope
from relay.core.problem import NotFound
from relay.identity import rules
from relay.identity.issue import found_key, networks_of_living
from relay.store.api_keys import ApiKeyRecord, void_caches
from relay.store.reader import Reader
from relay.store.workspaces import allowed_networks, ensure_workspace, is_workspace_id, locked_networks, set_networks
from relay.store.writer import Tx, Unit

T = TypeVar("T")


class Change(Protocol):
    """Runs a unit that changes what caches of keys hold, and voids them."""

    async def __call__(self, unit: Unit[T]) -> T: ...


class Restrictor:
    """Sets and shows the networks that keys may be used from, where an empty list is any; takes scopes away.

    A change holds in this process when a call returns, and within a second in every other: for requests, and for what
    has waited and is about to begin. ``address`` is the caller's, None for the operator, who cannot be locked out.
    """

    def __init__(self, reader: Reader, change: Change) -> None:
        self._reader = reader
        self._change = change

    async def workspace_networks(self, workspace_id: str) -> tuple[str, ...]:
        """Return the list of a workspace; one that does not exist yet has none."""
        return await allowed_networks(self._reader, workspace_id) or ()

    async def restrict_workspace(
        self,
        actor: Principal,
        workspace_id: str,
        networks: Sequence[str],
        *,
        address: str | None,
        lock_me_out: bool = False,
        request_id: str,
    ) -> tuple[str, ...]:
        """Replace the list of a workspace and return it.

        404 for another workspace than the actor's, or, for the operator, one that does not exist; 403 for an agent; 409
        when the caller's address is not in it, unless ``lock_me_out``.
        """
        listed = rules.checked_networks(networks)
        foreign = actor.auth_method != "operator" and workspace_id != actor.workspace_id
        if foreign or not is_workspace_id(workspace_id):
            raise NotFound("There is no such workspace.")
        rules.require_may_restrict_workspace(actor)
        if not lock_me_out:
            rules.require_not_locked_out(listed, address)
        moment = now()

        def unit(tx: Tx) -> tuple[str, ...]:
            networks_of_living(tx, actor, moment)
            before = locked_networks(tx, workspace_id)
            if before is None and actor.auth_method == "operator":
                raise NotFound("There is no such workspace.")
            ensure_workspace(tx, workspace_id, moment)
            set_networks(tx, workspace_id, listed)
            void_caches(tx)
            _note(tx, "workspace", actor, workspace_id, workspace_id, request_id, before or (), listed)
            return listed

        return await self._change(unit)

    async def restrict_key(
        self,
        actor: Principal,
        key_id: str,
        networks: Sequence[str],
        *,
        address: str | None,
        lock_me_out: bool = False,
        request_id: str,
    ) -> ApiKeyRecord:
        """Replace the list of a key and return the key.

        404 for a key of another workspace; 403 for a person's key if the actor is none, and for networks beyond those
        that the actor's own key is bound to; 409 when it is the actor's own key and the caller's address is not in the
        list, unless ``lock_me_out``.
        """
        listed = rules.checked_networks(networks)
        moment = now()

        def unit(tx: Tx) -> ApiKeyRecord:
            own = networks_of_living(tx, actor, moment)
            keys, key = found_key(tx, actor, key_id)
            rules.require_may_end(actor, key)
            rules.require_not_widened(own, listed)
            if key.id == actor.credential_id and not lock_me_out:
                rules.require_not_locked_out(listed, address)
            keys.restrict(key.id, listed)
            _note(tx, "key", actor, key.workspace_id, key.id, request_id, key.allowed_networks, listed)
            return replace(key, allowed_networks=listed)

        return await self._change(unit)

    async def narrow_key(
        self, actor: Principal, key_id: str, scopes: Sequence[str], *, request_id: str
    ) -> ApiKeyRecord:
        """Leave a key these scopes (names of scopes or bundles) and take it every other; return the key.

        Its child tokens lose them too, and so does whatever waits. 404 for a key of another workspace; 403 for a
        person's key if the actor is none; 409 for a scope that the key does not have, and for a key that has ended;
        422 for no scope at all: revoke such a key.
        """
        wanted: tuple[Scope, ...] = rules.checked_scopes(scopes)
        moment = now()

        def unit(tx: Tx) -> ApiKeyRecord:
            networks_of_living(tx, actor, moment)
            keys, key = found_key(tx, actor, key_id)
            rules.require_may_end(actor, key)
            left = rules.narrowed_scopes(key, wanted, moment)
            if left != key.scopes:
                keys.narrow(key.id, left)
                _note(tx, "key", actor, key.workspace_id, key.id, request_id, key.scopes, left, verb="narrowed")
            return replace(key, scopes=left)

        return await self._change(unit)


def _note(
    tx: Tx,
    what: str,
    actor: Principal,
    workspace_id: str,
    target: str,
    request_id: str,
    before: Sequence[str],
    after: Sequence[str],
    verb: str = "restricted",
) -> None:
    details: dict[str, Any] = {"before": list(before), "after": list(after)}
    tx.record(
        event(
            f"identity:{what}:{verb}",
            workspace_id=workspace_id,
            principal=actor.id,
            request_id=request_id,
            target=target,
            details=details,
        )
    )
