"""Relay with no limit, or with three on each request: `python -m benchmarks.variants serve …`, the number in `LIMITS`.

Of the limits of `POST /actions/execute` an IPv4 caller meets two, an IPv6 caller three, in the same two checks. The
load comes by IPv4, so for three it is given a network, as IPv6 callers have one.
"""

import os
from typing import Any
from unittest import mock

import relay.gate.limit
from relay.cli import main
from relay.gate.limit import RequestLimits
from relay.limits.subjects import subject

ADDRESS = subject("address", "127.0.0.1")
NETWORK = subject("network", "::/48")


async def _nothing(*_: Any) -> None:
    return


if __name__ == "__main__":
    if os.environ["LIMITS"] == "0":
        with (
            mock.patch.object(RequestLimits, "address", _nothing),
            mock.patch.object(RequestLimits, "caller", _nothing),
        ):
            main()
    else:
        with mock.patch.object(relay.gate.limit, "address_subjects", return_value=(ADDRESS, NETWORK)):
            main()
