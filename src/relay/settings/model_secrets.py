"""The settings of secrets' sources, ages and rotation."""

from pydantic import BaseModel


class SecretsSettings(BaseModel):
    """What :class:`~relay.settings.model.Settings` says about secrets."""
