"""The mark that ``admit`` leaves on a request; without it no success leaves the server."""

from typing import Final

from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.core.principal import Principal

_KEY: Final = object()


class AdmissionRefused(RuntimeError):
    """Somebody other than the gate tried to make an admission."""


class Admission:
    """Proof that one request was admitted under one declaration. ``principal`` is None on a public route.

    Only :func:`grant_admission` makes one, and only ``relay.gate.admit`` may import that function (lint refuses other
    importers).
    """

    __slots__ = ("access", "facts", "principal")

    def __init__(self, key: object, access: Access, facts: RequestFacts, principal: Principal | None) -> None:
        if key is not _KEY:
            raise AdmissionRefused("admissions are granted by the gate alone")
        self.access = access
        self.facts = facts
        self.principal = principal

    def covers(self, facts: RequestFacts) -> bool:
        """Say whether this admission was granted to that very request."""
        return self.facts is facts


def grant_admission(access: Access, facts: RequestFacts, principal: Principal | None) -> Admission:
    """Grant admission to one request. For ``relay.gate.admit`` alone."""
    return Admission(_KEY, access, facts, principal)
