"""Text from outside at the door: what hides in it is refused before anything reads it."""

import json
from typing import Any

import pytest

from tests.gateway import Gateway

PLAN = "/ai/plan"


@pytest.mark.parametrize(
    ("body", "pointer", "says"),
    [
        ({"prompt": 'echo "hi\x1b"'}, "/prompt", "Character 9 is U+001B, a control character"),
        ({"prompt": "echo \u202ehello"}, "/prompt", "Character 6 is U+202E, a character that turns"),
        ({"prompt": "echo hello\U000e0041"}, "/prompt", "Character 11 is U+E0041, a tag character"),
        ({"prompt": "echo", "context": {"a": ["b", "c\u2066"]}}, "/context/a/1", "Character 2 is U+2066"),
        ({"prompt": "echo", "context": {"a\x00": 1}}, "/context", "In the name of a member: Character 2 is U+0000"),
        ({"prompt": "\ufb2c" * 6_000}, "/prompt", "At most 16384 characters"),
    ],
)
async def test_what_hides_in_a_prompt_is_refused(
    gateway: Gateway, body: dict[str, Any], pointer: str, says: str
) -> None:
    answer = await gateway.post(PLAN, body, key=gateway.admin)
    (error,) = answer.expect(422)["errors"]
    assert error["pointer"] == pointer and error["message"].startswith(says)
    told = json.dumps(answer.json, ensure_ascii=False)
    assert "hello" not in told and told.isprintable()


async def test_half_of_a_surrogate_pair_is_no_json(gateway: Gateway) -> None:
    answer = await gateway.post(PLAN, data=b'{"prompt": "echo \\ud83d"}', key=gateway.admin)
    assert "errors" not in answer.expect(400)


async def test_a_prompt_is_read_in_one_form(gateway: Gateway) -> None:
    answer = await gateway.post(PLAN, {"prompt": 'echo "Cafe\u0301 👩\u200d🚒"'}, key=gateway.admin)
    (step,) = answer.expect(200)["steps"]
    assert step["params"]["message"] == "Café 👩\u200d🚒"
