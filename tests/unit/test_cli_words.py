"""What commands say about arguments that they refuse, before any installation is opened."""

import pytest
from typer.testing import CliRunner

from relay.cli.main import app

WORKSPACE_GOES_WITH = "--workspace stands alone, or goes with --action or --connector only."
ONE_THING = "name one thing: --everything, --workspace, --key, --action or --connector."


def refusal(*words: str) -> str:
    """Return what the command says when it is used wrongly, without the frame and its line breaks."""
    ended = CliRunner().invoke(app, words)
    assert (ended.exit_code, ended.stdout) == (2, "")
    inside = [line.strip("│ ") for line in ended.stderr.splitlines() if line.startswith("│")]
    return " ".join(inside)


@pytest.mark.parametrize("turn", ["on", "off"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--key", "chat", "--workspace", "ci"), WORKSPACE_GOES_WITH),
        (("--everything", "--workspace", "ci"), WORKSPACE_GOES_WITH),
        (("--key", "chat", "--action", "relay.echo"), ONE_THING),
        (("--action", "relay.echo", "--connector", "email", "--workspace", "ci"), ONE_THING),
        (("--everything", "--connector", "email"), ONE_THING),
    ],
)
def test_the_kill_switch_says_what_does_not_go_together(turn: str, words: tuple[str, ...], said: str) -> None:
    assert refusal("kill-switch", turn, *words) == f"Invalid value: {said}"


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (("secrets", "generate", "--format", "nope"), "Invalid value for '--format': 'nope' is not one of 'env', "),
        (("webhook", "sign", "--scheme", "nope"), "Invalid value for '--scheme': 'nope' is not one of 'standard', "),
        (("secrets", "rotate", "--kind", "nope"), "Invalid value for '--kind': 'nope' is not one of 'encryption', "),
    ],
)
def test_what_is_none_of_the_choices_is_told_which_there_are(words: tuple[str, ...], begins: str) -> None:
    assert refusal(*words).startswith(begins)


@pytest.mark.parametrize(
    ("names", "begins"),
    [
        (("METRICS_TOKEN",), "METRICS_TOKEN is shown this once "),
        (("METRICS_TOKEN", "SECRET_KEY"), "METRICS_TOKEN, SECRET_KEY are shown this once "),
    ],
)
def test_one_secret_is_shown_and_several_are(names: tuple[str, ...], begins: str) -> None:
    only = [word for name in names for word in ("--only", name)]
    assert CliRunner().invoke(app, ["secrets", "generate", *only]).stderr.startswith(begins)
