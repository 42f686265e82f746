"""The listening socket: the one place outside egress that touches sockets, and it only accepts."""

import socket
from typing import Final

Listener = socket.socket

_BACKLOG: Final = 2048


def bind(host: str, port: int) -> Listener:
    """Return a listening socket; OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: asyncio turns Nagle off (40 ms an answer) only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
