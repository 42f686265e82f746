"""The real engine under policies that a test writes down."""

from relay.catalog import Catalog
from relay.policy.check import compile_policies, policy_schema
from relay.policy.engine import CedarPolicy
from relay.policy.reach import Reach
from relay.policy.source import Active
from tests.policy_kit import Uncounted

NOTHING_DESTRUCTIVE = """
permit (principal, action in [Relay::Action::"effect:read", Relay::Action::"effect:write"], resource);
"""


class FixedPolicies:
    """One text for every workspace."""

    def __init__(self, text: str, catalog: Catalog) -> None:
        self._active = Active("test", 1, compile_policies(text, policy_schema(catalog)))

    async def active(self, workspace_id: str) -> Active:
        return self._active


def cedar(text: str, catalog: Catalog) -> CedarPolicy:
    """Return a policy that decides by this text alone."""
    return CedarPolicy(FixedPolicies(text, catalog), Reach(), Uncounted())
