"""How quotas are told to callers: the one place that knows the headers, since their draft still moves.

``RateLimit-Policy`` and ``RateLimit`` as in draft-ietf-httpapi-ratelimit-headers; ``X-RateLimit-Limit``,
``X-RateLimit-Remaining`` and ``X-RateLimit-Reset`` (Unix seconds) describe the tightest policy for older clients.
"""

from collections.abc import Sequence
from functools import lru_cache

from relay.core.clock import MICROSECONDS, now
from relay.core.limit import Limit, Quota

Header = tuple[bytes, bytes]


def quota_headers(quotas: Sequence[Quota], retry_after: int | None = None) -> list[Header]:
    """Return the headers that report quotas; none for none.

    ``retry_after``, in seconds, is that of a refusal: no ``t`` is later than it.
    """
    if not quotas:
        return []
    items = []
    for policy, _, remaining, reset, _ in quotas:
        left = -(-reset // MICROSECONDS)
        if retry_after is not None and left > retry_after:
            left = retry_after
        items.append(b'"%b";r=%d;t=%d' % (policy.encode(), remaining, left))
    _, limit, remaining, reset, _ = min(quotas, key=_room)
    return [
        (b"ratelimit-policy", _policies(tuple([(policy, limit) for policy, limit, _, _, _ in quotas]))),
        (b"ratelimit", b", ".join(items)),
        (b"x-ratelimit-limit", b"%d" % limit.count),
        (b"x-ratelimit-remaining", b"%d" % remaining),
        (b"x-ratelimit-reset", b"%d" % -(-(now() + reset) // MICROSECONDS)),
    ]


def wait_of(quotas: Sequence[Quota]) -> int:
    """Return in how many seconds another request like the one that left these quotas can be admitted."""
    return -(-max((quota.wait for quota in quotas), default=0) // MICROSECONDS)


def _room(quota: Quota) -> tuple[int, int]:
    return quota.remaining, -quota.wait


@lru_cache(maxsize=1024)
def _policies(policies: tuple[tuple[str, Limit], ...]) -> bytes:
    return ", ".join(f'"{policy}";q={limit.count};w={limit.seconds}' for policy, limit in policies).encode()
