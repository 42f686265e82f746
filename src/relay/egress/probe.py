"""A look at a deployment from outside, for its operator: requests that carry no credential, and its TLS.

The address is the operator's own, given on the command line, so the rules of egress do not apply (see
:mod:`relay.egress.operator`). What a stranger would find is what is asked for, so a certificate that does not verify is
reported and the rest is asked all the same: nothing secret is ever sent.
"""

import asyncio
import ssl
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from relay.egress.target import Target, parse_target

MAX_ANSWER: Final = 64 * 1024
ANSWER_SECONDS: Final = 10.0
_OWN_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. ``headers`` have lower-case names, repeated ones joined by a comma; ``body`` is at most 64 KiB.

    Status 0 is no answer at all.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


NO_ANSWER: Final = Reply(0, {}, b"")


@dataclass(frozen=True, slots=True)
class TlsFound:
    """What the handshake showed. ``distrust`` says why the certificate does not verify; ``ends_at`` is in seconds.

    ``old_accepted`` says whether TLS 1.1 or older was spoken; None where this machine cannot try.
    """

    distrust: str | None
    ends_at: float | None
    old_accepted: bool | None


class Prober:
    """Asks one deployment, bounded in time and in what it reads. Redirects are answers; nothing else is followed.

    ``address`` is connected to in place of what the name resolves to. ``ca_file`` replaces the system's authorities.
    """

    def __init__(self, url: str, *, ca_file: Path | None = None, address: str | None = None) -> None:
        self.target: Final[Target] = parse_target(url)
        self._ca_file = str(ca_file) if ca_file is not None else None
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        anything = ssl.create_default_context()
        anything.check_hostname = False
        anything.verify_mode = ssl.CERT_NONE  # whether it verifies is asked apart, see tls()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=anything, resolver=_Fixed(self._address) if self._address else None),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=_OWN_HEADERS,
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """Send one request and return the answer, as far as it came within ten seconds; :data:`NO_ANSWER` for none."""
        assert self._session is not None, "used outside its block"
        url = URL(f"{self.target.scheme}://{self.target.authority}{path}", encoded=True)
        found: Reply = NO_ANSWER
        try:
            async with self._session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
                found = Reply(answer.status, _joined(answer.headers), b"")
                while len(found.body) < MAX_ANSWER:
                    part = await answer.content.read(MAX_ANSWER - len(found.body))  # what has come, not all of it
                    if not part:
                        break
                    found = Reply(found.status, found.headers, found.body + part)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return found
        return found

    async def tls(self) -> TlsFound | None:
        """Shake hands as a careful client, then as an old one; None for plain HTTP. OSError when nobody listens."""
        if self.target.scheme != "https":
            return None
        distrust: str | None = None
        ends_at: float | None = None
        try:
            certificate = await self._shake(ssl.create_default_context(cafile=self._ca_file))
            ends_at = float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
        except ssl.SSLCertVerificationError as error:
            distrust = error.verify_message or "it does not verify"
        except ssl.SSLError as error:
            distrust = f"the handshake fails ({error.reason})"
        return TlsFound(distrust, ends_at, await self._old_accepted())

    async def _old_accepted(self) -> bool | None:
        try:
            await self._shake(_old_context())
        except ssl.SSLError as error:
            return None if error.reason in ("NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE") else False
        except OSError:
            return False
        return True

    async def _shake(self, context: ssl.SSLContext) -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(
                self._address or self.target.host, self.target.port, ssl=context, server_hostname=self.target.host
            )
        certificate: dict[str, Any] = writer.get_extra_info("ssl_object").getpeercert() or {}
        writer.transport.abort()
        return certificate


class _Fixed(AbstractResolver):
    """Finds every name at one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._address, port)
        return [
            ResolveResult(hostname=host, host=str(where[0]), port=port, family=kind, proto=0, flags=0)
            for kind, _, _, _, where in found[:1]
        ]

    async def close(self) -> None:
        return


def _old_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old protocols are what is looked for
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _joined(headers: Any) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        joined[lower] = f"{joined[lower]}, {value}" if lower in joined else value
    return joined
