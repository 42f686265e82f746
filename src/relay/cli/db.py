"""``relay db``: the database's schema."""

import typer

from relay.cli.context import fail, settings_or_exit

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.callback()
def db() -> None:
    """The database's schema."""


@app.command()
def upgrade() -> None:
    """Bring the schema up to date. Safe to run twice, at once, and beside a running server."""
    from relay.settings.keys import ensure_data_dir
    from relay.store import schema
    from relay.store.target import parse_target
    from relay.store.writer import StoreUnavailable

    settings = settings_or_exit()
    ensure_data_dir(settings.data_dir)
    url = settings.database_url
    try:
        target = parse_target(url.get_secret_value() if url else None, settings.data_dir)
        changed = schema.upgrade(target)
    except (StoreUnavailable, ValueError) as error:
        fail(f"the database cannot be used: {error}")
    typer.echo(f"schema {schema.HEAD}: {'upgraded' if changed else 'up to date'}")
