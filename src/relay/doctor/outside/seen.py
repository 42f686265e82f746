"""What a deployment answered to a stranger."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.doctor.check import Unseen
from relay.egress.probe import NO_ANSWER, Reply, TlsFound


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that the checks of ``--url`` look at.

    ``at`` is the moment of asking, in seconds. ``unreachable`` says why nothing answered; then there is nothing else.
    ``replies`` are by the names that :mod:`relay.doctor.outside.ask` gives them, ``guarded`` by method and path,
    ``burst`` in the order in which they came, empty unless it was asked for.
    """

    url: str
    at: float
    unreachable: str | None = None
    tls_found: TlsFound | None = None
    replies: Mapping[str, Reply] = field(default_factory=dict)
    guarded: Mapping[str, Reply] = field(default_factory=dict)
    burst: tuple[Reply, ...] = ()

    @property
    def https(self) -> bool:
        """Whether the address is one of https."""
        return self.url.lower().startswith("https://")

    @property
    def tls(self) -> TlsFound:
        """What the handshake showed; Unseen with plain HTTP, which is a finding of its own."""
        if self.tls_found is None:
            raise Unseen(self.unreachable or "the address is not one of https")
        return self.tls_found

    def reply(self, name: str) -> Reply:
        """Return an answer, one of status 0 where none came; Unseen when nothing answers at all."""
        self.require_reached()
        return self.replies.get(name, NO_ANSWER)

    def require_reached(self) -> None:
        """Return when somebody answers; else Unseen."""
        if self.unreachable is not None:
            raise Unseen("nothing answers there")


def said(reply: Reply) -> str:
    """Return what an answer was, for a sentence."""
    return f"is answered {reply.status}" if reply.status else "gets no answer"
