"""Sending telemetry to the collector that the operator's settings name: no destination that others choose."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

TIMEOUT_SECONDS: Final = 10.0
_MAX_ANSWER: Final = 64 * 1024


class Collector:
    """Posts to one collector. TLS is verified, against ``ca_file`` alone where it is given.

    Redirects are not followed, and proxies and credentials of the environment are ignored.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], ca_file: Path | None = None) -> None:
        self._endpoint = endpoint
        self._headers = {**headers, "content-type": "application/x-protobuf", "user-agent": "relay"}
        self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Post once and return the status of the answer, 0 when none came. Never raises for the other side's sake."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=2),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            )
        url = URL(self._endpoint + path, encoded=True)
        try:
            async with self._session.post(url, data=body, headers=self._headers, allow_redirects=False) as answer:
                await answer.content.read(_MAX_ANSWER)
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return 0

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
