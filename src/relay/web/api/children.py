"""Child tokens: what a key mints for itself, to be handed to one agent run."""

from typing import Annotated, Final

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from relay.core.access import Access
from relay.core.clock import iso, now
from relay.identity.api_keys import ApiKeys
from relay.identity.rules import (
    DEFAULT_CHILD_SECONDS,
    MAX_ACTION_NAME,
    MAX_ACTIONS,
    MAX_CHILD_SECONDS,
    MAX_SCOPE_NAMES,
    MIN_CHILD_SECONDS,
)
from relay.identity.view import key_view
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes
from relay.web.api.keys import KeyItem, KeyList, KeyName, KeyQuery, NetworkList, NewKey, RevokedKey, ScopeName

_BODY_LIMIT: Final = 16 * KIB

_ActionName = Annotated[str, Field(max_length=MAX_ACTION_NAME, examples=["email.send"])]


class MintChild(BaseModel):
    """A child token of the caller's own key. ``allowed_actions`` are all that it may run; none for any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: KeyName = ""
    scopes: Annotated[list[ScopeName], Field(max_length=MAX_SCOPE_NAMES)] = []
    expires_seconds: Annotated[int, Field(strict=True, ge=MIN_CHILD_SECONDS, le=MAX_CHILD_SECONDS)] = (
        DEFAULT_CHILD_SECONDS
    )
    allowed_networks: NetworkList = []
    allowed_actions: Annotated[list[_ActionName], Field(max_length=MAX_ACTIONS)] = []


def children_routes(api_keys: ApiKeys) -> Routes:
    """Return the routes of child tokens. They need a live key and no scope: a child is never more than its parent."""
    routes = Routes()

    @routes.get("/keys/children", access=_access("list_children"), summary="List the child tokens of the caller's key")
    async def list_children(call: Call, query: Annotated[KeyQuery, Query()]) -> KeyList:
        """Return the child tokens of the key that asks, newest first; those that ended days ago are not kept."""
        who = call.principal
        page = await api_keys.list(who.workspace_id, cursor=query.cursor, limit=query.limit, parent=who.credential_id)
        items = [KeyItem(**key_view(record, now())) for record in page.items]
        return KeyList(items=items, next_cursor=page.next_cursor)

    @routes.post(
        "/keys/children",
        access=_access("mint", "children"),
        body_limit=_BODY_LIMIT,
        status_code=201,
        summary="Mint a child token of the caller's key",
    )
    async def mint_child(call: Call, body: MintChild) -> NewKey:
        """Make a weaker, short-lived token. Its text is in this answer and nowhere else."""
        record, text = await api_keys.mint(
            call.principal,
            call.principal.credential_id,
            scopes=body.scopes,
            name=body.name,
            expires_seconds=body.expires_seconds,
            allowed_networks=body.allowed_networks,
            allowed_actions=body.allowed_actions,
            request_id=call.request_id,
        )
        return NewKey(**key_view(record, now()), key=text)

    @routes.delete("/keys/children/{key_id}", access=_access("end_child", "children"), summary="End a child token")
    async def end_child(call: Call, key_id: str) -> RevokedKey:
        """End a child token of the caller's key, or the caller itself where it is one."""
        record = await api_keys.end_child(call.principal, key_id, request_id=call.request_id)
        assert record.revoked_at is not None
        return RevokedKey(id=record.id, revoked_at=iso(record.revoked_at))

    return routes


def _access(what: str, *limits: str) -> Access:
    return Access("bearer", frozenset(), limits, f"api:keys:{what}")
