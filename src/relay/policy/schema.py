"""The Cedar schema of an installation, generated from its catalogue: what policies may speak of, and in which types."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from cedarpy import Schema

from relay.catalog import ActionSpec
from relay.core.exposed import Exposed
from relay.policy.compiled import Statement

EFFECTS: Final = ("read", "write", "destructive")
_CEDAR_TYPES: Final[dict[Any, str]] = {str: "String", int: "Long", bool: "Bool", frozenset[str]: "Set<String>"}

_HEAD: Final = """\
namespace Relay {
  entity Workspace;
  entity Connector in [Workspace];
  entity Agent, Person, Service in [Workspace] {
    id: String,
    scopes: Set<String>,
    made_by: Set<String>,
  };
  type Counters = { actions_today: Long, actions_last_hour: Long, same_action_today: Long };
  type Credential = { kind: String, age_minutes?: Long };
  type Origins = {
    user: Set<String>,
    context: Set<String>,
    result: Set<String>,
    untrusted: Set<String>,
    attachment: Set<String>,
    model: Set<String>,
  };
  type Time = { now: datetime, hour: Long, minute_of_day: Long, weekday: Long };
"""

CONTEXT: Final = {
    "approved": "Bool",
    "approvals": "Long",
    "other_person": "Bool",
    "recipients": "Set<String>",
    "recipient_count": "Long",
    "recipient_domains": "Set<String>",
    "external_recipients": "Set<String>",
    "external_recipient_count": "Long",
    "hosts": "Set<String>",
    "host_count": "Long",
    "external_hosts": "Set<String>",
    "external_host_count": "Long",
    "internal": "Bool",
    "untrusted_content": "Bool",
    "origins?": "Origins",
    "client_address?": "ipaddr",
    "counters": "Counters",
    "credential": "Credential",
    "time": "Time",
}
"""What every action's context has, with its type in Cedar; ``params`` is each action's own. docs/policies.md says what
each of them means."""


@dataclass(frozen=True, slots=True)
class CatalogSchema:
    """What the policies of an installation are written against, and the baseline that stands beside all of them.

    ``text`` is the schema as Cedar text. ``actions`` names the catalogue's entries. Made by
    :func:`~relay.policy.check.policy_schema` alone, so that there is none without its baseline.
    """

    text: str
    handle: Schema = field(repr=False)
    actions: frozenset[str]
    connectors: frozenset[str]
    baseline: tuple[Statement, ...] = ()

    @property
    def baseline_text(self) -> str:
        """The baseline as one policy text."""
        return "\n\n".join(statement.text for statement in self.baseline)


def schema_text(catalog: Iterable[ActionSpec]) -> str:
    """Return the schema of a catalogue as Cedar text, the same for the same entries."""
    specs = sorted(catalog, key=lambda spec: spec.name)
    groups = [f"effect:{effect}" for effect in EFFECTS]
    groups += sorted({f"connector:{spec.connector}" for spec in specs})
    names = ", ".join(map(_quoted, groups))
    return "".join([_HEAD, f"  action {names};\n", *map(_action, specs), "}\n"])


def _action(spec: ActionSpec) -> str:
    effect, connector = _quoted(f"effect:{spec.effect}"), _quoted(f"connector:{spec.connector}")
    context = "".join(f"      {name}: {kind},\n" for name, kind in CONTEXT.items())
    return (
        f"  action {_quoted(spec.name)} in [{effect}, {connector}] appliesTo {{\n"
        "    principal: [Agent, Person, Service],\n"
        "    resource: [Connector],\n"
        f"    context: {{\n{context}      params: {_params(spec.exposed)},\n    }},\n"
        "  };\n"
    )


def _params(exposed: type[Exposed]) -> str:
    own = own_fields(exposed)
    if not own:
        return "{}"
    return "{ " + ", ".join(f"{name}: {_CEDAR_TYPES[exposed.model_fields[name].annotation]}" for name in own) + " }"


@cache
def own_fields(exposed: type[Exposed]) -> tuple[str, ...]:
    """Return the names of what an action exposes beside recipients and hosts, sorted: ``context.params``."""
    return tuple(sorted(set(exposed.model_fields) - set(Exposed.model_fields)))


def _quoted(text: str) -> str:
    # Names of actions and connectors are code's, ASCII without quotes; JSON's escapes are Cedar's for these.
    return json.dumps(text)
