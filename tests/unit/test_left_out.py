"""A test that does not run is no success: the hooks of ``tests/left_out.py``, in a session of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import left_out

SUITE = """
import pytest
def test_runs(): pass
def test_left_out(): pytest.skip({reason!r})
"""


def session(folder: Path, reason: str | None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a session of one or two tests, the second skipped for ``reason``."""
    body = SUITE.format(reason=reason) if reason else "def test_runs(): pass\n"
    (folder / "test_it.py").write_text(body)
    (folder / "pytest.ini").write_text("[pytest]\n")
    bare = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    top = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.left_out", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env={**bare, "PYTHONPATH": top, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_whole_session_succeeds(tmp_path: Path) -> None:
    for env in ({}, {"CI": "1"}):
        ended = session(tmp_path, None, **env)
        assert ended.returncode == 0 and "LEFT OUT" not in ended.stdout


def test_a_missing_debian_package_is_named_loudly_and_fails_in_ci(tmp_path: Path) -> None:
    reason = left_out.missing_package("some-package", "no-such-command")
    assert reason is not None and "some-package" in reason
    ended = session(tmp_path, reason)
    assert ended.returncode == 0
    assert "LEFT OUT" in ended.stdout and "some-package" in ended.stdout and "test_left_out" in ended.stdout
    assert session(tmp_path, reason, CI="1").returncode == 1


@pytest.mark.parametrize("reason", ["later", "flaky here"])
def test_any_other_skip_fails_the_session(tmp_path: Path, reason: str) -> None:
    ended = session(tmp_path, reason)
    assert ended.returncode == 1 and reason in ended.stdout


def test_a_command_that_is_there_wants_no_package() -> None:
    assert left_out.missing_package("coreutils", "ls") is None
