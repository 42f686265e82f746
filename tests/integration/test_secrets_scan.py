"""``relay secrets scan`` as it is used: on folders, before a commit, on a history, and on keys that live."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.crypto.api_key import new_api_key
from tests.process import bare_environment, eventually, gateway_process

TOP = Path(__file__).parents[2]
RELAY = str(Path(sys.executable).with_name("relay"))


class Checkout:
    """A git repository, and the command as its owner would call it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.env = {
            **bare_environment(folder.parent),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.com",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.com",
        }
        self.git("init", "-q")

    def git(self, *arguments: str) -> str:
        ran = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=self.env, check=True, capture_output=True, text=True
        )
        return ran.stdout.strip()

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, message: str = "change") -> str:
        self.git("add", "--all")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    def scan(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RELAY, "secrets", "scan", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def found(self, *arguments: str) -> list[dict[str, Any]]:
        ran = self.scan("--json", *arguments)
        report = json.loads(ran.stdout)
        assert ran.returncode == (1 if report["findings"] else 0), ran.stderr
        return list(report["findings"])


@pytest.fixture
def repository(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "repository")


def test_files_are_scanned_but_those_that_git_ignores(repository: Checkout) -> None:
    key, new = new_api_key("live"), new_api_key("test")
    repository.write("src/a.py", f"x = 1\nKEY = {key!r}\n")
    repository.commit()
    repository.write("new.txt", new)
    repository.write(".gitignore", ".env\n")
    repository.write(".env", new_api_key("live"))
    ran = repository.scan()
    assert ran.returncode == 1
    assert [line.partition(": ")[0] for line in ran.stdout.splitlines()] == ["new.txt:1", "src/a.py:2"]
    assert key not in ran.stdout + ran.stderr and new not in ran.stdout + ran.stderr
    assert [finding["path"] for finding in repository.found("src")] == ["a.py"]
    assert repository.found("src/a.py")[0]["line"] == 2


def test_what_is_staged_is_scanned_as_it_is_staged(repository: Checkout) -> None:
    repository.write("a", new_api_key("live"))
    repository.git("add", "a")
    assert [finding["path"] for finding in repository.found("--staged")] == ["a"]  # before the first commit
    repository.write("a", "nothing")
    assert [finding["path"] for finding in repository.found("--staged")] == ["a"]
    repository.git("add", "a")
    repository.write("a", new_api_key("live"))
    assert repository.found("--staged") == []
    repository.git("commit", "-q", "-m", "first")
    repository.write("b", new_api_key("live"))
    assert repository.found("--staged") == []
    repository.git("add", "b")
    repository.git("mv", "a", "a name\twith\nall of it")
    assert [finding["path"] for finding in repository.found("--staged")] == ["b"]


def test_the_history_keeps_what_was_removed(repository: Checkout) -> None:
    key, told, tagged, aside = (new_api_key("live") for _ in range(4))
    repository.write("a", "nothing\n")
    repository.commit()
    repository.write("conf/a", f"\n\n{key}\n")
    planted = repository.commit()
    (repository.folder / "conf/a").unlink()
    said = repository.commit(f"remove {told}")
    repository.git("tag", "-a", "v1", "-m", f"with {tagged}")
    repository.git("checkout", "-q", "-b", "aside")
    repository.write("b", aside)
    branched = repository.commit()
    repository.git("checkout", "-q", "-")
    assert repository.found() == []
    found = {(finding["path"], finding["line"], finding["commit"]) for finding in repository.found("--history")}
    tag = repository.git("rev-parse", "v1")
    assert {("conf/a", 3, planted), ("b", 1, branched)} < found
    assert {commit for path, _, commit in found if path == "(message)"} == {said, tag}
    assert len(found) == 4


def test_many_objects_come_through_the_pipe(repository: Checkout) -> None:
    for number in range(300):
        repository.write(f"f{number}", f"{number}\n" * (20_000 if number % 50 == 0 else 1))
    repository.write("last", new_api_key("live"))
    repository.commit()
    [finding] = repository.found("--history")
    assert finding["path"] == "last"


def test_a_repository_cannot_make_the_scan_run_a_program(repository: Checkout) -> None:
    repository.write("a", new_api_key("live"))
    repository.write("run.sh", "#!/bin/sh\ntouch ran\n")
    (repository.folder / "run.sh").chmod(0o755)
    repository.commit()
    program = str(repository.folder / "run.sh")
    for name in ("core.fsmonitor", "diff.external", "core.pager", "diff.x.textconv", "filter.x.clean"):
        repository.git("config", name, program)
    repository.write(".gitattributes", "* diff=x filter=x\n")
    found = {options: len(repository.found(*options)) for options in ((), ("--staged",), ("--history",))}
    assert found == {(): 1, ("--staged",): 0, ("--history",): 1}
    assert not (repository.folder / "ran").exists()


def test_a_signed_commit_and_a_partial_clone_run_no_program(repository: Checkout) -> None:
    repository.write("a", new_api_key("live"))
    repository.write("run.sh", "#!/bin/sh\ntouch ran\nexit 1\n")
    (repository.folder / "run.sh").chmod(0o755)
    repository.commit()
    head = repository.git("cat-file", "commit", "HEAD")
    signed = head.replace("\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n", 1)
    (repository.folder / ".git/signed").write_text(signed + "\n")
    repository.git("update-ref", "HEAD", repository.git("hash-object", "-t", "commit", "-w", ".git/signed"))
    program = str(repository.folder / "run.sh")
    for name, value in (
        ("log.showSignature", "true"),
        ("gpg.program", program),
        ("core.sshCommand", program),
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.url", "ssh://nowhere.invalid/x"),
        ("remote.origin.promisor", "true"),
    ):
        repository.git("config", name, value)
    assert len(repository.found("--history")) == 1
    assert not (repository.folder / "ran").exists()
    blob = repository.git("rev-parse", "HEAD:a")
    (repository.folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    ran = repository.scan("--history")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert not (repository.folder / "ran").exists()


def test_no_object_stands_in_for_one_with_a_key(repository: Checkout) -> None:
    repository.write("a", new_api_key("live"))
    repository.write("b", "nothing")
    repository.commit()
    repository.git("replace", repository.git("rev-parse", "HEAD:a"), repository.git("rev-parse", "HEAD:b"))
    assert [finding["path"] for finding in repository.found("--history")] == ["a"]


def test_a_repository_within_is_scanned_with_the_one_around_it(repository: Checkout) -> None:
    inner = Checkout(repository.folder / "inner")
    inner.write("a", new_api_key("live"))
    assert [finding["path"] for finding in repository.found()] == ["inner/a"]
    inner.commit()
    repository.commit()  # as a submodule is kept: a commit under a name
    assert [finding["path"] for finding in repository.found()] == ["inner/a"]


def test_names_that_break_lines_neither_hang_the_scan_nor_reach_the_terminal(repository: Checkout) -> None:
    for number in range(200):
        repository.write(f"x{number}\x1c{number}" + "/".join(["a" * 200] * 15), str(number))
    repository.write("\x1b]0;mine\x07", new_api_key("live"))
    repository.commit()
    for options in ((), ("--history",)):
        ran = repository.scan(*options)
        assert ran.returncode == 1 and "\x1b" not in ran.stdout and "\\u001b]0;mine\\u0007:1: " in ran.stdout


def test_a_list_of_what_is_allowed_may_be_anything(repository: Checkout) -> None:
    listed = repository.folder / ".relay-secrets-allow"
    repository.write("a", new_api_key("live"))
    listed.symlink_to("/dev/zero")
    assert [finding["path"] for finding in repository.found()] == ["a"]
    listed.unlink()
    listed.write_bytes(b"\xff\xfe\n")
    assert [finding["path"] for finding in repository.found()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--history", "--staged"], "not both"),
        (["nowhere"], "No such file"),
        (["--history", "/"], "no git repository"),
        (["--staged", "/"], "no git repository"),
    ],
)
def test_wrong_usage(repository: Checkout, arguments: list[str], said: str) -> None:
    ran = repository.scan(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("configuration", [".pre-commit-config.yaml", ".pre-commit-hooks.yaml"])
def test_the_hook_stops_a_commit(repository: Checkout, configuration: str) -> None:
    hook = _hook(yaml.safe_load((TOP / configuration).read_text()))
    command = [*hook["entry"].split()]
    assert Path(command[0]).name == "relay" and hook["pass_filenames"] is False and hook["always_run"] is True
    script = repository.folder / ".git/hooks/pre-commit"
    script.write_text(f"#!/bin/sh\nexec {RELAY} {' '.join(command[1:])}\n")
    script.chmod(0o755)
    repository.write("a", new_api_key("live"))
    with pytest.raises(subprocess.CalledProcessError):
        repository.commit()
    repository.write("a", "nothing")
    repository.commit()


def _hook(configuration: Any) -> dict[str, Any]:
    hooks = configuration if isinstance(configuration, list) else configuration["repos"][0]["hooks"]
    [hook] = [hook for hook in hooks if "secrets scan" in hook["entry"]]
    return dict(hook)


@pytest.mark.parametrize("plant", ["tree", "history"])
def test_the_checks_of_this_repository_fail_on_a_planted_key(tmp_path: Path, plant: str) -> None:
    repository = Checkout(tmp_path / "repository")
    for name in ("scripts/__init__.py", "scripts/secrets_scan.py"):
        if (TOP / name).exists():
            repository.write(name, (TOP / name).read_text())
    repository.write("README.md", "nothing\n")
    repository.commit()
    assert _check(repository).returncode == 0
    repository.write("README.md", new_api_key("live"))
    if plant == "history":
        repository.commit()
        repository.write("README.md", "nothing\n")
        repository.commit()
    ran = _check(repository)
    assert ran.returncode == 1 and "README.md:1: Credential of Relay" in ran.stdout


def _check(repository: Checkout) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **repository.env, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return subprocess.run(
        [sys.executable, "-m", "scripts.secrets_scan"], cwd=repository.folder, env=env, capture_output=True, text=True
    )


async def test_keys_that_live_are_named_and_revoked(tmp_path: Path) -> None:
    async with gateway_process(tmp_path / "home") as gateway:
        key, foreign = await gateway.new_key("actions:preview"), new_api_key("live")
        (tmp_path / "leaked").mkdir()
        (tmp_path / "leaked/notes").write_text(f"{key}\n{foreign}\n")
        named = await gateway.command("secrets", "scan", str(tmp_path / "leaked"), "--json")
        report = json.loads(named.stdout)
        assert named.returncode == 1 and len(report["findings"]) == 2
        [living] = report["living_keys"]
        assert report["revoked_keys"] == []
        async with gateway.client(key) as caller:
            assert (await caller.get("/actions")).status == 200
            told = await gateway.command("secrets", "scan", str(tmp_path / "leaked"))
            assert f"{living} LIVES: relay key revoke {living}" in told.stdout
            ended = await gateway.command("secrets", "scan", str(tmp_path / "leaked"), "--revoke")
            assert f"{living} is revoked now" in ended.stdout and key not in ended.stdout + ended.stderr
            await eventually(_refused(caller))
        again = json.loads((await gateway.command("secrets", "scan", str(tmp_path / "leaked"), "--json")).stdout)
        assert again["living_keys"] == []


def _refused(caller: Any) -> Callable[[], Any]:
    async def look() -> bool:
        return bool((await caller.get("/actions")).status == 401)

    return look
