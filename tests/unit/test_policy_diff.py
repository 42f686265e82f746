"""The diff of two texts leads from the one to the other."""

import re
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from relay.policy import diff as diff_module
from relay.policy.diff import unified_diff

NAMES = ("version 1", "version 2")
NO_NEWLINE = "\n\\ No newline at end of file\n"
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@\n")
TEXTS = st.lists(st.sampled_from(["a", "b", "", "permit;", "\r", "é"]), max_size=12).flatmap(
    lambda lines: st.sampled_from(["", "\n"]).map(lambda end: "\n".join(lines) + end)
)


def patched(text: str, diff: str) -> str:
    """Apply a unified diff as patch(1) does."""
    old = text.split("\n")
    old = [*(line + "\n" for line in old[:-1]), *([old[-1]] if old[-1] else [])]
    new: list[str] = []
    at = 0
    lines = re.sub(re.escape(NO_NEWLINE), "\0", diff).replace("\0", "\0\n").split("\n")[2:-1]
    for line in lines:
        hunk = HUNK.fullmatch(line + "\n")
        if hunk is not None:
            start, count = int(hunk[1]), int(hunk[2] if hunk[2] is not None else 1)
            begin = start - 1 if count else start
            new += old[at:begin]
            at = begin
            continue
        body = line[1:].removesuffix("\0") if line.endswith("\0") else line[1:] + "\n"
        if line[0] != "+":
            assert old[at] == body
            at += 1
        if line[0] != "-":
            new.append(body)
    return "".join([*new, *old[at:]])


@given(TEXTS, TEXTS)
def test_it_leads_from_one_to_the_other(before: str, after: str) -> None:
    found = unified_diff(before, after, names=NAMES)
    assert (found == "") == (before == after)
    if found:
        assert found.startswith("--- version 1\n+++ version 2\n@@ ")
        assert patched(before, found) == after


@given(TEXTS, TEXTS)
def test_so_does_that_of_very_long_texts(before: str, after: str) -> None:
    with mock.patch.object(diff_module, "MAX_LINES", 0):
        found = unified_diff(before, after, names=NAMES)
    assert (found == "") == (before == after)
    if found:
        assert patched(before, found) == after


def test_an_end_without_newline_shows() -> None:
    assert unified_diff("a\n", "a", names=NAMES).endswith("-a\n+a\n\\ No newline at end of file\n")


def test_a_text_of_very_many_lines_is_not_searched() -> None:
    before, after = "x\ny\n" * 30_000, "y\nx\n" * 30_000
    found = unified_diff(before, after, names=NAMES)
    assert found.count("\n-") + found.count("\n+") == 2 * 60_000 + 1
