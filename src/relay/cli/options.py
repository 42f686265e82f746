"""Options that several commands have."""

from typing import Annotated

import typer

from relay.store.workspaces import is_workspace_id


def checked_workspace(value: str | None) -> str | None:
    """Return the id of a workspace, or end with status 2 for what is none.

    An empty one, of a variable that is not set, is none either: it must not stand for every workspace.
    """
    if value is not None and not is_workspace_id(value):
        raise typer.BadParameter("1 to 63 lower-case letters, digits and hyphens, no hyphen first.")
    return value


OnlyWorkspace = Annotated[
    str | None, typer.Option("--workspace", "-w", callback=checked_workspace, help="Of this workspace only.")
]
