"""The one place through which words of models and results of actions leave a session for people's eyes.

They are stored as they came, since a model is told them again, and never shown so.
"""

from typing import Any

from relay.core.links import Harmless, harmless, harmless_json


class Outward:
    """Makes what goes out harmless; ``hosts`` are those to which links and images may stay as they are."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._hosts = hosts

    def text(self, text: str) -> str:
        """Return a text that is whole."""
        return harmless(text, self._hosts)

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text in it as :meth:`text` returns it."""
        return None if value is None else harmless_json(value, self._hosts)

    def stream(self) -> Harmless:
        """Return what does the same to a text that comes in pieces."""
        return Harmless(self._hosts)
