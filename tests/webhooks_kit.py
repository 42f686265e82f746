"""Senders of webhooks, for tests: receivers of a gateway, and deliveries as each scheme signs them."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from relay.crypto.webhooks import Scheme, new_secret_for, signed_headers
from tests.gateway import Answer, Gateway

BODY = b'{"type":"order.paid","data":{"id":7}}'
JSON_TYPE = {"Content-Type": "application/json"}


def soon(days: int = 30) -> str:
    """Return a day as ``legacy_until`` wants it."""
    return str((datetime.now(UTC) + timedelta(days=days)).date())


@dataclass
class Receiver:
    """A receiver of a running gateway, with the secret that its sender has."""

    gateway: Gateway
    id: str
    path: str
    scheme: Scheme
    secret: str

    def headers(
        self, body: bytes = BODY, *, id: str = "msg_1", late: int = 0, secret: str | None = None
    ) -> dict[str, str]:
        """Return the headers of a delivery that was signed ``late`` seconds ago."""
        stamp = int(time.time()) - late
        return signed_headers(self.scheme, secret or self.secret, body, id=id, timestamp=stamp)

    async def deliver(
        self,
        body: bytes = BODY,
        *,
        more: dict[str, str] | None = None,
        content_type: str = "application/json",
        **options: Any,
    ) -> Answer:
        """Sign a body and send it; ``more`` are headers besides."""
        headers = {**self.headers(body, **options), "Content-Type": content_type, **(more or {})}
        return await self.gateway.call("POST", self.path, data=body, headers=headers)


async def make_receiver(gateway: Gateway, scheme: Scheme = "standard", *, key: str = "", **more: Any) -> Receiver:
    """Make a receiver whose secret is the sender's own."""
    secret = new_secret_for(scheme)
    body = {"name": f"a {scheme} sender", "scheme": scheme, "secret": secret, **more}
    if scheme == "legacy":
        body.setdefault("legacy_until", soon())
    made = (await gateway.post("/webhooks/receivers", body, key=key or gateway.admin)).expect(201)
    return Receiver(gateway, made["id"], made["path"], scheme, secret)


async def events_of(gateway: Gateway, query: str = "", *, key: str = "") -> list[dict[str, Any]]:
    """Return what was received, newest first."""
    items: list[dict[str, Any]] = (await gateway.get(f"/webhooks/events{query}", key=key or gateway.admin)).expect(200)[
        "items"
    ]
    return items


async def failures_of(gateway: Gateway) -> dict[str, int]:
    """Return how often each reason was counted, once what is in memory has been written."""
    from relay.audit.anonymous import failure_counts

    found: dict[str, int] = {}
    for row in await failure_counts(gateway.house.database.reader, 1000):
        found[row.reason] = found.get(row.reason, 0) + row.count
    return found
