"""The door: address · limit · authenticate · authorise · limit, before anything of the body is parsed."""

from relay.core.access import Access
from relay.core.admission import Admission, grant_admission
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import InsufficientScope, Unauthenticated
from relay.core.signed import Evidence
from relay.gate.authenticate import Authenticate
from relay.gate.limit import Stages
from relay.gate.operator import RequireOperator
from relay.gate.signature import VerifySignature
from relay.telemetry import context


class Gate:
    """Admits requests. One instance guards every route of a process; the seal checks that it is this one."""

    def __init__(
        self,
        authenticate: Authenticate,
        limits: Stages,
        verify: VerifySignature | None = None,
        require_operator: RequireOperator | None = None,
    ) -> None:
        self._authenticate = authenticate
        self._limits = limits
        self._verify = verify
        self._require_operator = require_operator

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
        if access.auth == "operator" and self._require_operator is not None:
            self._require_operator(facts)
            return grant_admission(access, facts, None)
        try:
            if access.auth == "signature" and self._verify is not None and evidence is not None:
                signed = await self._verify(facts, evidence)
                context.bind(workspace=signed.workspace_id)
                await self._limits.signer(access, facts, signed)
                return grant_admission(access, facts, None, signed)
            if access.auth != "bearer":
                raise NotImplementedError(f"no way to authenticate by {access.auth}")
            principal = await self._authenticate(facts, access.doors)
            context.bind(principal=principal.id, workspace=principal.workspace_id)
        except Unauthenticated as failure:
            facts.refused = failure.reason  # also where its 401 becomes a 429
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
