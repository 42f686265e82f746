"""Relay with every limit taken out, to see what limits cost; `python -m benchmarks.unlimited serve …`."""

from typing import Any
from unittest import mock

from relay.cli import main
from relay.gate.limit import RequestLimits


async def _nothing(*_: Any) -> None:
    return


if __name__ == "__main__":
    with (
        mock.patch.object(RequestLimits, "address", _nothing),
        mock.patch.object(RequestLimits, "caller", _nothing),
    ):
        main()
