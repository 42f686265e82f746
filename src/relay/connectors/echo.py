"""``relay.echo``: an action that reaches nothing, to try a key and the whole path with."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from relay.catalog import Connector, Rendering
from relay.core.action import Step
from relay.core.permit import Permit

connector = Connector("relay", local=True)


class Echo(BaseModel):
    """What to say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message: Annotated[str, Field(min_length=1, max_length=4096, description="The text that comes back.")]


class Echoed(BaseModel):
    """What was said."""

    message: str


def _render(step: Step, client: None) -> Rendering:
    return Rendering(summary="Echo a text; nothing leaves Relay.", body={"message": step.params.message})


@connector.action("relay.echo", effect="read", render=_render, idempotent=True, timeout=5.0, untrusted_result=False)
async def echo(permit: Permit, params: Echo, client: None) -> Echoed:
    """Echo a text back; reaches nothing, useful to try a key."""
    return Echoed(message=params.message)
