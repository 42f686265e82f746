"""A request that the operator sends by hand, from her own command line: to wherever she says, as with curl.

The rules of egress are for destinations that callers, agents or stored data choose. Here nobody but the operator
does, and what she tries out most is on her own machine, which those rules would close.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from relay import __version__
from relay.egress.target import BadTarget, Target, parse_target

MAX_ANSWER: Final = 64 * 1024
AGENT: Final = f"Relay/{__version__}"


class NotSent(Exception):
    """No answer came; the text says why."""


class NoUrl(NotSent):
    """Nothing was sent, since it is not said where to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said; of the body at most 64 KiB."""

    status: int
    body: bytes


async def post(url: str, headers: Mapping[str, str], body: bytes, *, seconds: float) -> Answer:
    """Post ``body`` once and return the answer, whatever its status; :class:`NotSent` when there is none.

    :class:`NoUrl` for a ``url`` that is none.

    TLS is verified, redirects are not followed, proxies and credentials of the environment are ignored. ``seconds``
    bounds the whole.
    """
    try:
        target = parse_target(url)
    except BadTarget as error:
        raise NoUrl(str(error)) from None
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(trust_env=False, auto_decompress=False, timeout=timeout) as session,
            session.post(
                URL(target.url, encoded=True),
                headers={"User-Agent": AGENT, **headers},
                data=body,
                allow_redirects=False,
            ) as answer,
        ):
            return Answer(answer.status, await _start_of(answer.content))
    except TimeoutError:
        raise NotSent(f"{target.authority} did not answer within {seconds:g} s; it may have taken it.") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NotSent(_why(target, error)) from None


def _why(target: Target, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"The name {target.host} could not be resolved."
    if isinstance(error, aiohttp.ClientSSLError):
        return f"The TLS certificate or handshake of {target.authority} was not acceptable."
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"No connection to {target.authority} could be made."
    return f"The connection to {target.authority} broke before a readable answer came; it may have taken it."


async def _start_of(content: aiohttp.StreamReader) -> bytes:
    found = bytearray()
    async for chunk in content.iter_any():
        found += chunk
        if len(found) >= MAX_ANSWER:
            break
    return bytes(found[:MAX_ANSWER])
