"""Name look-ups in threads of their own, so that names that are slow to resolve hold nobody else up.

The event loop's own look-ups share four threads with everything else; a few names whose server never answers, which
any caller may choose, would stop every other destination.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUPS: Final = 64
CHECKS: Final = 8
_THREADS: Final = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="relay-resolve")
FOR_CHECKS: Final = ThreadPoolExecutor(CHECKS, thread_name_prefix="relay-check")
"""For names that are only looked at: whoever gives many slow ones must not keep connections from being made."""


class PooledResolver(AbstractResolver):
    """``getaddrinfo`` in up to 64 threads, more than one workspace's concurrent actions can keep busy.

    ``threads`` are others than those, which every connection of the process is made with.
    """

    def __init__(self, threads: ThreadPoolExecutor = _THREADS) -> None:
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the numeric addresses of ``host``; OSError when there are none. Scoped addresses are left out."""
        look_up = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in await look_up
            # A link-local address is never connected to, with or without its scope.
            if kind != socket.AF_INET6 or not address[3]
        ]

    async def close(self) -> None:
        """Nothing to give back: the threads serve every client of the process."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(int(kind), int(type_), protocol, name, tuple(address)) for kind, type_, protocol, name, address in found]
