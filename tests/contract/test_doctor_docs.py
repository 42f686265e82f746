"""docs/doctor.md has every check under its own heading, with what it means and its fix."""

import re
from typing import Any

import pytest

from relay.doctor.check import Check
from relay.doctor.outside.registry import CHECKS as OUTSIDE
from relay.doctor.registry import CHECKS
from tests.docs_reading import headings, read, section

PAGE = "docs/doctor.md"
EVERY: list[tuple[str, Check[Any]]] = [
    *((check.name, check) for check in CHECKS),
    *((f"--url {check.name}", check) for check in OUTSIDE),
]


def test_every_check_has_its_heading_in_the_order_of_the_registry() -> None:
    assert headings(PAGE)[1:] == ["From outside", *(heading for heading, _ in EVERY)]


@pytest.mark.parametrize(("heading", "check"), EVERY, ids=[heading for heading, _ in EVERY])
def test_it_says_what_is_wrong_and_the_fix(heading: str, check: Check[Any]) -> None:
    text = " ".join(section(PAGE, heading).split())
    word = {"fail": "Fails", "warn": "Warns"}[check.severity]
    assert text.startswith(f"{word} unless {check.title}. ")
    assert text.endswith(f"Fix: {check.fix}.")
    assert len(text) > len(check.title) + len(check.fix) + 40, "what it means"


def test_fixes_name_pages_that_exist() -> None:
    pages = {page for _, check in EVERY for page in re.findall(r"docs/[\w./-]+\.md", check.fix)}
    assert pages and all(read(page) for page in pages)
