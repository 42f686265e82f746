"""Several server processes on one socket, and one that restarts when the code changes."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import relay
from relay.cli.listener import Listener, bind
from relay.cli.process import run_one
from relay.settings import load_settings
from relay.settings.children import without_secrets
from relay.telemetry.slots import Slot, Slots

_RESTART_SECONDS: Final = 1.0
_SPAWN: Final = multiprocessing.get_context("spawn")


def run_many(overrides: Mapping[str, str], listener: Listener, workers: int, grace: int) -> int:
    """Run ``workers`` processes, replacing those that die, until told to stop; return the exit status.

    A process that ends with status 1 within its first ten seconds refused to start: then all stop with status 1.
    """
    _start_tracker()
    stopping = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopping.set())
    slots = Slots(_SPAWN, workers)
    running = {_start(overrides, listener, slots, number): (number, time.monotonic()) for number in range(workers)}
    status = 0
    while not stopping.wait(0.2):
        for process, (number, since) in list(running.items()):
            if process.is_alive():
                continue
            del running[process]
            slots.vacate(number)
            if process.exitcode == 1 and time.monotonic() - since < 10 * _RESTART_SECONDS:
                status = 1
                stopping.set()
                break
            stopping.wait(_RESTART_SECONDS)
            if not stopping.is_set():
                running[_start(overrides, listener, slots, number)] = (number, time.monotonic())
    _stop(list(running), grace)
    return status


def _start_tracker() -> None:
    # Python's helper process for spawned ones: it needs no secret, and would otherwise inherit all of them.
    with without_secrets():
        resource_tracker.ensure_running()


def _start(overrides: Mapping[str, str], listener: Listener, slots: Slots, number: int) -> BaseProcess:
    process = _SPAWN.Process(target=_child, args=(dict(overrides), listener, slots.slot(number)))
    process.start()
    return process


def _child(overrides: dict[str, str], listener: Listener, slot: Slot) -> None:
    _end_with_parent()
    raise SystemExit(run_one(overrides, listener, slot))


def _end_with_parent() -> None:
    """Stop this process in good order once the one that started it is gone: nobody else would stop or replace it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="relay-parent", daemon=True).start()


def _stop(processes: list[BaseProcess], grace: int) -> None:
    for process in processes:
        process.terminate()
    until = time.monotonic() + grace + 5
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()


def run_reloading(overrides: Mapping[str, str]) -> None:
    """Serve, starting anew whenever a file of the package changes."""
    import watchfiles

    _start_tracker()
    watchfiles.run_process(
        Path(relay.__file__).parent, target=_reloaded, args=(dict(overrides),), watch_filter=watchfiles.PythonFilter()
    )


def _reloaded(overrides: dict[str, str]) -> None:
    _end_with_parent()
    settings = load_settings(overrides=overrides)
    raise SystemExit(run_one(overrides, bind(settings.host, settings.port)))
