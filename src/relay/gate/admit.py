"""The door: address · limit · authenticate · authorise · limit, before anything of the body is parsed."""

from relay.core.access import Access
from relay.core.admission import Admission, grant_admission
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import InsufficientScope, Unauthenticated
from relay.core.signed import Evidence
from relay.gate.authenticate import Authenticate
from relay.gate.limit import Stages
from relay.gate.signature import VerifySignature


class Gate:
    """Admits requests. One instance guards every route of a process; the seal checks that it is this one."""

    def __init__(self, authenticate: Authenticate, limits: Stages, verify: VerifySignature | None = None) -> None:
        self._authenticate = authenticate
        self._limits = limits
        self._verify = verify

    async def admit(self, access: Access, facts: RequestFacts, evidence: Evidence | None = None) -> Admission:
        """Return the admission of this request, or raise the problem that tells the caller what to do.

        401 without a live credential or a signature that verifies, 403 when a required scope is missing, 429 when a
        limit is used up, 503 when credentials or limits cannot be checked. The body is read for a signature alone,
        after the address was counted. The caller's limits come last, so that nobody can use up a workspace's with a
        key that opens nothing or a signature that is wrong. A form of authentication that is not built is refused:
        the route stays shut.
        """
        await self._limits.address(access, facts)
        if access.auth == "public":
            return grant_admission(access, facts, None)
        try:
            if access.auth == "signature" and self._verify is not None and evidence is not None:
                signed = await self._verify(facts, evidence)
                await self._limits.signer(access, facts, signed)
                return grant_admission(access, facts, None, signed)
            if access.auth != "bearer":
                raise NotImplementedError(f"no way to authenticate by {access.auth}")
            principal = await self._authenticate(facts)
        except Unauthenticated as failure:
            await self._limits.failed(facts, failure)
            raise
        authorise(principal, access)
        await self._limits.caller(access, facts, principal)
        return grant_admission(access, facts, principal)


def authorise(principal: Principal, access: Access) -> None:
    """Refuse unless every scope of the declaration is held."""
    missing = principal.missing(access.scopes)
    if missing:
        raise InsufficientScope(missing, frozenset(access.scopes))
