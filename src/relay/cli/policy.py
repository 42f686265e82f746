"""``relay policy``: check, test, explain and replay policies, and the versions of a workspace's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from relay.cli import policy_versions
from relay.cli.context import fail, settings_or_exit, with_house
from relay.cli.key_shared import key_id_option
from relay.cli.options import require_workspace
from relay.cli.policy_desk import (
    AsJson,
    Desk,
    MaybeWorkspace,
    PolicyFile,
    Workspace,
    compiled,
    end_refused,
    open_desk,
    print_json,
    read_policies,
    read_text,
    show_problems,
)
from relay.core.principal import PrincipalKind, expand_scopes
from relay.core.problem import Invalid
from relay.identity.operator import operator

if TYPE_CHECKING:
    from relay.cli.policy_cases import Tried
    from relay.core.action import Decision
    from relay.house import House
    from relay.policy.compiled import CompiledPolicies
    from relay.policy.replay import Replayed

_MAX_QUESTION_BYTES: Final = 16 * 1024 * 1024

app = typer.Typer(no_args_is_help=True, help="Check, test, explain, replay and apply policies.")
policy_versions.add_to(app)

_Draft = Annotated[
    Path | None,
    typer.Option("--policies", metavar="FILE", help="These instead of those that hold."),
]


@app.command("check")
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Policies; - is standard input."),
    ] = None,
    *,
    workspace: MaybeWorkspace = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a FILE of policies can be used here; without one, whether those that hold still can.

    Exit status 1 with file:line:column: reason for each problem. A FILE needs no installation.
    """
    if file is not None:
        if workspace is not None:
            raise typer.BadParameter("a FILE belongs to no workspace.")
        _check_file(file, as_json)
    else:
        _check_stored(workspace, as_json)


def _check_file(file: Path, as_json: bool) -> None:
    from relay.policy.checked import check as check_text
    from relay.policy.view import problem_view

    found = check_text(read_policies(file), open_desk(settings_or_exit()).schema)
    if as_json:
        problems = [problem_view(problem) for problem in found.problems]
        print_json({"ok": found.policies is not None, "problems": problems, "warnings": list(found.warnings)})
    else:
        show_problems(str(file), found.problems)
        for warning in found.warnings:
            typer.echo(f"{file}: warning: {warning}", err=True)
        if found.policies is not None:
            typer.echo(f"ok: {file}")
    if found.policies is None:
        raise typer.Exit(1)


def _check_stored(workspace: str | None, as_json: bool) -> None:
    from relay.policy.versions import PolicyVersions, State
    from relay.policy.view import problem_view
    from relay.store.policies import workspaces_with_policies

    async def states(house: "House") -> dict[str, State]:
        if workspace is not None:
            await require_workspace(house, workspace)
        versions = PolicyVersions(house.database, open_desk(house.settings).schema)
        names = [workspace] if workspace else await workspaces_with_policies(house.database.reader)
        return {name: await versions.state(name) for name in names}

    found = with_house(states)
    broken = {name: state for name, state in found.items() if state.problems}
    if as_json:
        items = [
            {
                "workspace": name,
                "version": state.active.version,
                "problems": [problem_view(problem) for problem in state.problems],
                "warnings": list(state.warnings),
            }
            for name, state in found.items()
        ]
        print_json({"ok": not broken, "items": items})
    else:
        for name, state in broken.items():
            show_problems(f"{name}@{state.active.version}", state.problems)
        typer.echo(
            f"{len(broken)} of {len(found)} workspaces may do nothing until this is put right"
            if broken
            else f"ok: the policies of {len(found)} workspaces check"
        )
    if broken:
        raise typer.Exit(1)


@app.command("test")
def try_cases(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Cases, in TOML; - is standard input.")],
    *,
    policies: _Draft = None,
    workspace: MaybeWorkspace = None,
    as_json: AsJson = False,
) -> None:
    """Put cases to policies: those that FILE names, those of --policies, or those that hold in a workspace.

    Exit status 1 when a decision is not the expected one. Only --workspace needs an installation.
    """
    from relay.cli.policy_cases import MAX_FILE_BYTES, CasesRefused, parse_cases, try_case

    if policies is not None and workspace is not None:
        raise typer.BadParameter("--policies and --workspace exclude each other.")
    try:
        cases = parse_cases(read_text(file, MAX_FILE_BYTES))
    except CasesRefused as error:
        fail(f"{file}: {error}")
    desk = open_desk(settings_or_exit())
    if workspace is not None:
        tested = _held(workspace)
    elif policies is not None or cases.policies is not None:
        path = policies or file.parent / (cases.policies or "")
        tested = compiled(read_policies(path), str(path), desk.schema)
    else:
        raise typer.BadParameter("say which policies: --policies FILE, --workspace W, or policies = … in FILE.")
    _show_tried([try_case(case, desk, tested) for case in cases.case], as_json)


def _held(workspace: str) -> "CompiledPolicies":
    from relay.policy.versions import PolicyVersions

    async def active(house: "House") -> "CompiledPolicies":
        await require_workspace(house, workspace)
        held = await PolicyVersions(house.database, open_desk(house.settings).schema).active(workspace)
        if held.broken:
            fail(held.broken)
        return held.policies

    return with_house(active)


def _show_tried(tried: "list[Tried]", as_json: bool) -> None:
    from relay.policy.view import decision_view

    failed = [found for found in tried if found.wrong]
    if as_json:
        items = [
            {
                "name": found.name,
                "ok": not found.wrong,
                "wrong": found.wrong,
                "decision": decision_view(found.decision) if found.decision is not None else None,
            }
            for found in tried
        ]
        print_json({"ok": not failed, "cases": len(tried), "failed": len(failed), "items": items})
    else:
        for found in failed:
            typer.echo(f"FAILED {found.name}: {found.wrong}")
        typer.echo(f"{len(tried) - len(failed)} of {len(tried)} cases passed")
    if failed:
        raise typer.Exit(1)


@app.command("explain")
def explain(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The question, in JSON; - is standard input."),
    ],
    *,
    key: Annotated[
        str | None, typer.Option("--key", metavar="ID", callback=key_id_option, help="As this living key, key_….")
    ] = None,
    workspace: MaybeWorkspace = None,
    kind: Annotated[PrincipalKind, typer.Option(help="As somebody of this kind.")] = "agent",
    scope: Annotated[list[str] | None, typer.Option("--scope", "-s", help="With this scope or bundle.")] = None,
    policies: _Draft = None,
    as_json: AsJson = False,
) -> None:
    """Show the decision that an action would meet, and the policies that make it. Nothing runs.

    FILE holds {"action": …, "params": {…}, "context": {…}}. Say for whom: --key, or --workspace, --kind and --scope.
    """
    from pydantic import ValidationError

    from relay.cli.policy_cases import Question, Who, told

    if (key is None) == (workspace is None):
        raise typer.BadParameter("say for whom: --key ID, or --workspace W with --kind and --scope.")
    try:
        question = Question.model_validate_json(read_text(file, _MAX_QUESTION_BYTES))
        expand_scopes(scope or [])
    except ValidationError as error:
        fail(f"{file}: {told(error)}")
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    supposed = Who(kind=kind, workspace=workspace or "default", scopes=scope or ["developer"])

    async def decide(house: "House") -> "Decision":
        return await _explained(house, question, key, supposed, policies)

    decision = with_house(decide)
    _show_decision(decision, as_json)


async def _explained(
    house: "House", question: Any, key: str | None, supposed: Any, policies: Path | None
) -> "Decision":
    from relay.cli.policy_cases import put
    from relay.policy.engine import evaluate
    from relay.policy.source import Active
    from relay.policy.versions import PolicyVersions
    from relay.store.attempt_counts import AttemptCounts

    desk, circumstances = open_desk(house.settings), question.context.circumstances()
    principal = supposed.principal(circumstances.at)
    if key is None:
        await require_workspace(house, supposed.workspace)
    elif (found := await house.api_keys.reload(key)) is None:
        fail("there is no such living key")
    else:
        principal = found
    if policies is not None:
        active = Active("draft", 0, compiled(read_policies(policies), str(policies), desk.schema))
    else:
        active = await PolicyVersions(house.database, desk.schema).active(principal.workspace_id)
    try:
        asked = put(question, principal, circumstances, desk)
    except Invalid as error:
        end_refused("", error)
    counts = await AttemptCounts(house.database.reader).counted(
        principal.workspace_id,
        principal.account,
        question.action,
        at=circumstances.at,
        asked_at=circumstances.asked_at,
    )
    return evaluate(asked.with_counters(counts), active)


def _show_decision(decision: "Decision", as_json: bool) -> None:
    from relay.policy.view import decision_view

    view = decision_view(decision)
    if as_json:
        print_json(view)
        return
    typer.echo(f"{decision.effect} by {decision.policy_id}@{decision.policy_version}")
    typer.echo(decision.reason)


@app.command("replay")
def replay(
    file: PolicyFile,
    *,
    workspace: Workspace,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How far to look back.")] = 7,
    fail_on_flip: Annotated[bool, typer.Option("--fail-on-flip", help="Exit status 1 when a decision flips.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try a draft on every decision that was recorded, and list those that would flip, newest first."""
    from relay.cli.policy_output import ReplayOutput
    from relay.policy.replay import Replays

    text, output = read_policies(file), ReplayOutput(as_json)

    async def run(house: "House") -> "Replayed":
        await require_workspace(house, workspace)
        desk: Desk = open_desk(house.settings)
        replays = Replays(house.database, house.vault, desk.schema)
        try:
            return await replays.run(operator(), workspace, text, days=days, seconds=None, on_flip=output.flip)
        except Invalid as error:
            end_refused(str(file), error)

    found = with_house(run)
    output.end(found)
    if fail_on_flip and found.flips:
        raise typer.Exit(1)
