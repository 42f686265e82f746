"""What an action shows of its parameters to policy and budgets."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

BUDGET: Final = {"budget": True}

Sum = Annotated[int, Field(ge=0, json_schema_extra=BUDGET)]
"""A whole number that budgets can add up over a day."""


class Exposed(BaseModel):
    """The typed parameters of a step that policies may speak of; an action's own are a subclass's fields.

    A field is ``str``, ``int``, ``bool`` or a ``frozenset[str]``, so that each has a type in a policy's schema.
    ``recipients`` are addresses that something is sent to, domains in lower case; ``hosts`` are the hosts that are
    connected to, as :func:`relay.egress.target.parse_target` writes them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    recipients: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()


NOTHING: Final = Exposed()
