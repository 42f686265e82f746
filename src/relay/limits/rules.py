"""The rate limits of this product, in one table. Routes name its rows; settings change its numbers.

``global`` and ``global_network`` hold for every request. A route that names ``unlimited`` is exempt from them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from relay.catalog import ActionSpec
from relay.core.limit import Limit
from relay.settings.model import Settings

Per = Literal["address", "network", "workspace", "principal"]

UNLIMITED: Final = "unlimited"
LONGEST_BLOCK_SECONDS: Final = 900
_SUFFIX: Final[dict[Per, str]] = {"address": "ip", "network": "net", "workspace": "ws", "principal": "key"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: at most ``limit`` requests per ``per``. ``name`` is what routes say, ``policy`` what answers say.

    ``address`` is an IPv4 address or an IPv6 /64, ``network`` an IPv6 /48 (IPv4 has none). ``setting`` is the field of
    the settings that replaces the count. ``routes`` and ``meaning`` are for the documentation.
    """

    name: str
    limit: Limit
    per: Per
    setting: str
    routes: str
    meaning: str
    policy: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", f"{self.name}-{_SUFFIX[self.per]}")


GLOBAL: Final = "global"
GLOBAL_NETWORK: Final = "global_network"
CREDENTIALS: Final = "credentials"

RULES: Final = (
    Rule(
        GLOBAL,
        Limit(100, 60),
        "address",
        "rate_limit_global_per_minute",
        "every path but `/health` and `/metrics`",
        "All requests of one address.",
    ),
    Rule(
        GLOBAL_NETWORK,
        Limit(300, 60),
        "network",
        "rate_limit_global_network_per_minute",
        "every path but `/health` and `/metrics`",
        "All requests of one IPv6 /48, which a single customer commonly holds.",
    ),
    Rule(
        "plan",
        Limit(10, 60),
        "workspace",
        "rate_limit_plan_per_minute",
        "`POST /ai/plan`",
        "Plans made for one workspace.",
    ),
    Rule(
        "ai_execute",
        Limit(20, 60),
        "workspace",
        "rate_limit_ai_execute_per_minute",
        "`POST /ai/execute`",
        "Runs started in one workspace.",
    ),
    Rule(
        "execute",
        Limit(30, 60),
        "workspace",
        "rate_limit_execute_per_minute",
        "`POST /actions/execute`",
        "Actions executed one by one in one workspace.",
    ),
    Rule(
        "webhooks",
        Limit(600, 60),
        "workspace",
        "rate_limit_webhooks_per_minute",
        "`POST /webhooks/relay`, `POST /webhooks/in/{receiver}`",
        "Webhooks whose signature is right, copies included, for all receivers of one workspace.",
    ),
    Rule(
        "oauth",
        Limit(5, 300),
        "address",
        "rate_limit_oauth_per_5_minutes",
        "`/oauth/…`",
        "Grants asked for from one address.",
    ),
    Rule(
        "chat",
        Limit(30, 60),
        "address",
        "rate_limit_per_minute",
        "`POST /chat/`",
        "Chat messages from one address.",
    ),
    Rule(
        "leak_reports",
        Limit(30, 60),
        "address",
        "rate_limit_leak_reports_per_minute",
        "`POST /keys/report-leak`",
        "Reports of leaked keys from one address.",
    ),
    Rule(
        "children",
        Limit(60, 60),
        "principal",
        "rate_limit_children_per_minute",
        "`POST /keys/children`, `DELETE /keys/children/{key_id}`",
        "Child tokens that one key mints or ends.",
    ),
    Rule(
        CREDENTIALS,
        Limit(20, 300),
        "address",
        "rate_limit_credentials_per_5_minutes",
        "wherever a credential is shown",
        "Credentials that are not valid, from one address. After that further ones get 429, at first for as long as "
        "the window, then twice as long each time, up to 15 minutes. A valid credential is never refused by this.",
    ),
)
"""Every rule with its default."""

NAMES: Final = frozenset({rule.name for rule in RULES} - {GLOBAL, GLOBAL_NETWORK, CREDENTIALS} | {UNLIMITED})
"""What a route may name."""


def rules_for(settings: Settings) -> dict[str, Rule]:
    """Return the rules by name, with the counts that the settings say."""
    return {
        rule.name: replace(rule, limit=Limit(getattr(settings, rule.setting), rule.limit.seconds)) for rule in RULES
    }


def action_rules(spec: ActionSpec) -> tuple[Rule, ...]:
    """Return a rule per workspace for each limit that an action declares."""
    return tuple(
        Rule(
            f"{spec.name}-{limit.seconds}s",
            limit,
            "workspace",
            "rate_limit_actions",
            f"action `{spec.name}`",
            "Executions of one action in one workspace, whichever way they come.",
        )
        for limit in spec.limits
    )


def misnamed(limits: Iterable[str]) -> str | None:
    """Return what is wrong with the limits that a route names, None when nothing is."""
    names = tuple(limits)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        return f"names the limit {unknown[0]!r}, and there is no such rule"
    if UNLIMITED in names and len(names) > 1:
        return f"names {UNLIMITED!r} beside other limits"
    return None
