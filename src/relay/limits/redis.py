"""Counting in Redis (6.2 or newer), shared by every replica and worker: one script per stage, on the server's clock.

Keys are made of the installation's id, policies of our own and digests; the id is their common hash tag, so that they
live on one node of a cluster. Every key expires by itself.
"""

import logging
from collections.abc import Callable, Sequence
from importlib import resources
from time import monotonic
from typing import Any, Final

import hiredis
from redis.exceptions import NoScriptError, ResponseError

from relay.core.clock import MICROSECONDS
from relay.core.limit import Quota
from relay.limits.counters import FORGIVE, LOG_MOST, LONGEST_BLOCK, CountersUnavailable, Hit, Verdict
from relay.limits.link import RedisLink
from relay.limits.rules import Rule

_ALGORITHMS: Final = "algorithms"
_SAY_SECONDS: Final = 60.0

log = logging.getLogger("relay.limits")


def _packed(*arguments: int | bytes) -> bytes:
    command: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # the stub names a tuple of one
    return command


class _Script:
    """A script, and the name that Redis gave it when it was sent."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._name: bytes = b""
        self._quiet_until = 0.0

    async def run(self, link: RedisLink, keys: Sequence[bytes], arguments: Sequence[int | bytes]) -> Any:
        rest = (len(keys), *keys, *arguments)
        try:
            if self._name:
                try:
                    return await link.call(_packed(b"EVALSHA", self._name, *rest))
                except NoScriptError:  # the server has been restarted, or is another one
                    self._name = b""
            self._name = await link.call(_packed(b"SCRIPT", b"LOAD", self._text))
            return await link.call(_packed(b"EVALSHA", self._name, *rest))
        except ResponseError as error:
            self._complain(error)
            raise CountersUnavailable from None

    def _complain(self, error: ResponseError) -> None:
        """Say what Redis refuses (it is full, or read only), now and then."""
        if monotonic() >= self._quiet_until:
            self._quiet_until = monotonic() + _SAY_SECONDS
            log.error("Redis refuses a script: %s", str(error).partition(" ")[0])


def script_text(name: str) -> str:
    """Return a script as it is sent: the algorithms, then its own part."""
    folder = resources.files("relay.limits")
    return "\n".join((folder / f"{part}.lua").read_text() for part in (_ALGORITHMS, name))


class RedisCounters:
    """The counters of one installation. ``text_of`` gives each script's text."""

    def __init__(self, link: RedisLink, installation: str, *, text_of: Callable[[str], str] = script_text) -> None:
        self._link = link
        self._prefix = b"{%b}:" % installation.encode()
        self._said: dict[str, tuple[bytes, tuple[bytes, bytes]]] = {}
        self._take, self._give_back, self._fail = (
            _Script(text_of(name).encode()) for name in ("take", "give_back", "fail")
        )

    async def take(self, hits: Sequence[Hit]) -> Verdict:
        """Count every hit when all of them are allowed, else none."""
        answer = await self._take.run(self._link, *self._asked(hits))
        numbers = iter(answer)
        allowed, at = next(numbers), next(numbers)
        # Three numbers for each rule: the same iterator is drawn from thrice.
        quotas = [
            Quota(rule.policy, rule.limit, left, reset, wait)
            for (rule, _), left, reset, wait in zip(hits, numbers, numbers, numbers, strict=True)
        ]
        return Verdict(allowed == 1, tuple(quotas), at)

    async def give_back(self, hits: Sequence[Hit], at: int) -> None:
        """Forget hits that were counted at that time."""
        keys, arguments = self._asked(hits)
        await self._give_back.run(self._link, keys, [*arguments, at])

    async def fail(self, hit: Hit) -> int:
        """Count a failed credential; return for how many microseconds its subject is refused, 0 for not at all."""
        keys, arguments = self._asked([hit])
        keys.append(keys[0] + b":block")
        blocked: int = await self._fail.run(self._link, keys, [*arguments, LONGEST_BLOCK, FORGIVE])
        return blocked

    def _asked(self, hits: Sequence[Hit]) -> tuple[list[bytes], list[int | bytes]]:
        keys: list[bytes] = []
        arguments: list[int | bytes] = []
        for rule, subject in hits:
            name, numbers = self._said.get(rule.policy) or self._say(rule)
            keys.append(name + subject)
            arguments += numbers
        return keys, arguments

    def _say(self, rule: Rule) -> tuple[bytes, tuple[bytes, bytes]]:
        """Return the beginning of a rule's keys, and its numbers as scripts take them."""
        count, seconds = rule.limit.count, rule.limit.seconds
        # A log means the same under every limit, a cell does not, and replicas may differ for a while.
        most = "" if count <= LOG_MOST else f"{count}/"
        name = self._prefix + f"{rule.policy}:{most}{seconds}:".encode()
        said = self._said[rule.policy] = name, (b"%d" % count, b"%d" % (seconds * MICROSECONDS))
        return said
