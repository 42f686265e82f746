"""Options that several commands have."""

from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.context import fail
from relay.store.workspaces import allowed_networks, is_workspace_id

if TYPE_CHECKING:
    from relay.house import House


def checked_workspace(value: str | None) -> str | None:
    """Return the id of a workspace, or end with status 2 for what is none.

    An empty one, of a variable that is not set, is none either: it must not stand for every workspace.
    """
    if value is not None and not is_workspace_id(value):
        raise typer.BadParameter("1 to 63 lower-case letters, digits and hyphens, no hyphen first.")
    return value


async def require_workspace(house: "House", workspace: str) -> None:
    """End with status 1 where there is no such workspace: a mistyped name must not read as one that has nothing."""
    if await allowed_networks(house.database.reader, workspace) is None:
        fail(f"there is no workspace {workspace}")


OnlyWorkspace = Annotated[
    str | None, typer.Option("--workspace", "-w", callback=checked_workspace, help="Of this workspace only.")
]
