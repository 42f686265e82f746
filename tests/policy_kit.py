"""A catalogue with an action of every effect that shows whatever a test wants, and principals to ask with."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from relay.catalog import ActionSpec, Catalog, Connector, Rendering
from relay.connectors import echo, email, http, webhook
from relay.core.action import Decision, Step
from relay.core.circumstances import Circumstances
from relay.core.exposed import Exposed
from relay.core.permit import Permit
from relay.core.principal import SCOPES, Principal, PrincipalKind
from relay.policy.check import CatalogSchema, compile_policies, policy_schema
from relay.policy.context import inputs_of
from relay.policy.engine import evaluate
from relay.policy.inputs import DecisionInputs
from relay.policy.reach import Reach
from relay.policy.source import Active
from relay.store.attempt_counts import Counts

MONDAY_NOON = 1_736_769_600_000_000
"""2025-01-13 12:00 UTC."""
REACH = Reach(("internal.example", "*.internal.example"), ("10.0.0.0/8", "opened.example:8443"))
_NONE = Counts()
INSIDE, OUTSIDE = "ann@internal.example", "zoe@elsewhere.example"


class Shown(Exposed):
    """Everything that an action may show."""

    amount: int = 0
    label: str = ""
    urgent: bool = False
    tags: frozenset[str] = frozenset()


class Params(BaseModel):
    """Parameters that are shown as they are."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    shown: Shown = Shown()


class Nothing(BaseModel):
    """No parameters, no result."""

    model_config = ConfigDict(extra="forbid")


def _render(step: Step, client: Any) -> Rendering:
    return Rendering(summary="A probe", body={})


def _shown(params: Params) -> Shown:
    return params.shown


def probe() -> Connector:
    """Return a connector with an action of each effect, and one that shows nothing."""
    connector = Connector("probe")

    @connector.action("probe.read", effect="read", render=_render, expose=_shown)
    async def read(permit: Permit, params: Params, client: Any) -> Nothing:
        """Read something."""
        return Nothing()

    @connector.action("probe.write", effect="write", render=_render, expose=_shown)
    async def write(permit: Permit, params: Params, client: Any) -> Nothing:
        """Write something."""
        return Nothing()

    @connector.action("probe.destroy", effect="destructive", render=_render, expose=_shown)
    async def destroy(permit: Permit, params: Params, client: Any) -> Nothing:
        """Destroy something."""
        return Nothing()

    @connector.action("probe.blind", effect="write", render=_render)
    async def blind(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Write somewhere, and do not say where."""
        return Nothing()

    return connector


def catalog() -> Catalog:
    """Return the catalogue of an installation, with the probes."""
    found = Catalog()
    found.register(echo.connector, None)
    for connector in (email.connector, webhook.connector, http.connector, probe()):
        found.register(connector, object())
    return found


CATALOG = catalog()
SCHEMA = policy_schema(CATALOG)


def spec(name: str) -> ActionSpec:
    found = CATALOG.get(name)
    assert found is not None
    return found


def who(kind: PrincipalKind = "agent", **changed: Any) -> Principal:
    """Return a principal with every scope, or with what is changed about it."""
    key = "key_01940000000000000000000000000000"
    given: dict[str, Any] = {
        "id": key,
        "kind": kind,
        "workspace_id": "default",
        "scopes": frozenset(SCOPES),
        "credential_id": key,
        "made_by": (),
        "auth_method": "api_key",
    }
    return Principal(**{**given, **changed})


def step(name: str, **params: Any) -> tuple[ActionSpec, Step]:
    """Return a step of an action of the catalogue, its parameters validated."""
    found = spec(name)
    return found, Step(name, found.version, found.params.model_validate(params), "nonce", "digest")


def probed(name: str, **shown: Any) -> tuple[ActionSpec, Step]:
    """Return a step of a probe that shows this."""
    sets = {key: frozenset(value) if isinstance(value, (list, set)) else value for key, value in shown.items()}
    return step(name, shown=Shown(**sets))


class Uncounted:
    """Counters for policies that look at none; it fails where they are read."""

    async def counted(self, *_: Any, **__: Any) -> Counts:
        raise AssertionError("counters were read for a decision that does not look at them")


def inputs(
    principal: Principal,
    what: tuple[ActionSpec, Step],
    reach: Reach = REACH,
    counters: Counts | None = _NONE,
    **about: Any,
) -> DecisionInputs:
    """Return what a decision is made upon; ``counters`` of None are not read."""
    found = inputs_of(principal, *what, Circumstances(**{"at": MONDAY_NOON, **about}), reach)
    return found if counters is None else found.with_counters(counters)


def active(text: str, schema: CatalogSchema = SCHEMA) -> Active:
    """Return policies as a workspace's."""
    return Active("pol", 7, compile_policies(text, schema))


def decided(text: str, principal: Principal, what: tuple[ActionSpec, Step], **about: Any) -> Decision:
    """Return the decision of these policies alone, beside the baseline."""
    return evaluate(inputs(principal, what, **about), active(text))
