"""Random processes are killed at random instants, PostgreSQL too, while agents work and persons approve.

``TEST_KILLS`` says how many kills (16; 200 is full size, with two restarts of PostgreSQL), ``TEST_SEED`` repeats the
choices of an earlier trial.
"""

import os
import time
from pathlib import Path
from typing import Final

import pytest

from tests.chaos_kit import RESUMED_SECONDS, open_chaos

KILLS: Final = int(os.environ.get("TEST_KILLS") or 16)
RESTARTS: Final = max(1, KILLS // 100)


@pytest.mark.timeout(300 + 10 * KILLS)
async def test_whatever_is_killed_every_run_ends_and_nothing_happens_twice(tmp_path: Path) -> None:
    seed = int(os.environ.get("TEST_SEED") or time.time_ns() % 2**32)
    print(f"TEST_SEED={seed}")
    async with open_chaos(tmp_path, seed) as chaos:
        report = await chaos.go(KILLS, RESTARTS)
        print(report)
    assert report.kills.total() == KILLS and report.database_restarts == RESTARTS
    assert report.runs["succeeded"] > 0 and report.approvals["approved"] > 0 and report.approvals["denied"] > 0
    assert max(report.waits, default=0.0) <= RESUMED_SECONDS, report.waits
