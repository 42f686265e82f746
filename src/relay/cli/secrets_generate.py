"""``relay secrets generate``: a complete set of secrets, in the form that a platform takes."""

import json
import sys
from typing import Annotated, Final

import typer

from relay.cli.secrets_formats import Format, in_form
from relay.settings.generate import MAKERS, generate_secrets

_SHOWN: Final = "shown this once and kept nowhere: make a backup, apart from the database."
_ON_TERMINAL: Final = "This terminal's history has what was shown; a pipe or a file (umask 077) keeps it out of there."


def _names(values: list[str] | None) -> list[str]:
    for value in values or ():
        if value not in MAKERS:
            raise typer.BadParameter(f"one of {', '.join(MAKERS)}.")
    return values or []


def generate(
    *,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="env (the default): lines for `.env`; systemd, systemd-plain, compose, railway: a script for `sh`; "
            "kubernetes: a manifest for `kubectl create -f -`.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", callback=_names, help="Of this setting; give it once for each."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object of names and values, as AWS Secrets Manager holds them.")
    ] = False,
) -> None:
    """Make a complete set of the secrets that an installation makes for itself, and print it, this once.

    Nothing is stored, and no installation is changed: for a new one, whose data is not yet sealed with other keys.
    """
    if as_json and form is not None:
        raise typer.BadParameter("--format and --json exclude each other.")
    secrets = generate_secrets(only or ())
    sys.stdout.write(json.dumps(secrets, indent=2) + "\n" if as_json else in_form(form or "env", secrets))
    terminal = f" {_ON_TERMINAL}" if sys.stdout.isatty() else ""
    typer.echo(f"{', '.join(secrets)} {'is' if len(secrets) == 1 else 'are'} {_SHOWN}{terminal}", err=True)
