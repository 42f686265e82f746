"""The door: address · authenticate · authorise, before a byte of the body is read."""

from relay.core.access import Access
from relay.core.admission import Admission, grant_admission
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import InsufficientScope
from relay.gate.authenticate import Authenticate


class Gate:
    """Admits requests. One instance guards every route of a process; the seal checks that it is this one."""

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate

    async def admit(self, access: Access, facts: RequestFacts) -> Admission:
        """Return the admission of this request, or raise the problem that tells the caller what to do.

        401 without a live credential, 403 when a required scope is missing, 503 when credentials cannot be checked.
        A form of authentication that is not built is refused: the route stays shut.
        """
        if access.auth == "public":
            return grant_admission(access, facts, None)
        if access.auth != "bearer":
            raise NotImplementedError(f"no way to authenticate by {access.auth}")
        principal = await self._authenticate(facts)
        authorise(principal, access)
        return grant_admission(access, facts, principal)


def authorise(principal: Principal, access: Access) -> None:
    """Refuse unless every scope of the declaration is held."""
    missing = principal.missing(access.scopes)
    if missing:
        raise InsufficientScope(missing, frozenset(access.scopes))
