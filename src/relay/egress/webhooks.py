"""Posting to webhook endpoints: like any other destination that others choose, under a lease in place of a permit."""

import asyncio
import socket
from collections.abc import Mapping
from typing import Final

from relay.core.effect import EffectForbidden
from relay.egress.http import HttpAnswer, HttpClient, Leave
from relay.egress.policy import EgressPolicy
from relay.egress.resolver import FOR_CHECKS, PooledResolver
from relay.egress.target import BadTarget, parse_target

KEPT_OF_ANSWER: Final = 1024
LOOK_UP_SECONDS: Final = 3.0


class WebhookClient(HttpClient):
    """A client for deliveries. Plain HTTP goes only where EGRESS_ALLOW names the very host or network."""

    def __init__(self, policy: EgressPolicy, *, ca_file: str | None = None) -> None:
        super().__init__(policy, ca_file=ca_file, max_answer=KEPT_OF_ANSWER)
        self._checks = PooledResolver(FOR_CHECKS)

    def refusal(self, url: str) -> str | None:
        """Say why nothing would be delivered to ``url``, without looking any name up; None when nothing is known."""
        try:
            target = parse_target(url)
        except BadTarget as error:
            return str(error)
        if target.scheme == "http" and not self.policy.opens(target):
            return "Webhooks go over https; plain http only to a host that EGRESS_ALLOW names."
        return super().refusal(url)

    async def refusal_now(self, url: str) -> str | None:
        """Say why nothing would be delivered to ``url`` now: as :meth:`refusal`, or because of where its name leads.

        None for a name that does not resolve within three seconds, since it may tomorrow, and where one address of
        several is not refused. Where a name leads can change: each delivery is judged anew, at its socket.
        """
        if (reason := self.refusal(url)) is not None:
            return reason
        target = parse_target(url)
        if target.address is not None:
            return None
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                own = await self.policy.own_addresses(target.port)
                found = await self._checks.resolve(target.host, target.port, socket.AF_UNSPEC)
        except OSError:  # a time-out is one as well
            return None
        reasons = [self.policy.peer_refusal(peer["host"], target.port, name=target.host, own=own) for peer in found]
        return reasons[0] if reasons and all(reasons) else None

    async def post(
        self,
        leave: Leave,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109 - the time-out is part of how an attempt is judged
    ) -> HttpAnswer:
        """Post once, within ``timeout`` seconds; ``body`` of the answer is at most its first KiB.

        Errors as of :meth:`~relay.egress.http.HttpClient.request`.
        """
        if (reason := self.refusal(url)) is not None:
            raise EffectForbidden("egress_denied", reason)
        return await self._send(leave, method="POST", url=url, headers=headers, body=body, timeout=timeout)
