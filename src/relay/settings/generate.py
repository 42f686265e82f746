"""A new set of the secrets that an installation makes for itself; which these are, the model says."""

from collections.abc import Collection
from typing import Final

from relay.settings.model import FIELDS, SECRETS
from relay.settings.secret_text import Made

_MADE: Final = {
    name: mark for name, info in FIELDS.items() if name in SECRETS for mark in info.metadata if isinstance(mark, Made)
}
MAKERS: Final = {name: mark.make for name, mark in _MADE.items()}
"""The secrets that are made and not given by somebody else, in the order of the documentation."""
WHOLE_SET: Final = tuple(name for name, mark in _MADE.items() if not mark.on_request)
"""Those of them that an installation gets unasked."""


def generate_secrets(names: Collection[str] = ()) -> dict[str, str]:
    """Return new secrets by the names of their settings: :data:`WHOLE_SET`, or those named. KeyError for others."""
    return {name: MAKERS[name]() for name in (names or WHOLE_SET)}
