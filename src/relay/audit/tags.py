"""Every tag that an audit event may carry, with what it says. A row with another one is never written."""

from typing import Final

TAGS: Final[dict[str, str]] = {
    "gate:preview:made": "An action was previewed.",
    "gate:plan:made": "A plan was made from a prompt.",
    "gate:action:intent": "An action is about to run; committed before the first byte leaves.",
    "gate:action:outcome": "What became of an action.",
    "gate:action:denied": "An action was refused before it ran.",
    "gate:action:late_outcome": "An outcome came after its attempt had been declared unknown.",
    "gate:attempt:swept": "An attempt outlived its lease without an outcome and was declared unknown.",
    "identity:key:created": "An API key was made.",
    "identity:key:rotated": "An API key got a successor and an end date.",
    "identity:key:revoked": "An API key was revoked.",
    "identity:key:restricted": "The networks that an API key may be used from were set.",
    "identity:workspace:restricted": "The networks that a workspace's keys may be used from were set.",
    "runs:run:created": "A plan's steps were accepted for execution.",
    "runs:run:finished": "A run reached its end.",
    "runs:run:cancelled": "A run was cancelled.",
    "limits:backend:lost": "Redis stopped answering: changes are refused, reads have a tenth of their limits.",
    "limits:backend:recovered": "Redis answers again: limits are shared as before.",
    "relay:server:started": "A server process started.",
    "relay:server:stopped": "A server process stopped in good order.",
    "audit:details:erased": "The details of an earlier event were erased; target is that event's id.",
}
