"""One server or worker process: an open house, a bound socket and uvicorn, and an end that loses nothing."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any

import typer
import uvicorn
import uvloop

from relay.app import Server, Worker, open_server, open_worker
from relay.cli.descriptors import make_room
from relay.cli.listener import Listener, bind
from relay.cli.welcome import welcome
from relay.house import open_house
from relay.settings import Settings, SettingsError, load_settings
from relay.settings.safety import warnings
from relay.store.lock import AlreadyRunning
from relay.store.writer import StoreUnavailable
from relay.surface.wire import protocol_for
from relay.telemetry.logs import configure_logging
from relay.telemetry.slots import Slot


def run_one(overrides: Mapping[str, str], listener: Listener, slot: Slot | None = None) -> int:
    """Serve on ``listener`` until told to stop; return the exit status. ``slot`` is this process's, if one of many."""
    return _run(overrides, lambda settings: _serve(settings, listener, slot))


def work_one(overrides: Mapping[str, str]) -> int:
    """Do durable work until told to stop; return the exit status."""
    return _run(overrides, _work)


def _run(overrides: Mapping[str, str], body: Callable[[Settings], Coroutine[Any, Any, int]]) -> int:
    try:
        settings = load_settings(overrides=overrides)
        configure_logging(settings.log_level, settings.log_format, by_thread=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(body(settings))
    except SettingsError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        typer.echo(f"relay does not start like this:\n{lines}", err=True)
    except AlreadyRunning as error:
        typer.echo(str(error), err=True)
    except StoreUnavailable as error:
        typer.echo(f"the database cannot be used: {error}", err=True)
    return 1


def uvicorn_config(server: Server | Worker) -> uvicorn.Config:
    """Return how uvicorn serves the gateway: it neither logs, names itself nor believes forwarding headers."""
    settings = server.house.settings
    return uvicorn.Config(
        server.asgi,
        lifespan="off",
        ws="none",
        http=protocol_for(settings, server.observers),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
    )


async def _serve(settings: Settings, listener: Listener, slot: Slot | None) -> int:
    host, port = listener.getsockname()[:2]
    async with (
        open_house(settings, slot=slot, process="server") as house,
        open_server(house, listen=(host, port)) as server,
    ):
        config = uvicorn_config(server)
        crowded = make_room(settings.max_connections)
        for sentence in [*warnings(settings), *([crowded] if crowded else [])]:
            typer.echo(f"warning: {sentence}", err=True)
        await _Uvicorn(config, server, lambda: welcome(settings, server.first_key, host, port)).serve([listener])
    return 0


async def _work(settings: Settings) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    listener = None
    if settings.metrics_port is not None and settings.telemetry_enabled:
        try:
            listener = bind(settings.metrics_host, settings.metrics_port)
        except OSError as error:
            place = f"{settings.metrics_host} port {settings.metrics_port}"
            typer.echo(f"cannot listen on {place} for metrics: {error.strerror}", err=True)
            return 1
    listen = None if listener is None else listener.getsockname()[:2]
    async with open_house(settings, process="worker") as house, open_worker(house, listen=listen) as worker:
        for sentence in settings.warnings:
            typer.echo(f"warning: {sentence}", err=True)
        async with _shown(worker, listener):
            _settle_memory()
            typer.echo(f"relay works on {house.target.place}; Ctrl-C stops it")
            await stopping.wait()
    return 0


@contextlib.asynccontextmanager
async def _shown(worker: Worker | None, listener: Listener | None) -> AsyncIterator[None]:
    """Serve a worker's metrics while it works; they end with it."""
    if listener is None or worker is None:
        yield
        return
    server = _Beside(uvicorn_config(worker))
    serving = asyncio.create_task(server.serve([listener]), name="worker-metrics")
    host, port = listener.getsockname()[:2]
    typer.echo(f"metrics: http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _Beside(uvicorn.Server):
    """Uvicorn beside something else, which the signals are for."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _settle_memory() -> None:
    # What lives until the end need not be looked at by every collection; it took p99 from 40 ms to 10.
    gc.collect()
    gc.freeze()
    # A request's objects die by their reference counts; the default looks for cycles after every 700 of them.
    gc.set_threshold(20_000, 20, 50)


class _Uvicorn(uvicorn.Server):
    """Uvicorn that leaves the end to its caller: the house is closed after the last answer, then the process ends."""

    def __init__(self, config: uvicorn.Config, server: Server, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._relay = server
        self._announce = announce

    async def startup(self, sockets: list[Listener] | None = None) -> None:
        await super().startup(sockets)
        _settle_memory()
        self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._relay.close_streams()
