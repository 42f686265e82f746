"""The only reader of the environment: typed, bounded and documented settings, their sources, the keys they give."""

from relay.settings.errors import SettingsError
from relay.settings.model import Settings
from relay.settings.sources import load_settings

__all__ = ["Settings", "SettingsError", "load_settings"]
