"""``relay worker``: a process that does durable work and serves nobody."""

from pathlib import Path
from typing import Annotated

import typer

from relay.cli.context import fail, refuse, settings_or_exit
from relay.settings import SettingsError
from relay.settings.safety import refusals

_ON_SQLITE = (
    "relay worker needs PostgreSQL, since SQLite serves one process: `relay serve` works by itself. "
    "To add workers, set DATABASE_URL=postgresql://… (and SECRET_KEY, OAUTH_ENCRYPTION_KEY)"
)


def worker(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for mail while SMTP_URL is not set; default RELAY_DATA_DIR.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of /metrics; 0 takes a free one; default METRICS_PORT or none."),
    ] = None,
) -> None:
    """Work on plan runs and whatever else is durable, beside servers on the same PostgreSQL, until told to stop."""
    from relay.cli.process import work_one

    given = {"RELAY_DATA_DIR": data_dir.absolute() if data_dir else None, "METRICS_PORT": metrics_port}
    overrides = {name: str(value) for name, value in given.items() if value is not None}
    settings = settings_or_exit(overrides)
    if not settings.shared_database:
        fail(_ON_SQLITE, 2)
    if problems := refusals(settings):
        refuse(SettingsError(problems))
    raise typer.Exit(work_one(overrides))
