"""The command's groups. Each lives in a file of its own; what a command needs is imported when it runs."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from relay import __version__
from relay.cli import (
    audit,
    db,
    demo,
    doctor,
    key,
    kill_switch,
    policy,
    question,
    secrets,
    serve,
    webhook,
    worker,
    workspace,
)


class _Commands(TyperGroup):
    """Says what is wrong with an argument in the words of whoever refused it, without what pydantic puts before."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="relay",
    cls=_Commands,
    help="A gateway through which people and agents plan, preview and execute actions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(key.app, name="key")
app.add_typer(workspace.app, name="workspace")
app.add_typer(audit.app, name="audit")
app.add_typer(question.app, name="question")
app.add_typer(kill_switch.app, name="kill-switch")
app.add_typer(policy.app, name="policy")
app.add_typer(webhook.app, name="webhook")
app.add_typer(db.app, name="db")
app.add_typer(secrets.app, name="secrets")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"relay {__version__}")
        raise typer.Exit


@app.callback()
def relay(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A gateway through which people and agents plan, preview and execute actions."""


def main() -> None:
    """Run the command. Exit status: 0 done, 1 the answer is no, 2 wrong usage."""
    # Whatever a library creates later (SQLite's log, a Maildir) is its owner's alone.
    os.umask(0o077)
    app()
