"""The mark that ``admit`` leaves on a request; without it no success leaves the server."""

from typing import Final

from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.signed import Signed

_KEY: Final = object()


class AdmissionRefused(RuntimeError):
    """Somebody other than the gate tried to make an admission."""


class Admission:
    """Proof that one request was admitted under one declaration.

    ``principal`` is None on routes that are public or admit by signature; ``signed`` is what the latter verified.

    Only :func:`grant_admission` makes one, and only ``relay.gate.admit`` may import that function (lint refuses other
    importers).
    """

    __slots__ = ("access", "facts", "principal", "signed")

    def __init__(
        self,
        key: object,
        access: Access,
        facts: RequestFacts,
        principal: Principal | None,
        signed: Signed | None = None,
    ) -> None:
        if key is not _KEY:
            raise AdmissionRefused("admissions are granted by the gate alone")
        self.access = access
        self.facts = facts
        self.principal = principal
        self.signed = signed

    def covers(self, facts: RequestFacts) -> bool:
        """Say whether this admission was granted to that very request."""
        return self.facts is facts


def grant_admission(
    access: Access, facts: RequestFacts, principal: Principal | None, signed: Signed | None = None
) -> Admission:
    """Grant admission to one request. For ``relay.gate.admit`` alone."""
    return Admission(_KEY, access, facts, principal, signed)
