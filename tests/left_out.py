"""Nothing is left out in silence: a skipped test fails the run, unless it wants a Debian package that is not there.

Those are named at the end of the run, and they fail too where ``CI`` is set. ``tests/conftest.py`` imports the hooks.
"""

import os
import shutil

import pytest

REASON = "wants Debian's "
# Servers stand in sbin, which is not in everybody's PATH.
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def missing_package(package: str, command: str) -> str | None:
    """Return why a test has to be left out when ``command`` of a Debian package is not installed, else None."""
    if shutil.which(command, path=SYSTEM_PATH) is not None:
        return None
    return f"{REASON}{package} (make test-deps)"


def left_out(config: pytest.Config) -> dict[str, list[str]]:
    """Return the tests that did not run, by reason. Empty in a worker process: the controller counts."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found: dict[str, list[str]] = {}
    for report in reporter.stats.get("skipped", []) if reporter is not None else []:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        found.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reasons = left_out(session.config)
    allowed = not os.environ.get("CI") and all(reason.startswith(REASON) for reason in reasons)
    if reasons and not allowed and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = left_out(terminalreporter.config)
    if not reasons:
        return
    terminalreporter.section("LEFT OUT", sep="!", red=True, bold=True)
    for reason, tests in sorted(reasons.items()):
        terminalreporter.line(f"{reason}: {len(tests)} tests did not run", red=True)
        for name in tests:
            terminalreporter.line(f"    {name}")
    if os.environ.get("CI"):
        terminalreporter.line("CI is set: nothing may be left out, the run fails", red=True)
