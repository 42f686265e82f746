"""How quotas are told to callers: the one place that knows the headers, since their draft still moves.

``RateLimit-Policy`` and ``RateLimit`` as in draft-ietf-httpapi-ratelimit-headers; ``X-RateLimit-Limit``,
``X-RateLimit-Remaining`` and ``X-RateLimit-Reset`` (Unix seconds) describe the tightest policy for older clients.
"""

from collections.abc import Sequence
from functools import lru_cache

from relay.core.clock import MICROSECONDS, now
from relay.core.limit import Quota

Header = tuple[bytes, bytes]


def quota_headers(quotas: Sequence[Quota], retry_after: int | None = None) -> list[Header]:
    """Return the headers that report quotas; none for none.

    ``retry_after``, in seconds, is that of a refusal: no ``t`` is later than it.
    """
    if not quotas:
        return []
    numbers: list[int] = []
    tightest = quotas[0]
    for quota in quotas:
        _, _, remaining, reset, wait = quota
        if remaining < tightest[2] or (remaining == tightest[2] and wait > tightest[4]):
            tightest = quota
        left = -(-reset // MICROSECONDS)
        if retry_after is not None and left > retry_after:
            left = retry_after
        numbers += (remaining, left)
    policies, form = _described(tuple([(policy, limit.count, limit.seconds) for policy, limit, _, _, _ in quotas]))
    _, limit, remaining, reset, _ = tightest
    return [
        (b"ratelimit-policy", policies),
        (b"ratelimit", form % tuple(numbers)),
        (b"x-ratelimit-limit", b"%d" % limit.count),
        (b"x-ratelimit-remaining", b"%d" % remaining),
        (b"x-ratelimit-reset", b"%d" % -(-(now() + reset) // MICROSECONDS)),
    ]


def wait_of(quotas: Sequence[Quota]) -> int:
    """Return in how many seconds another request like the one that left these quotas can be admitted."""
    return -(-max((quota.wait for quota in quotas), default=0) // MICROSECONDS)


@lru_cache(maxsize=1024)
def _described(policies: tuple[tuple[str, int, int], ...]) -> tuple[bytes, bytes]:
    """Return policies as they are described, and a format for what is left of each."""
    described = ", ".join(f'"{policy}";q={count};w={seconds}' for policy, count, seconds in policies)
    return described.encode(), ", ".join(f'"{policy}";r=%d;t=%d' for policy, _, _ in policies).encode()
