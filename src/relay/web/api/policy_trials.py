"""Drafts of policies, tried: on what was recorded, and on a step that somebody might ask for."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from relay.catalog import Catalog
from relay.core.circumstances import Circumstances
from relay.core.clock import now, parse_iso
from relay.core.origins import Origins
from relay.core.principal import Principal
from relay.core.problem import Invalid, NotFound
from relay.gate.validate import known_action, make_step, valid_params
from relay.identity.api_keys import ApiKeys
from relay.policy.interface import Policy
from relay.policy.replay import MAX_DAYS, Flip, Replays
from relay.policy.versions import PolicyVersions
from relay.policy.view import decision_view, flip_view, replayed_view
from relay.surface.body import LARGE_BODY_LIMIT
from relay.surface.declare import Call, Routes
from relay.web.api.policies import TEXT_LIMIT, PolicyText, Strict, VersionNumber, policies_access

REPLAY_SECONDS: Final = 10.0
MAX_LISTED_FLIPS: Final = 500


class ReplayDraft(Strict):
    """A text, or a version, and how many days to look back."""

    text: PolicyText | None = None
    version: VersionNumber | None = None
    days: Annotated[int, Field(strict=True, ge=1, le=MAX_DAYS)] = 7

    @model_validator(mode="before")
    @classmethod
    def _one_of_both(cls, data: Any) -> Any:
        if isinstance(data, dict) and (data.get("text") is None) == (data.get("version") is None):
            raise ValueError("give text or version")
        return data


ParamNames = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=100)]


class SupposedOrigins(Strict):
    """Where parameters are supposed to have come from: for each kind of source the names of those that hold some."""

    user: ParamNames = ()
    context: ParamNames = ()
    result: ParamNames = ()
    untrusted: ParamNames = ()
    attachment: ParamNames = ()
    model: ParamNames = ()


class Situation(Strict):
    """What is supposed besides who asks for what; all that is left out is as at a first request that comes now."""

    at: Annotated[str, Field(max_length=40, examples=["2030-01-02T03:04:05Z"])] | None = None
    client: Annotated[str, Field(max_length=64)] = ""
    approvals: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    other_person: Annotated[bool, Field(strict=True)] = False
    untrusted_content: Annotated[bool, Field(strict=True)] = False
    origins: SupposedOrigins | None = None

    def circumstances(self) -> Circumstances:
        """Return what the policy is told; 422 for a time that is none."""
        try:
            at = parse_iso(self.at) if self.at is not None else now()
        except (ValueError, OverflowError):
            message = "An RFC 3339 time with its offset."
            raise Invalid(message, errors=[{"pointer": "/context/at", "message": message}]) from None
        return Circumstances(
            at,
            self.client,
            self.approvals,
            self.other_person,
            self.untrusted_content,
            asked_at=None if self.at is None else at,
            origins=None if self.origins is None else Origins.of(self.origins.model_dump()),
        )


class ExplainStep(Strict):
    """An action and its parameters. ``principal`` is the id of a living key of the workspace, else the caller's."""

    action: Annotated[str, Field(min_length=1, max_length=100, examples=["relay.echo"])]
    params: dict[str, Any]
    principal: Annotated[str, Field(max_length=100)] | None = None
    context: Situation = Situation()


class Ruling(BaseModel):
    """A decision, and the policies that made it."""

    decision: Literal["allow", "deny", "require_approval"]
    approvers: int
    other_person: bool
    reason: str
    policies: list[str]


class Explained(Ruling):
    """The decision that the step would meet, by which version."""

    policy_id: str
    policy_version: int


class FlipItem(BaseModel):
    """A recorded decision that the draft would have made otherwise."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    decision_id: str
    occurred_at: str
    principal: str
    action: str
    kind: str
    attempt_id: str | None
    policy_id: str
    policy_version: int
    before: Annotated[Ruling, Field(alias="from")]
    after: Annotated[Ruling, Field(alias="to")]


class Transition(BaseModel):
    """How many decisions would turn from one effect to another."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    before: Annotated[str, Field(alias="from")]
    after: Annotated[str, Field(alias="to")]
    count: int


class ReplayAnswer(BaseModel):
    """What would flip. ``items`` are the newest 500 of all ``flips``; ``transitions`` counts every one.

    ``truncated``: time was up at ``reached``, and what lies before it was not looked at. ``unreadable`` decisions were
    recorded in a form that cannot be decided again; those ``not_judged`` without the counters that the draft looks at.
    """

    digest: str
    since: str
    until: str
    replayed: int
    unreadable: int
    not_judged: int
    flips: int
    transitions: list[Transition]
    items: list[FlipItem]
    truncated: bool
    reached: str | None


def policy_trials_routes(
    versions: PolicyVersions, replays: Replays, policy: Policy, catalog: Catalog, api_keys: ApiKeys
) -> Routes:
    """Return the routes that replay drafts and explain decisions."""
    routes = Routes()

    @routes.post("/policies/replay", access=policies_access("replay"), body_limit=TEXT_LIMIT, summary="Replay a draft")
    async def replay(call: Call, body: ReplayDraft) -> ReplayAnswer:
        """Try a draft on the decisions of the last days and return those that would flip, in about ten seconds."""
        workspace = call.principal.workspace_id
        text = body.text if body.text is not None else (await versions.get(workspace, body.version or 0)).text
        items: list[dict[str, Any]] = []

        def listed(flip: Flip) -> None:
            if len(items) < MAX_LISTED_FLIPS:
                items.append(flip_view(flip))

        found = await replays.run(
            call.principal, workspace, text, days=body.days, seconds=REPLAY_SECONDS, on_flip=listed
        )
        return ReplayAnswer.model_validate({**replayed_view(found), "items": items})

    @routes.post(
        "/policies/explain",
        access=policies_access("explain"),
        body_limit=LARGE_BODY_LIMIT,
        summary="Explain a decision",
    )
    async def explain(call: Call, body: ExplainStep) -> Explained:
        """Return the decision that a step would meet and the policies that make it. Nothing runs or is recorded."""
        principal = await _principal(call, api_keys, body.principal)
        spec = known_action(catalog, body.action)
        step = make_step(principal, spec, valid_params(spec, body.params))
        decision = await policy.decide(principal, spec, step, body.context.circumstances())
        return Explained(**decision_view(decision))

    return routes


async def _principal(call: Call, api_keys: ApiKeys, key_id: str | None) -> Principal:
    if key_id is None:
        return call.principal
    found = await api_keys.reload(key_id) if "\0" not in key_id else None
    if found is None or found.workspace_id != call.principal.workspace_id:
        raise NotFound("There is no such living key in this workspace.")
    return found
