"""Which queue: in this process on SQLite, through the database where several processes share one."""

from relay.queue.local import LocalQueue
from relay.queue.protocol import Queue
from relay.store.target import Target


def open_queue(target: Target, concurrency: int) -> Queue:
    """Return the queue of a database, not yet started. ``concurrency`` is for kinds that ask for no number."""
    if target.kind == "sqlite":
        return LocalQueue(concurrency)
    from relay.queue.postgres import ProcrastinateQueue  # not at the top: a process on SQLite never needs it

    return ProcrastinateQueue(target, concurrency)
