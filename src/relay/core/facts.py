"""What is known about a request before anybody is asked who they are."""

from dataclasses import dataclass

from relay.core.limit import Quota

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(slots=True, eq=False)
class RequestFacts:
    """One request as the outermost layer saw it. Compared by identity: it stands for this request alone.

    ``client`` is the caller's address as text, by what trusted proxies say where there are any, empty when it is not
    known; ``peer`` is the socket's. ``scheme``, ``http`` or ``https``, is the caller's as far as trusted proxies tell.
    ``headers`` are raw, names in lower case. ``route`` is the matched route's template, empty before one has matched.
    ``quotas`` are those that the request was counted against; the answer reports them, whatever it turns out to be.
    ``refused`` says why the credential was refused, or what it lacked; empty while it was not. ``elsewhere``: what
    failed is a service beyond Relay, whatever the status says.
    """

    request_id: str
    client: str
    method: str
    headers: RawHeaders
    route: str = ""
    peer: str = ""
    scheme: str = "http"
    quotas: tuple[Quota, ...] = ()
    refused: str = ""
    elsewhere: bool = False

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the only header of that name; None when there is none or more than one."""
        found = None
        for key, value in self.headers:
            if key == name:
                if found is not None:
                    return None
                found = value
        return found

    def repeats(self, name: bytes) -> bool:
        """Say whether there is more than one header of that name; :meth:`header` then tells of none."""
        return sum(key == name for key, _ in self.headers) > 1
