"""The settings of metrics, logs and traces."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from relay.settings import parse


class TelemetrySettings(BaseModel):
    """What :class:`~relay.settings.model.Settings` says about telemetry."""

    telemetry_enabled: Annotated[bool, BeforeValidator(parse.switch)] = Field(
        default=True, description="When `false`, there is no `/metrics` and nothing is exported; logs stay."
    )
