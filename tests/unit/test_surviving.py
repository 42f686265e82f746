"""Background rounds go on after a defect, and end when they are told to."""

import asyncio
import logging

import pytest

from relay.telemetry.surviving import surviving

log = logging.getLogger("relay.test")


def test_a_defect_is_logged_and_outlived(caplog: pytest.LogCaptureFixture) -> None:
    rounds = []
    for number in range(2):
        with surviving(log, "a round"):
            rounds.append(number)
            raise KeyError("secret of a caller")
    assert rounds == [0, 1]
    assert [record.getMessage() for record in caplog.records] == ["a round broke: KeyError"] * 2


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_ends_a_task_passes_through(error: type[BaseException]) -> None:
    with pytest.raises(error), surviving(log, "a round"):
        raise error
