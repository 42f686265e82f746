"""How the local planner declines."""


class Unclear(Exception):
    """The prompt, or a part of it, is not understood well enough to propose a step; the text says why.

    ``strange`` counts the words that had no place: of several reasons, the one with the fewest says most.
    """

    def __init__(self, reason: str, *, strange: int = 0) -> None:
        super().__init__(reason)
        self.strange = strange


def shortened(text: str, limit: int) -> str:
    """Return ``text`` on one line and at most ``limit`` characters long."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shown(text: str, limit: int = 60) -> str:
    """Return ``text`` in typographic quotes, shortened, for explanations."""
    return f"“{shortened(text, limit)}”"
