"""Which hosts are told of a trace: those that the operator names. The id would tell others what belongs together."""

from collections.abc import Iterable

from relay.telemetry.spans import place


class Traced:
    """The hosts of TRACE_PROPAGATE_HOSTS; ``*.name`` is everything below a name, and not the name itself."""

    def __init__(self, hosts: Iterable[str]) -> None:
        given = tuple(hosts)
        self._hosts = frozenset(host for host in given if not host.startswith("*."))
        self._suffixes = tuple(host[1:] for host in given if host.startswith("*."))

    def headers(self, host: str) -> dict[str, str]:
        """Return ``traceparent`` where this host is told of traces and the code is in one."""
        if host not in self._hosts and not (self._suffixes and host.endswith(self._suffixes)):
            return {}
        here = place()
        return {} if here is None else {"traceparent": here.text()}
