"""Where a workspace's policies come from."""

from dataclasses import dataclass
from typing import Final, Protocol

from relay.policy.compiled import CompiledPolicies

DEFAULT_ID: Final = "builtin:default"


@dataclass(frozen=True, slots=True)
class Active:
    """The policies that decide for a workspace: by which id and version decisions record them.

    ``broken`` says why nothing is allowed: the stored text does not check any more. Empty where it does.
    """

    policy_id: str
    version: int
    policies: CompiledPolicies
    broken: str = ""


class PolicySource(Protocol):
    """Knows which policies of a workspace are active."""

    async def active(self, workspace_id: str) -> Active:
        """Return them. Whatever is raised becomes a denial: a policy that cannot be read allows nothing."""
        ...
