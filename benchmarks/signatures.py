"""What a webhook's signature costs: one verification by size of the body and number of secrets, to one bare HMAC."""

import hmac
import time
from collections.abc import Callable
from functools import partial

from relay.core.clock import MICROSECONDS
from relay.crypto.webhooks import SCHEMES, Scheme, key_of, new_secret_for, signed_headers, verify

AT = 1_700_000_000
SIZES = (1024, 16 * 1024, 256 * 1024)
ROUNDS = 9
SECONDS = 0.02


def microseconds(function: Callable[[], object]) -> float:
    """Return how long one call takes: the fastest of several short series, since a disturbance only adds."""
    began = time.perf_counter()
    function()
    count = max(1, int(SECONDS / (time.perf_counter() - began)))
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(count):
            function()
        found.append((time.perf_counter() - began) / count * 1e6)
    return min(found)


def verification(scheme: Scheme, size: int, secrets: int) -> Callable[[], object]:
    """Return a verification that succeeds, by the last of ``secrets`` secrets."""
    body = b'"' + b"x" * (size - 2) + b'"'
    made = [new_secret_for(scheme) for _ in range(secrets)]
    headers = signed_headers(scheme, made[-1], body, id="msg_benchmark", timestamp=AT)
    raw = {name.lower().encode(): value.encode() for name, value in headers.items()}
    keys = [key_of(scheme, secret) for secret in made]
    return lambda: verify(scheme, keys, raw.get, body, now=AT * MICROSECONDS)


def main() -> None:
    """Measure and print."""
    print("\nwhat a webhook's signature costs, µs per call (× one bare HMAC-SHA256 of the body)")
    print(f"{'scheme':<12}" + "".join(f"{f'{size // 1024} KiB':>18}" for size in SIZES) + f"{'1 KiB, 5 secrets':>20}")
    bare = {size: microseconds(partial(hmac.digest, b"k" * 32, b"x" * size, "sha256")) for size in SIZES}
    for scheme in SCHEMES:
        cells = []
        for size, secrets in (*((size, 1) for size in SIZES), (SIZES[0], 5)):
            found = microseconds(verification(scheme, size, secrets))
            cells.append(f"{found:.1f} ({found / bare[size]:.2f}×)")
        print(f"{scheme:<12}" + "".join(f"{cell:>18}" for cell in cells[:-1]) + f"{cells[-1]:>20}")
    print(f"{'bare HMAC':<12}" + "".join(f"{found:>18.1f}" for found in bare.values()))
