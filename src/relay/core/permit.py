"""The fourth lock: a connector runs only with a permit that the gate minted for this one attempt.

It stops mistakes, not hostile code in the same process.
"""

import time
from typing import Any, Final, NoReturn

from relay.core.action import Decision, Step
from relay.core.principal import Principal

_MINTED: Final[dict[int, "Permit"]] = {}
_KEY: Final = object()


class PermitRefused(RuntimeError):
    """A connector was called without a permit, or with one that was copied, used before or outlived its lease."""


class Permit:
    """Leave to perform one step once, before ``deadline`` (seconds of the boot clock).

    Only :func:`mint_permit` makes one, and only ``relay.gate.execute`` may import that function (lint refuses
    other importers). A permit cannot be copied or pickled; :meth:`redeem` succeeds once. ``seen_version`` is the
    version that was found of what the step changes, None where none was read.
    """

    __slots__ = ("approval_id", "attempt_id", "deadline", "decision", "principal", "seen_version", "step")

    attempt_id: str
    principal: Principal
    step: Step
    decision: Decision
    approval_id: str | None
    deadline: float
    seen_version: str | None

    def __init__(self, key: object, **values: Any) -> None:
        if key is not _KEY:
            raise PermitRefused("permits are minted by the gate alone")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __init_subclass__(cls) -> NoReturn:
        raise PermitRefused("there is one kind of permit")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise PermitRefused("a permit cannot be changed")

    def _no_copy(self, *_: object) -> NoReturn:
        raise PermitRefused("a permit cannot be copied")

    __copy__ = __deepcopy__ = __reduce__ = __reduce_ex__ = _no_copy

    def redeem(self, action: str) -> None:
        """Use the permit up for ``action``; :class:`PermitRefused` unless it is live, this very object and unused."""
        if _MINTED.pop(id(self), None) is not self:
            raise PermitRefused("this permit was not minted by the gate, or has been used")
        if self.step.action != action:
            raise PermitRefused("this permit is for another action")
        self.ensure_live()

    def ensure_live(self) -> None:
        """Refuse once the lease has run out: by then another process may have declared the outcome unknown.

        To be called immediately before the first byte leaves. A pause between this check and the send
        remains possible and is documented in the security notes.
        """
        if boot_clock() >= self.deadline:
            raise PermitRefused("the lease of this attempt has run out; nothing was sent")


def boot_clock() -> float:
    """Return seconds on a clock that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def mint_permit(
    *,
    attempt_id: str,
    principal: Principal,
    step: Step,
    decision: Decision,
    approval_id: str | None,
    deadline: float,
    seen_version: str | None = None,
) -> Permit:
    """Mint the permit for one attempt. For ``relay.gate.execute`` alone."""
    permit = Permit(
        _KEY,
        attempt_id=attempt_id,
        principal=principal,
        step=step,
        decision=decision,
        approval_id=approval_id,
        deadline=deadline,
        seen_version=seen_version,
    )
    _MINTED[id(permit)] = permit
    return permit


def void_permit(permit: Permit) -> None:
    """Withdraw a permit that was not redeemed, so that it can never be."""
    if _MINTED.get(id(permit)) is permit:
        del _MINTED[id(permit)]
