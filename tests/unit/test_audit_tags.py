"""One list of tags: what the code writes, what the registry says and what the documentation says are the same."""

import ast
import re
from pathlib import Path

from relay.audit.tags import TAGS

ROOT = Path(__file__).parents[2]
TAG = re.compile(r"[a-z]+:[a-z_]+:[a-z_]+")


def test_the_documentation_lists_every_tag_with_its_meaning() -> None:
    text = (ROOT / "docs" / "audit.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z]+:[a-z:_]+)` \| (.+) \|$", text, re.MULTILINE))
    assert rows == TAGS


def test_every_tag_is_well_formed_and_explained_in_a_sentence() -> None:
    for tag, meaning in TAGS.items():
        assert TAG.fullmatch(tag) and meaning[0].isupper() and meaning.endswith(".")


def test_every_tag_that_the_code_names_is_registered() -> None:
    named = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and TAG.fullmatch(node.value):
                named.add(node.value)
    # What a route declares for itself begins with "api": no event carries it.
    unknown = {tag for tag in named - TAGS.keys() if not tag.startswith("api:")}
    assert not unknown
