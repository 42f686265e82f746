"""A command that only reads makes nothing where there is nothing: a mistyped folder is not an empty installation."""

from pathlib import Path

import pytest

from tests.process import gateway_process

READING = [("audit", "verify"), ("audit", "list"), ("audit", "export"), ("key", "list"), ("key", "revoke", "key_x")]


@pytest.mark.parametrize("command", READING, ids=" ".join)
async def test_reading_makes_no_installation(tmp_path: Path, command: tuple[str, ...]) -> None:
    async with gateway_process(tmp_path / "home", start=False) as nowhere:
        ended = await nowhere.command(*command)
        assert ended.returncode == 1
        assert "there is no installation in the folder" in ended.stderr
        assert ended.stdout == ""
        assert not nowhere.data.exists()


async def test_the_first_key_of_the_command_line_makes_one(tmp_path: Path) -> None:
    async with gateway_process(tmp_path / "home", start=False) as new:
        assert (await new.new_key("docs")).startswith("relay_sk_")
        assert (await new.command("audit", "verify")).returncode == 0
