"""What changed between two policy texts."""

import difflib
from typing import Final

MAX_LINES: Final = 5_000
_NO_NEWLINE: Final = "\\ No newline at end of file"


def unified_diff(before: str, after: str, *, names: tuple[str, str]) -> str:
    """Return the unified diff of two texts, as ``diff -u`` writes it; empty when they are the same.

    Beyond 5,000 lines common ones are not looked for, which could take minutes: then everything is taken out and put
    in. It takes milliseconds to seconds of processor time: call it in a thread.
    """
    if before == after:
        return ""
    old, new = _lines(before), _lines(after)
    if max(len(old), len(new)) > MAX_LINES:
        head = [f"--- {names[0]}\n", f"+++ {names[1]}\n", f"@@ -{_range(old)} +{_range(new)} @@\n"]
        lines = [*head, *(f"-{line}" for line in old), *(f"+{line}" for line in new)]
    else:
        lines = list(difflib.unified_diff(old, new, *names))
    return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}\n" for line in lines)


def _lines(text: str) -> list[str]:
    *whole, rest = text.split("\n")
    return [*(line + "\n" for line in whole), *([rest] if rest else [])]


def _range(lines: list[str]) -> str:
    return f"1,{len(lines)}" if lines else "0,0"
