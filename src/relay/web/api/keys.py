"""API keys: list, make, rotate, weaken, quarantine, revoke.

A key's text stands in the answer that made it and nowhere else.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from relay.core.access import Access
from relay.core.clock import iso, now
from relay.core.networks import MAX_NETWORK_TEXT, MAX_NETWORKS
from relay.core.principal import KeyKind, Scope
from relay.core.validation import validated
from relay.identity.api_keys import DEFAULT_PAGE, MAX_PAGE, ApiKeys
from relay.identity.rules import (
    DEFAULT_DAYS,
    DEFAULT_OVERLAP_HOURS,
    MAX_DAYS,
    MAX_NAME,
    MAX_OVERLAP_HOURS,
    MAX_SCOPE_NAMES,
)
from relay.identity.view import key_view
from relay.store.api_keys import ApiKeyRecord
from relay.surface.body import KIB, read_json
from relay.surface.declare import Call, Routes

_BODY_LIMIT: Final = 16 * KIB
_BODY_SECONDS: Final = 10.0
_MANAGE: Final[frozenset[Scope]] = frozenset({"keys:manage"})

KeyName = Annotated[str, Field(max_length=MAX_NAME, examples=["nightly report"])]
NetworkList = Annotated[
    list[Annotated[str, Field(max_length=MAX_NETWORK_TEXT, examples=["203.0.113.0/24"])]],
    Field(max_length=MAX_NETWORKS),
]
ScopeName = Annotated[str, Field(max_length=100, examples=["actions:preview", "developer"])]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyQuery(_In):
    """A page of keys."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Field(max_length=100)] | None = None


class KeysQuery(KeyQuery):
    """A page of keys; with ``parent`` the child tokens of that key."""

    parent: Annotated[str, Field(max_length=100)] | None = None


class CreateKey(_In):
    """A new key of the caller's workspace. ``scopes`` are scopes or bundles, all of them held by the caller.

    A ``honey`` key opens nothing: its use raises an alarm.
    """

    name: KeyName = ""
    kind: KeyKind = "agent"
    scopes: Annotated[list[ScopeName], Field(max_length=MAX_SCOPE_NAMES)] = []
    expires_days: Annotated[int, Field(strict=True, ge=1, le=MAX_DAYS)] = DEFAULT_DAYS
    allowed_networks: NetworkList = []
    honey: Annotated[bool, Field(strict=True)] = False


class NarrowKey(_In):
    """The scopes that a key keeps, as scopes or bundles: some of those that it has."""

    scopes: Annotated[list[ScopeName], Field(max_length=MAX_SCOPE_NAMES)]


class AllowedNetworks(_In):
    """Networks (CIDR) or addresses that requests may come from; none for any.

    Networks that would shut out the caller are refused unless ``lock_me_out`` is true.
    """

    allowed_networks: NetworkList
    lock_me_out: Annotated[bool, Field(strict=True)] = False


class RotateKey(_In):
    """For how long the old key lives on beside its successor."""

    overlap_hours: Annotated[int, Field(strict=True, ge=0, le=MAX_OVERLAP_HOURS)] = DEFAULT_OVERLAP_HOURS


class KeyItem(BaseModel):
    """A key without its text. ``made_by`` lists the credentials that it descends from, nearest last.

    ``parent_id`` is set for child tokens. ``honey`` is null for everybody but persons who manage keys.
    """

    id: str
    kind: KeyKind
    workspace: str
    name: str
    scopes: list[str]
    prefix: str
    last4: str
    status: Literal["live", "quarantined", "expired", "revoked"]
    made_by: list[str]
    created_at: str
    expires_at: str
    revoked_at: str | None
    last_used_at: str | None
    successor_id: str | None
    allowed_networks: list[str]
    parent_id: str | None
    allowed_actions: list[str]
    quarantined_at: str | None
    quarantine_reason: str | None
    honey: bool | None


class KeyList(BaseModel):
    """Keys of the workspace, newest first, ended ones included."""

    items: list[KeyItem]
    next_cursor: str | None


class NewKey(KeyItem):
    """A key that was just made. ``key`` is shown this once."""

    key: str


class RotatedKey(NewKey):
    """The successor, and when the key that it replaces ends."""

    predecessor_id: str
    predecessor_expires_at: str


class RevokedKey(BaseModel):
    """A key that opens nothing any more."""

    id: str
    revoked_at: str


def keys_routes(api_keys: ApiKeys) -> Routes:
    """Return the routes of API keys."""
    routes = Routes()

    @routes.get("/keys", access=_access("list"), summary="List keys")
    async def list_keys(call: Call, query: Annotated[KeysQuery, Query()]) -> KeyList:
        """Return the keys of the caller's workspace, newest first, ended ones included, without child tokens."""
        page = await api_keys.list(
            call.principal.workspace_id, cursor=query.cursor, limit=query.limit, parent=query.parent
        )
        return KeyList(items=[_item(call, record) for record in page.items], next_cursor=page.next_cursor)

    @routes.post(
        "/keys",
        access=_access("create"),
        body_limit=_BODY_LIMIT,
        status_code=201,
        summary="Make a key",
    )
    async def create_key(call: Call, body: CreateKey) -> NewKey:
        """Make a key with scopes that the caller holds. Its text is in this answer and nowhere else."""
        record, key_text = await api_keys.create(
            call.principal,
            workspace=call.principal.workspace_id,
            kind=body.kind,
            scopes=body.scopes,
            name=body.name,
            expires_days=body.expires_days,
            allowed_networks=body.allowed_networks,
            honey=body.honey,
            request_id=call.request_id,
        )
        return NewKey(**_view(call, record), key=key_text)

    @routes.post(
        "/keys/{key_id}/rotate",
        access=_access("rotate"),
        body_limit=_BODY_LIMIT,
        summary="Replace a key by a successor",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": RotateKey.model_json_schema()}}}},
    )
    async def rotate_key(call: Call, key_id: str) -> RotatedKey:
        """Make a successor with the same kind, scopes, name and lifetime; the old key ends after the overlap."""
        asked = await _rotation(call)
        made = await api_keys.rotate(
            call.principal, key_id, overlap_hours=asked.overlap_hours, request_id=call.request_id
        )
        return RotatedKey(
            **_view(call, made.record),
            key=made.key_text,
            predecessor_id=made.predecessor.id,
            predecessor_expires_at=iso(made.predecessor.expires_at),
        )

    @routes.put(
        "/keys/{key_id}/allowed-networks",
        access=_access("restrict"),
        body_limit=_BODY_LIMIT,
        summary="Set the networks that a key may be used from",
    )
    async def restrict_key(call: Call, key_id: str, body: AllowedNetworks) -> KeyItem:
        """Replace the list: it holds here when this is answered, within a second in every other process."""
        record = await api_keys.restrict_key(
            call.principal,
            key_id,
            body.allowed_networks,
            address=call.caller,
            lock_me_out=body.lock_me_out,
            request_id=call.request_id,
        )
        return _item(call, record)

    @routes.patch(
        "/keys/{key_id}", access=_access("narrow"), body_limit=_BODY_LIMIT, summary="Take scopes away from a key"
    )
    async def narrow_key(call: Call, key_id: str, body: NarrowKey) -> KeyItem:
        """Leave a key these scopes: here when this is answered, within a second in every other process."""
        record = await api_keys.narrow_key(call.principal, key_id, body.scopes, request_id=call.request_id)
        return _item(call, record)

    @routes.post("/keys/{key_id}/quarantine", access=_access("quarantine"), summary="Put a key into quarantine")
    async def quarantine_key(call: Call, key_id: str) -> KeyItem:
        """Take a key out of use until a person releases it; its child tokens end, what waits is cancelled."""
        return _item(call, await api_keys.quarantine(call.principal, key_id, request_id=call.request_id))

    @routes.post("/keys/{key_id}/release", access=_access("release"), summary="Release a key from quarantine")
    async def release_key(call: Call, key_id: str) -> KeyItem:
        """Let a key be used again. For persons, and not for the key itself or what it made."""
        return _item(call, await api_keys.release(call.principal, key_id, request_id=call.request_id))

    @routes.delete("/keys/{key_id}", access=_access("revoke"), summary="Revoke a key")
    async def revoke_key(call: Call, key_id: str) -> RevokedKey:
        """End a key now: here when this is answered, within a second in every other process."""
        record = await api_keys.revoke(call.principal, key_id, request_id=call.request_id)
        assert record.revoked_at is not None
        return RevokedKey(id=record.id, revoked_at=iso(record.revoked_at))

    return routes


async def _rotation(call: Call) -> RotateKey:
    """Return what a rotation asks for. Its body may be left out, which is why the route does not declare one."""
    lengths = [value for name, value in call.facts.headers if name in (b"content-length", b"transfer-encoding")]
    if lengths in ([], [b"0"]):
        return RotateKey()
    return validated(RotateKey, await read_json(call.facts, call.receive, _BODY_LIMIT, _BODY_SECONDS))


def _access(what: str) -> Access:
    return Access("bearer", _MANAGE, (), f"api:keys:{what}")


def _item(call: Call, record: ApiKeyRecord) -> KeyItem:
    return KeyItem(**_view(call, record))


def _view(call: Call, record: ApiKeyRecord) -> dict[str, Any]:
    # Where the traps are is for persons: an agent that could see them would walk around them.
    return key_view(record, now(), traps_shown=call.principal.kind == "person")
