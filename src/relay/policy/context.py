"""From a step and its circumstances to the context that policies speak of."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.core.action import Step
from relay.core.circumstances import Circumstances
from relay.core.clock import MICROSECONDS, MINUTE
from relay.core.domains import domain_of
from relay.core.exposed import Exposed
from relay.core.ids import id_milliseconds
from relay.core.networks import address_of
from relay.core.principal import Principal
from relay.policy.inputs import DecisionInputs, action_facts, principal_facts
from relay.policy.reach import Reach
from relay.policy.schema import own_fields

_DAY_MINUTES: Final = 24 * 60
MAX_INTEGER: Final = 2**53 - 1
_THURSDAY: Final = 3
"""The weekday of 1970-01-01, counted from Monday as 0."""


def inputs_of(
    principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances, reach: Reach
) -> DecisionInputs:
    """Return everything that the decision about a step is made upon; what an action exposes wrongly raises."""
    exposed = spec.expose(step.params)
    if type(exposed) is not spec.exposed:
        raise TypeError(f"{spec.name} exposes another model than it declares")
    context = {
        **_reached(exposed, reach),
        "credential": _credential(principal, circumstances.at),
        "params": {name: _plain(getattr(exposed, name)) for name in own_fields(spec.exposed)},
        "time": _time(circumstances.at),
        "untrusted_content": circumstances.untrusted_content,
    }
    address = address_of(circumstances.client)
    if address is not None:
        context["client_address"] = _extension("ip", str(address))
    if circumstances.origins is not None:
        context["origins"] = circumstances.origins.sets()
    return DecisionInputs(
        principal_facts(principal),
        action_facts(spec),
        context,
        circumstances.approvals,
        circumstances.other_person,
    )


def _reached(exposed: Exposed, reach: Reach) -> dict[str, Any]:
    recipients, hosts = sorted(exposed.recipients), sorted(exposed.hosts)
    port = getattr(exposed, "port", None)
    external_recipients = reach.external_recipients(recipients)
    external_hosts = reach.external_hosts(hosts, port if isinstance(port, int) else None)
    return {
        "recipients": recipients,
        "recipient_count": len(recipients),
        "recipient_domains": sorted({domain_of(address) for address in recipients}),
        "external_recipients": external_recipients,
        "external_recipient_count": len(external_recipients),
        "hosts": hosts,
        "host_count": len(hosts),
        "external_hosts": external_hosts,
        "external_host_count": len(external_hosts),
        # Where an action does not say what it reaches, nothing is known to be internal.
        "internal": bool(recipients or hosts) and not (external_recipients or external_hosts),
    }


def _credential(principal: Principal, at: int) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": principal.auth_method}
    try:
        made = id_milliseconds(principal.credential_id) * 1000
    except ValueError:
        return found
    found["age_minutes"] = max(0, (at - made) // MINUTE)
    return found


def _time(at: int) -> dict[str, Any]:
    minutes = at // MINUTE
    minute_of_day = minutes % _DAY_MINUTES
    return {
        "now": _extension("datetime", f"{_second(at // MICROSECONDS)}.{at // 1000 % 1000:03d}Z"),
        "hour": minute_of_day // 60,
        "minute_of_day": minute_of_day,
        "weekday": (minutes // _DAY_MINUTES + _THURSDAY) % 7 + 1,
    }


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    # Not strftime: its %Y does not pad, and Cedar wants four digits.
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _extension(function: str, argument: str) -> dict[str, Any]:
    return {"__extn": {"fn": function, "arg": argument}}


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError("a number that is exposed has no exact form in JSON")
    return value
