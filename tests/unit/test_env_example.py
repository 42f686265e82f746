""".env.example names settings that exist, and nobody can start Relay with what it says in their place."""

import re
from pathlib import Path

import pytest

from relay.settings import SettingsError, load_settings
from relay.settings.model import FIELDS, SECRETS

EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text()
LINES = re.findall(r"^#([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
PLACEHOLDERS = [(name, value) for name, value in LINES if "YOUR_" in value]


def test_every_line_is_a_comment() -> None:
    assert [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")] == []


def test_it_names_only_settings_that_exist() -> None:
    known = {*FIELDS, *(f"{name}_FILE" for name in SECRETS)}
    assert [name for name, _ in LINES if name not in known] == []
    assert len(LINES) > 10


def test_it_names_every_setting() -> None:
    named = [name for name, _ in LINES]
    # RELAY_ENV has no effect in a .env, and the example says so instead.
    assert len(named) == len({*named})
    missing = [name for name in FIELDS if not {name, f"{name}_FILE"} & {*named}]
    assert [name for name in missing if not name.startswith(("RATE_LIMIT_", "CONCURRENCY_"))] == ["RELAY_ENV"]


def test_the_defaults_that_it_shows_are_accepted(tmp_path: Path) -> None:
    shown = {name: value for name, value in LINES if "YOUR_" not in value}
    assert shown
    default = {"RELAY_DATA_DIR": str(tmp_path)}
    given = load_settings({**shown, **default}, tmp_path)
    assert given.model_dump() == load_settings(default, tmp_path).model_dump()


@pytest.mark.parametrize(("name", "value"), PLACEHOLDERS)
def test_a_placeholder_is_refused(name: str, value: str, tmp_path: Path) -> None:
    environment = {"RELAY_DATA_DIR": str(tmp_path), name: value}
    with pytest.raises(SettingsError) as refused:
        load_settings(environment, tmp_path)
    assert any(problem.startswith(name) for problem in refused.value.problems)
