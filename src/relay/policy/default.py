"""The policy texts that come with Relay."""

from importlib.resources import files
from typing import Final


def _text(name: str) -> str:
    return files("relay.policy").joinpath(name).read_text(encoding="utf-8")


DEFAULT_TEXT: Final = _text("default.cedar")
"""The policies of a workspace that has set none: permits and conditions, readable on their own."""

BASELINE_TEXT: Final = _text("baseline.cedar")
"""What is forbidden everywhere and always; the operator's own rules are added to it."""
