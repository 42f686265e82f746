"""Child tokens: a key mints for itself a weaker one that ends within the hour, to be handed to one agent run.

A child token has at most what its parent has now, for at most as long, counts as its parent wherever callers are
counted, and can do nothing that would outlive it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relay.audit.record import event
from relay.core.clock import MICROSECONDS, iso, now
from relay.core.principal import Principal, Scope
from relay.core.problem import Conflict, NotFound, Unauthenticated
from relay.identity import rules
from relay.identity.issue import Issuer, found_key
from relay.store.api_keys import ApiKeyRecord, ApiKeyRepository
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class _Wish:
    """What was asked for, looked at as far as that needs no database."""

    scopes: tuple[Scope, ...]
    networks: tuple[str, ...]
    actions: tuple[str, ...]
    lifetime: int
    name: str


class Children:
    """Mints and ends child tokens. Safe to call at once from any number of requests and processes."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def mint(
        self,
        actor: Principal,
        parent_id: str,
        *,
        scopes: Sequence[str],
        name: str = "",
        expires_seconds: int = rules.DEFAULT_CHILD_SECONDS,
        allowed_networks: Sequence[str] = (),
        allowed_actions: Sequence[str] = (),
        request_id: str,
    ) -> tuple[ApiKeyRecord, str]:
        """Make a child token of a key and return its record and its text, which is kept nowhere.

        The actor is the key itself, or the operator. A child is of kind agent. It ends after ``expires_seconds``, and
        with its parent if that ends before. ``allowed_networks`` are by default its parent's, beyond which it cannot
        go; ``allowed_actions`` are all that it may run, by default any. 401 when the key has ended meanwhile; 403 for a
        scope that the key lacks or that no child may have, and for a child token that would mint another; 404 for
        another key than the actor's; 409 when as many of its children live as may.
        """
        wish = _Wish(
            rules.checked_child_scopes(scopes),
            rules.checked_networks(allowed_networks),
            rules.checked_actions(allowed_actions),
            rules.checked_child_seconds(expires_seconds) * MICROSECONDS,
            rules.checked_name(name),
        )
        if actor.auth_method != "operator" and actor.credential_id != parent_id:
            raise NotFound("There is no such key.")
        new, moment = await self._issuer.new_key(), now()

        def unit(tx: Tx) -> ApiKeyRecord:
            keys, parent = found_key(tx, actor, parent_id)
            _require_may_mint(keys, parent, wish, actor, moment)
            child = _child_of(parent, wish, self._issuer.names(new), moment)
            keys.add(child, new.hash, new.pepper_id)
            _note(tx, "minted", actor, child, request_id, wish)
            return child

        return await self._issuer.database.writer.run(unit), new.text

    async def end(self, actor: Principal, key_id: str, *, request_id: str) -> ApiKeyRecord:
        """End a child token now, by its parent or by itself; 404 for any other key. Doing it twice is fine."""
        moment = now()

        def unit(tx: Tx) -> ApiKeyRecord:
            keys, child = found_key(tx, actor, key_id)
            if child.parent_id is None or actor.credential_id not in (child.parent_id, child.id):
                raise NotFound("There is no such child token of this key.")
            if child.revoked_at is None:
                keys.revoke(child.id, moment)
                _note(tx, "revoked", actor, child, request_id)
                return keys.find(child.id) or child
            return child

        return await self._issuer.change(unit)


def _require_may_mint(keys: ApiKeyRepository, parent: ApiKeyRecord, wish: _Wish, actor: Principal, moment: int) -> None:
    rules.require_no_child(parent)
    if parent.honey or not parent.lives(moment):
        if actor.credential_id == parent.id:
            raise Unauthenticated
        raise Conflict("This key has ended or is in quarantine; it can have no child token.")
    rules.require_scopes_of(parent, wish.scopes)
    if keys.living_children(parent.id, moment) >= rules.MAX_CHILDREN:
        raise Conflict(
            f"{rules.MAX_CHILDREN} child tokens of this key live, as many as may; end one, or wait for one to end."
        )


def _child_of(parent: ApiKeyRecord, wish: _Wish, names: dict[str, Any], moment: int) -> ApiKeyRecord:
    return ApiKeyRecord(
        **names,
        workspace_id=parent.workspace_id,
        kind="agent",
        name=wish.name,
        scopes=wish.scopes,
        made_by=rules.makers_of_child(parent),
        created_at=moment,
        expires_at=min(moment + wish.lifetime, parent.expires_at),
        allowed_networks=rules.narrowed(parent.allowed_networks, wish.networks),
        parent_id=parent.id,
        allowed_actions=wish.actions,
    )


def _note(tx: Tx, what: str, actor: Principal, child: ApiKeyRecord, request_id: str, wish: _Wish | None = None) -> None:
    details: dict[str, Any] = {"parent": child.parent_id, "scopes": list(child.scopes), "ends": iso(child.expires_at)}
    if wish is not None and wish.actions:
        details["allowed_actions"] = list(wish.actions)
    if child.allowed_networks:
        details["allowed_networks"] = list(child.allowed_networks)
    tx.record(
        event(
            f"identity:key:{what}",
            workspace_id=child.workspace_id,
            principal=actor.id,
            request_id=request_id,
            target=child.id,
            details=details,
        )
    )
