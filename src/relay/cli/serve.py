"""``relay serve``: one process on SQLite, one or several on PostgreSQL."""

import errno
from pathlib import Path
from typing import Annotated

import typer

from relay.cli.context import fail, refuse, settings_or_exit
from relay.settings import SettingsError
from relay.settings.safety import refusals

_MANY_ON_SQLITE = (
    "--workers above 1 needs PostgreSQL, since SQLite serves one process: "
    "set DATABASE_URL=postgresql://… (and SECRET_KEY, OAUTH_ENCRYPTION_KEY), or leave --workers at 1"
)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default RELAY_HOST or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one; default RELAY_PORT or 8000.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of database and generated keys; default RELAY_DATA_DIR.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes; more than one needs PostgreSQL.")] = 1,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when the code changes; RELAY_ENV=local only.")
    ] = False,
) -> None:
    """Run the gateway until it is told to stop."""
    from relay.cli.listener import bind
    from relay.cli.process import run_one
    from relay.cli.supervise import run_many, run_reloading

    given = {"RELAY_HOST": host, "RELAY_PORT": port, "RELAY_DATA_DIR": data_dir.absolute() if data_dir else None}
    overrides = {name: str(value) for name, value in given.items() if value is not None}
    settings = settings_or_exit(overrides)
    if problems := refusals(settings):
        refuse(SettingsError(problems))
    if workers > 1 and not settings.shared_database:
        fail(_MANY_ON_SQLITE, 2)
    if reload and settings.env != "local":
        fail("--reload restarts the server whenever a file changes; it works with RELAY_ENV=local only", 2)
    if reload and workers > 1:
        fail("--reload and --workers do not go together", 2)
    if reload:
        run_reloading(overrides)
        return
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        other = "; choose another port with --port or RELAY_PORT" if error.errno == errno.EADDRINUSE else ""
        fail(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}{other}")
    if workers > 1:
        raise typer.Exit(run_many(overrides, listener, workers, settings.shutdown_grace_seconds))
    raise typer.Exit(run_one(overrides, listener))
