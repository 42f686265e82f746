"""The commands of ``relay policy`` about the versions of a workspace: show, versions, apply, activate."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from relay.cli.context import with_house
from relay.cli.options import require_workspace
from relay.cli.policy_desk import (
    AsJson,
    PolicyFile,
    Workspace,
    end_refused,
    open_desk,
    print_json,
    read_policies,
)
from relay.core.ids import new_id
from relay.core.problem import Invalid
from relay.identity.operator import operator

if TYPE_CHECKING:
    from relay.house import House
    from relay.policy.versions import PolicyVersions
    from relay.store.policies import VersionRow

_PAGE: Final = 100
T = TypeVar("T")

_Comment = Annotated[str, typer.Option("--comment", "-m", help="What for; kept with it and in the audit log.")]
_Expected = Annotated[int | None, typer.Option("--expected-version", min=0, metavar="N")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("show")(show)
    app.command("versions")(versions)
    app.command("apply")(apply)
    app.command("activate")(activate)


def _with_versions(workspace: str, work: "Callable[[PolicyVersions], Awaitable[T]]", name: str = "") -> T:
    from relay.policy.versions import PolicyVersions

    async def run(house: "House") -> T:
        await require_workspace(house, workspace)
        required = house.settings.policy_replay_required
        found = PolicyVersions(house.database, open_desk(house.settings).schema, replay_required=required)
        try:
            return await work(found)
        except Invalid as error:
            end_refused(name, error)

    return with_house(run)


def show(
    *,
    workspace: Workspace,
    version: Annotated[int | None, typer.Option(min=0, help="This one, else the one that holds; 0 is the default.")] = (
        None
    ),
    as_json: AsJson = False,
) -> None:
    """Print the text of a workspace's policies."""
    from relay.policy.view import version_view

    async def find(found: "PolicyVersions") -> "tuple[VersionRow, int]":
        state = await found.state(workspace)
        row = state.active if version is None else await found.get(workspace, version)
        return row, state.active.version

    row, active = _with_versions(workspace, find)
    if as_json:
        print_json({**version_view(row, active=active), "text": row.text})
    else:
        typer.echo(row.text, nl=not row.text.endswith("\n"))


def versions(*, workspace: Workspace, as_json: AsJson = False) -> None:
    """List a workspace's versions, newest first; an asterisk marks the one that holds."""
    from relay.policy.view import version_view

    async def every(found: "PolicyVersions") -> "tuple[list[VersionRow], int]":
        rows: list[VersionRow] = []
        while True:
            page = await found.page(workspace, before=rows[-1].version if rows else None, limit=_PAGE)
            rows.extend(page)
            if len(page) < _PAGE:
                return rows, (await found.state(workspace)).active.version

    rows, active = _with_versions(workspace, every)
    views = [version_view(row, active=active) for row in rows]
    if as_json:
        print_json({"active": active, "items": views})
        return
    if active == 0:
        typer.echo("* 0\tthe default")
    for view in views:
        mark = "*" if view["active"] else " "
        typer.echo(f"{mark} {view['version']}\t{view['created_at']}\t{view['author']}\t{view['comment']}")


def apply(
    file: PolicyFile,
    *,
    workspace: Workspace,
    comment: _Comment = "",
    expected_version: _Expected = None,
    activate: Annotated[bool, typer.Option("--activate/--no-activate", help="Whether it holds at once.")] = True,
    as_json: AsJson = False,
) -> None:
    """Put a FILE in as the newest version of a workspace's policies; a running server notices within a second."""
    text = read_policies(file)
    row, warnings = _with_versions(
        workspace,
        lambda found: found.put(
            operator(),
            workspace,
            text,
            comment=comment,
            expected_version=expected_version,
            activate=activate,
            request_id=new_id("req"),
        ),
        str(file),
    )
    if as_json:
        print_json({"version": row.version, "active": activate, "digest": row.digest, "warnings": list(warnings)})
        return
    for warning in warnings:
        typer.echo(f"{file}: warning: {warning}", err=True)
    typer.echo(f"version {row.version} {'holds now' if activate else 'is kept; relay policy activate lets it hold'}")


def activate(
    version: Annotated[int, typer.Argument(min=0, metavar="VERSION", help="Its number; 0 is the default.")],
    *,
    workspace: Workspace,
    comment: _Comment = "",
    expected_version: _Expected = None,
    as_json: AsJson = False,
) -> None:
    """Let another version hold; a running server notices within a second."""
    row = _with_versions(
        workspace,
        lambda found: found.activate(
            operator(),
            workspace,
            version,
            comment=comment,
            expected_version=expected_version,
            request_id=new_id("req"),
        ),
        f"{workspace}@{version}",
    )
    if as_json:
        print_json({"version": row.version, "digest": row.digest})
    else:
        typer.echo(f"version {row.version} holds now")
