"""The caller's workspace: from which networks its keys may be used."""

from typing import Final

from pydantic import BaseModel

from relay.core.access import Access
from relay.core.principal import Scope
from relay.identity.api_keys import ApiKeys
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes
from relay.web.api.keys import AllowedNetworks

_BODY_LIMIT: Final = 16 * KIB
_ADMIN: Final[frozenset[Scope]] = frozenset({"workspace:admin"})


class NetworksOfWorkspace(BaseModel):
    """The networks that requests with the workspace's keys may come from; none for any."""

    allowed_networks: list[str]


def workspace_routes(api_keys: ApiKeys) -> Routes:
    """Return the routes of the caller's workspace."""
    routes = Routes()

    @routes.get(
        "/workspace/allowed-networks",
        access=Access("bearer", _ADMIN, (), "api:workspace:read"),
        summary="Show the networks that the workspace's keys may be used from",
    )
    async def show(call: Call) -> NetworksOfWorkspace:
        """Return the list; none for any network."""
        networks = await api_keys.workspace_networks(call.principal.workspace_id)
        return NetworksOfWorkspace(allowed_networks=list(networks))

    @routes.put(
        "/workspace/allowed-networks",
        access=Access("bearer", _ADMIN, (), "api:workspace:restrict"),
        body_limit=_BODY_LIMIT,
        summary="Set the networks that the workspace's keys may be used from",
    )
    async def restrict(call: Call, body: AllowedNetworks) -> NetworksOfWorkspace:
        """Replace the list: it holds here when this is answered, within a second in every other process."""
        networks = await api_keys.restrict_workspace(
            call.principal,
            call.principal.workspace_id,
            body.allowed_networks,
            address=call.caller,
            lock_me_out=body.lock_me_out,
            request_id=call.request_id,
        )
        return NetworksOfWorkspace(allowed_networks=list(networks))

    return routes
