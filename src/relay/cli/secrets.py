"""``relay secrets``: make an installation's secrets, rotate them, and look for those that lie where none belong."""

import typer

from relay.cli import secrets_generate, secrets_rotate, secrets_scan

app = typer.Typer(no_args_is_help=True, help="Make secrets, rotate them, and find those that have leaked.")
app.command("generate")(secrets_generate.generate)
app.command("rotate")(secrets_rotate.rotate)
app.command("scan")(secrets_scan.scan)


@app.callback()
def secrets() -> None:
    """Make secrets, rotate them, and find those that have leaked."""
