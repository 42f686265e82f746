"""Plans and runs: ask for a plan, execute it or steps of one's own, look at runs, watch and cancel them."""

from typing import Annotated, Any, Final

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from relay.core.access import Access
from relay.core.clock import iso
from relay.core.hygiene import clean, clean_json
from relay.core.links import harmless
from relay.core.streams import Places
from relay.gate.authenticate import Credentials
from relay.runs.plans import Plan, Plans
from relay.runs.service import MAX_PAGE, Order, Runs, RunState
from relay.runs.steps import MAX_RETRIES, MAX_STEPS, StepDraft
from relay.runs.stream import sequence_of
from relay.store.runs import StepRow
from relay.surface.declare import Call, Routes
from relay.surface.events import EventStream, last_event_id
from relay.web.api.actions import IDEMPOTENCY_HEADER, idempotency_key

MAX_PROMPT: Final = 16_384
DEFAULT_PAGE: Final = 20

_RESUME_HEADER: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The id of the last event that was seen; the stream goes on after it.",
    "schema": {"type": "string"},
}

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanRequest(_In):
    """What is wanted, in words, and facts that may help."""

    prompt: Annotated[
        str, Field(min_length=1, max_length=MAX_PROMPT, examples=["Email ada@example.com about lunch saying hello"])
    ]
    context: dict[str, Any] | None = None


class StepRequest(_In):
    """A step. A parameter may refer to an earlier step's result: ``{"$result_of": "s1", "pointer": "/status"}``."""

    action: Annotated[str, Field(min_length=1, max_length=100, examples=["email.send"])]
    params: dict[str, Any]
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    depends_on: Annotated[list[_Id], Field(max_length=MAX_STEPS)] = []
    timeout_seconds: (
        Annotated[
            float,
            Field(
                gt=0,
                le=3600,
                allow_inf_nan=False,
                description="How long each try may take; the action's own time-out when left out, and at most that.",
            ),
        ]
        | None
    ) = None
    retries: Annotated[
        int,
        Field(
            strict=True,
            ge=0,
            le=MAX_RETRIES,
            description="How many more tries there may be where trying again cannot do anything twice.",
        ),
    ] = 0


class RunRequest(_In):
    """Either a plan, or steps."""

    plan_id: _Id | None = None
    steps: Annotated[list[StepRequest], Field(min_length=1, max_length=MAX_STEPS)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "RunRequest":
        if (self.plan_id is None) == (self.steps is None):
            raise ValueError("give plan_id or steps, one of them")
        return self


class JobsQuery(_In):
    """A page of runs."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Field(pattern=r"^run_[0-9a-f]{32}$")] | None = None


class PlanStep(BaseModel):
    """A proposed step with what the gate says about it now. ``params`` are masked."""

    id: str
    action: str
    params: dict[str, Any]
    summary: str
    effect: str
    decision: str
    depends_on: list[str]


class PlanAnswer(BaseModel):
    """A plan. Without steps it cannot be executed; ``explanation`` then says what is missing."""

    plan_id: str
    intent: str
    steps: list[PlanStep]
    confidence: float
    explanation: str
    warnings: list[str]
    planner: str
    digest: str
    expires_at: str


class RunAccepted(BaseModel):
    """A run that will be worked on."""

    run_id: str
    status: str


class StepError(BaseModel):
    """Why a step did not succeed."""

    code: str
    detail: str


class JobStep(BaseModel):
    """A step of a run. ``result`` is null until the step succeeded, in lists, and after its retention."""

    id: str
    action: str
    summary: str
    depends_on: list[str]
    status: str
    attempt_id: str | None
    approval_id: str | None
    result: dict[str, Any] | None
    error: StepError | None


class Job(BaseModel):
    """A run as it stands."""

    run_id: str
    status: str
    plan_id: str | None
    requested_by: str
    cancel_requested: bool
    steps: list[JobStep]
    created_at: str
    finished_at: str | None


class JobList(BaseModel):
    """Runs of the caller's workspace, newest first."""

    items: list[Job]
    next_cursor: str | None


def ai_routes(plans: Plans, runs: Runs, credentials: Credentials, places: Places) -> Routes:
    """Return the routes under ``/ai``. ``places`` are those of the event streams of this process."""
    routes = Routes()
    _plan_routes(routes, plans, runs)
    _job_routes(routes, runs)
    _event_routes(routes, runs, credentials, places)
    return routes


def _plan_routes(routes: Routes, plans: Plans, runs: Runs) -> None:
    @routes.post(
        "/ai/plan",
        access=Access("bearer", frozenset({"actions:preview"}), ("plan",), "api:ai:plan"),
        summary="Plan",
    )
    async def plan(call: Call, body: PlanRequest) -> PlanAnswer:
        """Return steps that would do what the prompt asks for, or none and what is missing. Nothing is executed."""
        prompt = clean(body.prompt, "/prompt", most=MAX_PROMPT)
        context = None if body.context is None else clean_json(body.context, "/context")
        return _plan_answer(await plans.make(call.principal, prompt, context, call.request_id, call.caller))

    @routes.post(
        "/ai/execute",
        access=Access("bearer", frozenset({"actions:execute"}), ("ai_execute",), "api:ai:execute"),
        status_code=202,
        summary="Run",
        openapi_extra={"parameters": [IDEMPOTENCY_HEADER]},
    )
    async def execute(call: Call, body: RunRequest) -> RunAccepted:
        """Accept a plan, or steps, to be executed in order. ``Idempotency-Key`` makes repeating this safe."""
        order = Order(
            request_id=call.request_id,
            plan_id=body.plan_id,
            steps=[_draft(step) for step in body.steps or ()],
            idempotency_key=idempotency_key(call),
            client=call.caller,
        )
        run_id, status = await runs.execute(call.principal, order)
        return RunAccepted(run_id=run_id, status=status)


def _job_routes(routes: Routes, runs: Runs) -> None:
    @routes.get(
        "/ai/jobs",
        access=Access("bearer", frozenset({"actions:preview"}), (), "api:ai:list"),
        summary="Runs",
    )
    async def jobs(call: Call, query: Annotated[JobsQuery, Query()]) -> JobList:
        """Return runs of the caller's workspace, newest first, without the results of their steps."""
        states, cursor = await runs.page(call.principal, query.limit, query.cursor)
        return JobList(items=[_job(state) for state in states], next_cursor=cursor)

    @routes.get(
        "/ai/jobs/{run_id}",
        access=Access("bearer", frozenset({"actions:preview"}), (), "api:ai:read"),
        summary="Run as it stands",
    )
    async def job(call: Call, run_id: str) -> Job:
        """Return a run with the results of its steps."""
        return _job(await runs.show(call.principal, run_id))

    @routes.post(
        "/ai/jobs/{run_id}/cancel",
        access=Access("bearer", frozenset({"actions:execute"}), (), "api:ai:cancel"),
        summary="Cancel a run",
    )
    async def cancel(call: Call, run_id: str) -> Job:
        """Cancel what has not begun. A step under way comes to its end, since its effect may have happened."""
        await runs.cancel(call.principal, run_id, call.request_id)
        return _job(await runs.show(call.principal, run_id))


def _event_routes(routes: Routes, runs: Runs, credentials: Credentials, places: Places) -> None:
    streams = runs.streams(credentials, places)

    @routes.get(
        "/ai/jobs/{run_id}/events",
        access=Access("bearer", frozenset({"actions:preview"}), (), "api:ai:events"),
        summary="Watch a run",
        openapi_extra={"parameters": [_RESUME_HEADER]},
        responses={200: {"content": {"text/event-stream": {}}}, 204: {"description": "The run is over and seen."}},
    )
    async def events(call: Call, run_id: str) -> Response:
        """Stream changes of status as server-sent events, from the start or after ``Last-Event-ID``."""
        run = await runs.find(call.principal, run_id)
        after = await streams.place(call.principal, run, sequence_of(last_event_id(call)))
        if after is None:
            return Response(status_code=204)  # by the standard, what makes a browser stop coming back
        return EventStream(streams.open(call.principal, run_id, after, call.caller))


def _draft(step: StepRequest) -> StepDraft:
    return StepDraft(step.action, step.params, step.id, tuple(step.depends_on), step.timeout_seconds, step.retries)


def _plan_answer(plan: Plan) -> PlanAnswer:
    proposal, hosts = plan.proposal, plan.proposal.link_hosts
    return PlanAnswer(
        plan_id=plan.id,
        intent=proposal.intent,
        steps=[
            PlanStep(
                id=found.step.id,
                action=found.step.action,
                params=found.shown,
                summary=found.summary if hosts is None else harmless(found.summary, hosts),
                effect=found.spec.effect,
                decision=found.decision.effect,
                depends_on=list(found.step.depends_on),
            )
            for found in plan.steps
        ],
        confidence=proposal.confidence,
        explanation=proposal.explanation,
        warnings=list(proposal.warnings),
        planner=proposal.planner,
        digest=plan.digest,
        expires_at=iso(plan.expires_at),
    )


def _job(state: RunState) -> Job:
    run = state.run
    return Job(
        run_id=run.id,
        status=run.status,
        plan_id=run.plan_id,
        requested_by=run.principal_id,
        cancel_requested=run.cancel_requested_at is not None,
        steps=[_job_step(step, state) for step in state.steps],
        created_at=iso(run.created_at),
        finished_at=iso(run.finished_at) if run.finished_at is not None else None,
    )


def _job_step(step: StepRow, state: RunState) -> JobStep:
    error = None
    if step.error_code is not None:
        error = StepError(code=step.error_code, detail=step.error_detail or "")
    return JobStep(
        id=step.step_id,
        action=step.action,
        summary=step.summary,
        depends_on=step.dependencies(),
        status=step.status,
        attempt_id=step.attempt_id,
        approval_id=state.approvals.get(step.attempt_id or ""),
        result=state.results.get(step.step_id),
        error=error,
    )
