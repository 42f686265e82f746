"""The kill switch of the caller's workspace."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from relay.core.access import Access
from relay.core.principal import Scope
from relay.policy.kill_switch import MAX_REASON, KillSwitch
from relay.policy.stops import stop_view
from relay.store.kill_switch import Stop
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes

_BODY_LIMIT: Final = 16 * KIB
# What ids and names are made of; PostgreSQL takes no NUL in text.
_VISIBLE: Final = r"^[!-~]+$"
_ADMIN: Final[frozenset[Scope]] = frozenset({"workspace:admin"})

StopScope = Literal["workspace", "key", "action", "connector"]
_SCOPES: Final[tuple[StopScope, ...]] = ("workspace", "key", "action", "connector")

_Id = Annotated[str, Field(min_length=1, max_length=200, pattern=_VISIBLE)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StopSubject(_In):
    """What to stop, one of them: the caller's own workspace, a key with all that it made, an action, a connector."""

    workspace: _Id | None = None
    key: _Id | None = None
    action: Annotated[str, Field(min_length=1, max_length=200, pattern=_VISIBLE, examples=["email.send"])] | None = None
    connector: Annotated[str, Field(min_length=1, max_length=200, pattern=_VISIBLE, examples=["email"])] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "StopSubject":
        if len([name for name in _SCOPES if getattr(self, name) is not None]) != 1:
            raise ValueError("name one of workspace, key, action and connector")
        return self

    def named(self) -> tuple[StopScope, str]:
        """Return the kind and the id."""
        kind = next(name for name in _SCOPES if getattr(self, name) is not None)
        return kind, getattr(self, kind)


class TurnKillSwitch(_In):
    """Turn the kill switch for one thing. ``reason`` is shown to whoever is stopped."""

    on: Annotated[bool, Field(strict=True)]
    scope: StopSubject
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON, examples=["sends the wrong invoices"])]


class StopItem(BaseModel):
    """Something that is stopped. ``workspace`` is null where it is stopped in every one.

    ``authority`` says who alone can turn it off: the operator, or the workspace itself.
    """

    scope: dict[str, str | bool]
    workspace: str | None
    reason: str
    since: str
    by: str
    authority: Literal["operator", "workspace"]


class StopList(BaseModel):
    """What is stopped in the caller's workspace; nothing, as a rule."""

    items: list[StopItem]


def kill_switch_routes(kill_switch: KillSwitch) -> Routes:
    """Return the routes of the kill switch."""
    routes = Routes()

    @routes.get(
        "/kill-switch", access=Access("bearer", _ADMIN, (), "api:kill_switch:list"), summary="Show what is stopped"
    )
    async def show(call: Call) -> StopList:
        """Return what is stopped in the caller's workspace, what is stopped everywhere included."""
        return _listed(await kill_switch.on(call.principal.workspace_id))

    @routes.post(
        "/kill-switch",
        access=Access("bearer", _ADMIN, (), "api:kill_switch:turn"),
        body_limit=_BODY_LIMIT,
        summary="Stop a workspace, key, action or connector, or let it run again",
    )
    async def turn(call: Call, body: TurnKillSwitch) -> StopList:
        """Turn the switch: once this is answered nothing that it stops begins any more, in no process.

        An agent can turn it on, only a person off.
        """
        kind, subject = body.scope.named()
        stops = await kill_switch.turn(
            call.principal,
            on=body.on,
            kind=kind,
            subject=subject,
            workspace=call.principal.workspace_id,
            reason=body.reason,
            request_id=call.request_id,
        )
        return _listed(stops)

    return routes


def _listed(stops: list[Stop]) -> StopList:
    return StopList(items=[StopItem(**stop_view(stop)) for stop in stops])
