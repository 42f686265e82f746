"""Whose results may hold what others have written."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from relay.catalog import ActionSpec, Connector, Rendering
from relay.core.action import Step
from relay.core.permit import Permit


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _render(step: Step, client: Any) -> Rendering:
    return Rendering("Do nothing", {})


def declared(*, local: bool, **marks: bool) -> ActionSpec:
    connector = Connector("marks", local=local)

    @connector.action("marks.read", effect="read", render=_render, **marks)
    async def read(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Read something."""
        return Nothing()

    return connector.actions["marks.read"]


@pytest.mark.parametrize(
    ("local", "marks", "untrusted"),
    [
        (False, {}, True),
        (True, {}, False),
        (False, {"untrusted_result": False}, False),
        (True, {"untrusted_result": True}, True),
    ],
)
def test_results_are_untrusted_unless_nothing_is_reached_or_somebody_vouches_for_them(
    local: bool, marks: dict[str, bool], untrusted: bool
) -> None:
    spec = declared(local=local, **marks)
    assert spec.untrusted_result is untrusted and spec.untrusted_outcome("succeeded") is untrusted


@pytest.mark.parametrize("status", ["failed", "unknown", "denied", "expired", "cancelled", "odd"])
def test_what_is_told_of_a_failure_may_quote_the_other_side_whoever_vouches_for_results(status: str) -> None:
    assert declared(local=False, untrusted_result=False).untrusted_outcome(status)
    assert not declared(local=True).untrusted_outcome(status)
