"""The settings of what is done around Relay rather than by it."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from relay.settings import parse


class OperationsSettings(BaseModel):
    """What :class:`~relay.settings.model.Settings` says about backups."""

    backup_folder: Annotated[Path | None, BeforeValidator(parse.folder)] = Field(
        default=None,
        description="Where backups of the database land. Relay writes none there; `relay doctor` looks at the age of "
        "the newest file. See [deployment](DEPLOYMENT.md#backups).",
    )
    backup_max_age_hours: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=26, ge=1, le=8760, description="How old the newest backup may be before `relay doctor` says so."
    )
