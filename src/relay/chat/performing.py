"""One call of a conversation on its way through the gate, and what it has come to, as an entry."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel

from relay.approvals.requests import Requests
from relay.catalog import ActionSpec
from relay.chat.entries import WAITING, CallEntry
from relay.chat.functions import BadArguments, Offer, arguments_of, may_preview, may_run, shown_name
from relay.chat.origins import Traced
from relay.core.circumstances import Circumstances
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Invalid, NotFound, Problem, Unauthenticated, Unavailable
from relay.core.storable import storable
from relay.gate.ask import Ask, AttemptState, Considered
from relay.gate.perform import Performer
from relay.gate.validate import valid_params
from relay.store.chat import CallRow
from relay.store.writer import Tx

MAX_SENTENCE: Final = 2_000
_NOT_OFFERED: Final = ("unknown-function", "There is no such function; call only those that you are given.")


class Revoked(Exception):
    """The credential of the session's owner is not valid any more."""


@dataclass(frozen=True, slots=True)
class Asking:
    """For whom, in which request, from where a call is made, and whether content from outside may have had a say.

    ``still`` as in :class:`~relay.gate.ask.Ask`.
    """

    principal: Principal
    request_id: str
    client: str
    untrusted: bool
    still: Callable[[Tx], bool]


class Performing:
    """Has calls performed. Nothing in here runs an action: every call is the gate's to perform."""

    def __init__(self, gate: Performer, requests: Requests) -> None:
        self._gate = gate
        self._requests = requests

    def asked(self, offer: Offer, function: str, arguments: str) -> CallEntry:
        """Return what a model asks for as a call that is due, or as one that is refused: nothing of it is trusted."""
        spec = offer.spec(function)
        if spec is None:
            call = CallEntry(new_id("cll"), shown_name(function), "refused", {}, "", "read")
            return replace(call, error=_NOT_OFFERED)
        call = CallEntry(new_id("cll"), spec.name, "refused", {}, spec.summary, spec.effect)
        try:
            params = arguments_of(arguments)
        except BadArguments as error:
            return replace(call, error=("invalid-arguments", f"The arguments cannot be read: {error}."))
        return self.due(call, spec, params)

    @staticmethod
    def due(call: CallEntry, spec: ActionSpec, params: dict[str, Any]) -> CallEntry:
        """Return a call with these parameters, due to be performed, or refused where they are not valid."""
        try:
            model = valid_params(spec, params, "")
        except Invalid as problem:
            return replace(call, status="refused", error=_refusal(problem))
        return replace(call, status="running", params=_masked(spec, model), wanted=params, error=None)

    async def perform(self, asking: Asking, spec: ActionSpec | None, call: CallEntry, traced: Traced) -> CallEntry:
        """Perform a call that is due and return what it has come to.

        A refusal is what it has come to, whatever the reason: a model reads it. Performed again, by whomever, it comes
        to the same without anything being done twice. :class:`~relay.gate.ask.AskerReplaced` when the turn is not the
        asker's any more: nothing was begun then. :class:`Revoked` when the credential has died;
        :class:`~relay.core.problem.Unavailable` or StoreUnavailable when nothing can be said now.
        """
        assert call.wanted is not None
        done = replace(call, wanted=None, origins=traced.pointers)
        principal = asking.principal
        if (before := await self.done_before(principal.workspace_id, principal.id, done)) is not None:
            return before
        if spec is None:
            return replace(done, status="refused", error=("not-allowed", "This action cannot be used (any more)."))
        try:
            if may_run(asking.principal, spec):
                return await self._run(asking, spec, call.wanted, done, traced)
            if may_preview(asking.principal):
                return await self._preview(asking, spec, call.wanted, done, traced)
        except Unauthenticated:
            raise Revoked from None
        except Unavailable:
            raise
        except Problem as problem:
            return replace(done, status="refused", error=_refusal(problem))
        return replace(done, status="refused", error=("insufficient-scope", "The user's key may not do this."))

    async def done_before(self, workspace: str, owner: str, call: CallEntry) -> CallEntry | None:
        """Return what a call that is due has come to already, None when nobody has begun it.

        Whoever worked on the turn before may have got that far: this counts then, whatever has changed since.
        """
        state = await self._gate.led_to(workspace, owner, _key_of(call))
        return None if state is None else await self.of_state(workspace, self._gate.known(call.action), call, state)

    async def _run(
        self, asking: Asking, spec: ActionSpec, params: dict[str, Any], done: CallEntry, traced: Traced
    ) -> CallEntry:
        ask = Ask(
            request_id=asking.request_id,
            client=asking.client,
            action=spec.name,
            params=params,
            idempotency_key=_key_of(done),
            untrusted_content=asking.untrusted,
            origins=traced.origins,
            key_lasts=True,
            still=asking.still,
        )
        state = await self._gate.perform(asking.principal, ask)
        return await self.of_state(asking.principal.workspace_id, spec, done, state)

    async def _preview(
        self, asking: Asking, spec: ActionSpec, params: dict[str, Any], done: CallEntry, traced: Traced
    ) -> CallEntry:
        circumstances = Circumstances(now(), asking.client, untrusted_content=asking.untrusted, origins=traced.origins)
        found = await self._gate.consider(
            asking.principal, spec.name, params, circumstances=circumstances, request_id=asking.request_id
        )
        return replace(done, status="previewed", summary=found.rendering.summary, preview=_preview(found))

    async def of_state(
        self, workspace: str, spec: ActionSpec | None, call: CallEntry, state: AttemptState
    ) -> CallEntry:
        """Return a call as its attempt stands. An action that is not there any more counts as one from outside."""
        status = state.status if state.status in _KNOWN else "unknown"
        call = replace(call, status=status, wanted=None, attempt_id=state.attempt_id, error=None, result=None)  # type: ignore[arg-type]
        if status == "pending_approval":
            return await self._waiting(workspace, call, state)
        call = replace(call, approval_id=state.approval_id, expires_at=None)
        if status in WAITING:
            return replace(call, digest=state.digest)
        outside = True if spec is None else spec.untrusted_outcome(status)
        if status == "succeeded":
            return replace(call, result=state.result or {}, untrusted=outside)
        error = (status, f"It ended as {status}.")
        if state.failure is not None:
            error = (storable(state.failure.code), _sentence(state.failure.detail))
        # A sentence about what never began is Relay's own.
        return replace(call, error=error, untrusted=outside and status in ("failed", "unknown"))

    async def _waiting(self, workspace: str, call: CallEntry, state: AttemptState) -> CallEntry:
        call = replace(call, approval_id=state.approval_id, digest=state.digest)
        if state.approval_id is None:
            return call
        try:
            request = await self._requests.show(workspace, state.approval_id)
        except NotFound:
            return call
        rendering = request.rendering
        if rendering is not None:
            shown = {"summary": rendering.summary, "body": rendering.body, "warnings": list(rendering.warnings)}
            call = replace(call, summary=rendering.summary, preview=shown)
        return replace(call, params=request.params or call.params, expires_at=request.approval.expires_at)

    async def looked_at(self, spec: ActionSpec | None, row: CallRow, call: CallEntry) -> CallEntry | None:
        """Return a call that has waited as it stands now, None when it waits as before."""
        assert row.attempt_id is not None
        try:
            state = await self._gate.attempts.state(row.workspace_id, row.attempt_id)
        except NotFound:
            return replace(call, status="unknown", error=("gone", "Its attempt is not kept any more."))
        if state.status == row.status:
            return None
        return await self.of_state(row.workspace_id, spec, call, state)


_KNOWN: Final = frozenset(
    {"pending_approval", "running", "succeeded", "failed", "unknown", "denied", "expired", "cancelled"}
)


def _key_of(call: CallEntry) -> str:
    """Return the idempotency key of a call: another one for each time that its owner has edited it."""
    return f"chat-{call.id}.{call.revision}"


def _masked(spec: ActionSpec, model: BaseModel) -> dict[str, Any]:
    return spec.redact(model)


def _preview(found: Considered) -> dict[str, Any]:
    return {
        "summary": found.rendering.summary,
        "body": found.rendering.body,
        "warnings": list(found.warnings),
        "decision": found.decision.effect,
        "reason": found.decision.reason,
    }


def _refusal(problem: Problem) -> tuple[str, str]:
    places = problem.extensions.get("errors", ())
    detail = "; ".join(f"{place['pointer'] or 'all'}: {place['message']}" for place in places) or problem.detail
    return problem.slug, _sentence(detail)


def _sentence(text: str) -> str:
    return storable(text)[:MAX_SENTENCE]
