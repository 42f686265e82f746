"""Fourth stage: the effect. The one place where permits are minted and connectors are called."""

import asyncio
import logging
import time
from typing import Any, Final

from pydantic_core import to_json

from relay.catalog import ActionSpec
from relay.core.action import Failure, Outcome
from relay.core.effect import EffectForbidden, EffectRefused, EffectUnknown, EffectUnsent
from relay.core.permit import Permit, PermitRefused, mint_permit, void_permit
from relay.core.storable import storable
from relay.gate.ask import Intent
from relay.telemetry.spans import span

_FORBIDDEN: Final = 403
_REFUSED: Final = 502
_UNKNOWN: Final = 504

log = logging.getLogger("relay.gate")


async def execute(
    intent: Intent, client: Any, *, attempt_id: str, deadline: float, approval_id: str | None = None
) -> Outcome:
    """Run the action once and say what became of it; never raises for the action's own sake.

    ``deadline`` is when the lease ends, on the boot clock. ``failed`` means that nothing happened outside; whatever
    leaves that open is ``unknown``, a bug in a connector included. A cancellation is recorded as ``unknown`` by the
    caller.
    """
    permit = mint_permit(
        attempt_id=attempt_id,
        principal=intent.principal,
        step=intent.step,
        decision=intent.decision,
        approval_id=approval_id,
        deadline=deadline,
        seen_version=intent.seen_version,
    )
    began = time.perf_counter()
    try:
        with span("effect", "client", relay__action=intent.spec.name, relay__attempt_id=attempt_id) as recording:
            status, result, failure = await _attempt(intent, client, permit)
            if failure is not None:
                recording.fail(failure.code)
    finally:
        void_permit(permit)
    return Outcome(status, result, failure, round((time.perf_counter() - began) * 1000))  # type: ignore[arg-type]


async def _attempt(intent: Intent, client: Any, permit: Permit) -> tuple[str, dict[str, Any] | None, Failure | None]:
    spec = intent.spec
    try:
        async with asyncio.timeout(intent.timeout):
            result = (await spec.handler(permit, intent.step.params, client)).model_dump(mode="json")
        to_json(result)  # what has no form as JSON must be found out here, where its attempt still gets an outcome
        return "succeeded", result, None
    except EffectForbidden as error:
        return "failed", None, Failure(error.code, storable(error.detail), _FORBIDDEN)
    except EffectUnsent as error:
        return "failed", None, Failure(error.code, storable(error.detail), _REFUSED, retryable=True)
    except EffectRefused as error:
        return "failed", None, Failure(error.code, storable(error.detail), _REFUSED)
    except EffectUnknown as error:
        return "unknown", None, Failure(error.code, storable(error.detail), _UNKNOWN, retryable=_repeatable(spec))
    except PermitRefused:
        return "failed", None, Failure("lease_lost", "The attempt's time ran out before anything was sent.", _REFUSED)
    except TimeoutError:
        return _open_end(spec, "timed_out", f"There was no answer within {intent.timeout:g} s.")
    except Exception as error:  # a connector's bug must not look like a definite outcome
        log.error("connector %s broke in %s: %s", spec.connector, spec.name, type(error).__name__)
        return _open_end(spec, "connector_error", "The connector broke; the request id leads to it in the log.")


def _repeatable(spec: ActionSpec) -> bool:
    return spec.idempotent or spec.effect == "read"


def _open_end(spec: ActionSpec, code: str, detail: str) -> tuple[str, None, Failure]:
    """A read changes nothing outside, so it has failed; anything else may have happened."""
    if spec.effect == "read":
        return "failed", None, Failure(code, detail, _REFUSED, retryable=True)
    return "unknown", None, Failure(code, detail, _UNKNOWN, retryable=_repeatable(spec))
