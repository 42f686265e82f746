"""The documentation names everything there is, and nothing that is not."""

import ast
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from relay.audit.tags import TAGS
from relay.cli.welcome import welcome
from relay.core.principal import BUNDLES, SCOPES
from relay.core.problem import all_problems
from relay.settings import load_settings
from relay.settings.model import FIELDS, SECRETS
from scripts import docs as generated
from tests.docs_reading import (
    EXECUTED,
    PAGES,
    TOP,
    anchors,
    command_called,
    differs,
    fences,
    first_cells,
    headings,
    name_of,
    options_of,
    prose,
    read,
    section,
    spans,
)
from tests.gateway import Gateway

NAMES = [name_of(page) for page in PAGES]
SPECS = list(generated.catalog())
MAKE_TARGETS = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
NO_SETTINGS = {"TEST_DATABASE_URL", "TEST_REDIS_URL", "TEST_KILLS", "TEST_SEED", "NAME_FILE", "EVENT_ID", "RELAY_UID"}
NO_SETTINGS |= {"CREDENTIALS_DIRECTORY", "AWS_DEFAULT_REGION", "PROMETHEUS_URL"}
LISTED = {"decisions", "runbooks"}
"""Folders whose pages are found from one page of the documentation, which has a test of its own."""
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*_?")

every_page = pytest.mark.parametrize("name", NAMES)


def test_there_is_something_to_check() -> None:
    assert {"README.md", "SECURITY.md", "docs/quickstart.md", "docs/actions.md", "docs/decisions/README.md"} <= {*NAMES}
    assert len(MAKE_TARGETS) >= 8 and "run" in MAKE_TARGETS


# Everything that exists has its place.


@pytest.mark.parametrize("name", ["docs/configuration.md", "docs/commands.md", "docs/actions.md"])
def test_generated_text_is_current(name: str) -> None:
    assert read(name) == generated.pages()[name], "run: python -m scripts.docs"


def test_every_setting_has_a_row() -> None:
    assert set(FIELDS) == {cell for cell in first_cells("docs/configuration.md") if cell.isupper()}


def test_every_scope_and_bundle_has_a_row() -> None:
    assert {*SCOPES, *BUNDLES} - first_cells("docs/keys.md") == set()


def test_every_audit_tag_has_a_row() -> None:
    assert set(TAGS) - first_cells("docs/audit.md") == set()


def test_every_problem_has_its_heading_and_status() -> None:
    slugs = {kind.slug: kind.status for kind in all_problems()}
    assert set(slugs) == set(headings("docs/errors.md")[1:]) - {"Codes of failed and unknown attempts"}
    for slug, status in slugs.items():
        assert section("docs/errors.md", slug).lstrip().startswith(str(status)), slug


def test_every_code_of_a_failure_has_a_row() -> None:
    documented = {cell.replace("…", "") for cell in first_cells("docs/errors.md")}
    raised = set().union(*(_codes(path) for path in (TOP / "src/relay").rglob("*.py")))
    assert {"egress_denied", "smtp_", "upstream_status_", "lease_expired", "credential_revoked"} <= raised
    assert documented == raised


def test_every_action_has_its_heading() -> None:
    assert headings("docs/actions.md")[3:] == [spec.name for spec in SPECS]


def test_every_command_has_its_heading() -> None:
    assert headings("docs/commands.md")[1:] == [path for path, _ in generated.commands()]


def test_every_make_target_has_a_row() -> None:
    assert first_cells("docs/DEVELOPMENT.md") >= {f"make {target}" for target in MAKE_TARGETS}


def test_every_package_has_a_layer_in_the_architecture() -> None:
    code = {
        path.stem for path in (TOP / "src/relay").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    layers = section("docs/architecture.md", "Layers")
    listed = {span for line in layers.splitlines() if line.startswith("| `") for span in re.findall("`(.+?)`", line)}
    assert code - {"__init__", "__main__"} <= listed
    assert listed - {"relay"} <= code


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = {(TOP / target).resolve() for target, _ in _links("README.md")}
    assert [name_of(page) for page in PAGES if page.resolve() not in linked and page.parent.name not in LISTED] == [
        "README.md"
    ]


def test_every_decision_is_listed() -> None:
    listed = {target for target, _ in _links("docs/decisions/README.md")}
    assert {page.name for page in (TOP / "docs/decisions").glob("0*.md")} == listed


# What the documentation names exists.


@every_page
def test_links_lead_somewhere(name: str) -> None:
    for target, anchor in _links(name):
        page = (TOP / name).parent / target if target else TOP / name
        assert page.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(page.resolve().relative_to(TOP).as_posix()), f"{name}: {target}#{anchor}"


@pytest.mark.parametrize("name", [*NAMES, ".env.example"])
def test_commands_exist(name: str) -> None:
    for line in [*spans(name), *_shell_lines(name), *_indented(name)]:
        for call in re.findall(r"(?:^|[\s(/])relay ([a-z][^|;)>#]*)", line):
            words = [word for word in shlex.split(call.replace("…", " ")) if word]
            command, left = command_called(words)
            assert not hasattr(command, "commands") or not left, f"{name}: relay {call}"
            given = {word.partition("=")[0] for word in left if word.startswith("-")}
            assert given <= options_of(command), f"{name}: relay {call}"


@every_page
def test_commands_can_be_pasted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("audit.jsonl", "head.txt"):
        Path(file).touch()
    assert [line for line in _indented(name) if re.match(r"(\.venv/bin/)?relay [a-z]", line)] == []
    for line in _shell_lines(name):
        if re.search(r"(?:^|[\s(;/])relay(?:ctl)? [a-z]", line):
            for words in _calls(line):
                command, left = command_called(words)
                with command.make_context("relay", left):  # refuses what the command line would
                    assert not hasattr(command, "commands"), f"{name}: {line}"


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("relay key list   # every key", [["key", "list"]]),
        ("umask 077; .venv/bin/relay key list --json | jq . > x", [["key", "list", "--json"]]),
        ("key_id=$(.venv/bin/relay key list | awk '{ print $1 }')", [["key", "list"]]),
        ("relay audit head > head-$(date +%F).txt", [["audit", "head"]]),
        ("relay key list  every key", [["key", "list", "every", "key"]]),
        ("sudo --user=relay true", []),
    ],
)
def test_calls_are_found_in_a_line(line: str, calls: list[list[str]]) -> None:
    assert _calls(line) == calls


@every_page
def test_make_targets_exist(name: str) -> None:
    for line in [*spans(name), *_shell_lines(name)]:
        for call in re.findall(r"(?:^|\s)make ([a-z][a-z -]*)", line):
            assert set(call.split()) <= {*MAKE_TARGETS}, f"{name}: make {call}"


@every_page
def test_settings_exist(name: str) -> None:
    known = {*FIELDS, *(f"{secret}_FILE" for secret in SECRETS), *NO_SETTINGS}
    text = " ".join([*spans(name), *_shell_lines(name)])
    assert set(re.findall(r"(?<![\w$\"{])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?!\w)", text)) - known == set()


@every_page
def test_scopes_and_tags_exist(name: str) -> None:
    words = {span for span in spans(name) if re.fullmatch(r"[a-z_]+:[a-z_]+(:[a-z_]+)?", span)}
    tags = {word for word in words if word.count(":") == 2}
    assert tags <= {*TAGS, "source:subject:action"}
    assert words - tags <= {*SCOPES}


@every_page
def test_files_of_the_checkout_exist(name: str) -> None:
    packages = {path.name for path in (TOP / "src/relay").iterdir() if path.is_dir()}
    tops = {"src", "tests", "scripts", "docs", "requirements", "benchmarks", *packages}
    for span in spans(name):
        if re.fullmatch(r"[\w./-]+/[\w.-]+", span) and span.partition("/")[0] in tops:
            assert any((base / span).exists() for base in (TOP, TOP / "src/relay")), f"{name}: {span}"


@every_page
def test_an_extra_is_installed_from_the_checkout(name: str) -> None:
    # The package index has another project of the name relay.
    assert re.findall(r"pip install[^\n]*\brelay\b[^\n]*", read(name)) == []
    for options, file in re.findall(r"pip install ([^\n]*)-r (requirements/[\w.]+)", read(name)):
        assert options == "--require-hashes --no-deps --only-binary :all: "
        assert (TOP / file).exists()


def test_the_file_of_the_metrics_token_has_one_name() -> None:
    pages = ("docs/metrics.md", "docs/alerts.md", "deploy/prometheus/prometheus.yml")
    found = [set(re.findall(r"/etc/prometheus/[\w-]*token\b", read(page))) for page in pages]
    assert found == [{"/etc/prometheus/relay-metrics-token"}] * len(pages)


async def test_routes_exist(gateway: Gateway) -> None:
    paths = gateway.server.fastapi.openapi()["paths"]
    known = {(method.upper(), re.sub(r"\{.*?\}", "{}", path)) for path, methods in paths.items() for method in methods}
    named = set()
    for name in NAMES:
        for method, path in re.findall(r"\b(GET|POST|PUT|DELETE) (/[\w/{}.-]*)", " ".join(spans(name))):
            named.add((method, re.sub(r"\{.*?\}", "{}", path)))
    assert len(named) > 5
    assert named - known == set()


# How examples are written.


@every_page
def test_fences_say_what_they_are(name: str) -> None:
    known = {"sh", "shell", "text", "json", "python", "prompt", "context", "steps", "cedar"}
    known |= {"javascript", "go", "ruby", "php", "yaml", "promql"}
    assert [str(fence) for fence in fences(name) if fence.language not in known] == []


@every_page
def test_no_example_puts_a_secret_onto_a_command_line(name: str) -> None:
    for line in [
        line for fence in fences(name) if fence.language in ("sh", "shell") for line in fence.text.splitlines()
    ]:
        assert not re.search(
            r"relay_sk_|(-H|--header) *[\"'](authorization|x-api-key)|--oauth2-bearer|://[^/\s@]*:[^/\s@]*@", line, re.I
        ), line


def test_what_examples_write_into_a_checkout_is_ignored_there() -> None:
    ignored = [line.strip("/") for line in read(".gitignore").splitlines()]
    lines = [line for name in EXECUTED for line in _shell_lines(name)]
    written = {file for line in lines for file in re.findall(r"(?:> |tee |--output )([a-z][\w.-]*)", line)}
    assert {"agent.key", "plan.json", "reads.cedar", "metrics.secret", "held.json"} <= written
    assert [file for file in sorted(written) if not any(fnmatch(file, pattern) for pattern in ignored)] == []


@pytest.mark.parametrize("name", EXECUTED)
def test_the_answer_to_every_request_is_shown(name: str) -> None:
    assert [
        str(fence) for fence in fences(name) if fence.language == "sh" and "curl" in fence.text and not fence.shown
    ] == []


def test_the_readme_shows_what_the_first_start_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [".venv/bin/relay"])
    welcome(load_settings({}, tmp_path), "relay_sk_live_x", "127.0.0.1", 8000)
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    shown = next(fence for fence in fences("README.md") if fence.language == "sh")
    assert shown.text.splitlines() == printed[1:]


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        ('{"a": 1}', '{"a":1}\n', True),
        ('{"a": …}', '{"a":17}', True),
        ('{"a": …,"b": 2}', '{"a":1,"c":3,"b":2}', True),
        ('{"a": 1}', '{"a":2}', False),
        ('{"a": 1}', '{"a":1}{"b":2}', False),
        ('…"b"…', '{"a":1}', False),
        ('{"a":…"b"}', '{"a":1,"b"', False),
        ("aXa…aXa", "aXa", False),
    ],
)
def test_an_answer_is_compared(shown: str, said: str, same: bool) -> None:
    assert (differs(shown, said) is None) == same


def _links(name: str) -> list[tuple[str, str]]:
    """Return file and anchor of every link of a page that does not leave the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(name))
    return [(path, anchor) for path, _, anchor in (link.partition("#") for link in found) if "://" not in path]


def _indented(name: str) -> list[str]:
    """Return indented code, without the remarks that stand at its right."""
    lines = [line[4:] for line in prose(name).splitlines() if re.match(r" {4}\S", line)]
    return [re.split(r"\s{2,}", line)[0] for line in lines]


def _calls(line: str) -> list[list[str]]:
    """Return what follows ``relay`` wherever a line of shell calls it, as the shell would split it."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    calls: list[list[str]] = []
    open_call: list[str] | None = None
    begins = True
    for word in reader:
        if set(word) <= set("();<>|&"):
            open_call, begins = None, not set(word) & set("<>")
        elif open_call is not None:
            open_call.append(word)
        elif begins and word.rpartition("/")[2] in ("relay", "relayctl"):
            open_call, begins = [], False
            calls.append(open_call)
        else:
            begins = False
    return calls


def _shell_lines(name: str) -> list[str]:
    joined = "\n".join(fence.text for fence in fences(name) if fence.language in ("sh", "shell"))
    return [line for line in joined.splitlines() if line.strip()]


_RAISERS = frozenset(
    {
        *("EffectRefused", "EffectUnsent", "EffectUnknown", "EffectForbidden", "EffectError"),
        *("Failure", "_Refused", "_failed", "_open_end"),
    }
)


def _codes(path: Path) -> set[str]:
    """Return the codes in a module: what failures are made with, and pairs of a code and a sentence."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in _RAISERS:
            found |= {code for code in map(_code, node.args[:2]) if code}
        elif isinstance(node, ast.Tuple) and len(node.elts) >= 2 and _is_sentence(node.elts[1]):
            found |= {code for code in [_code(node.elts[0])] if code}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
            found |= {code for code in [_code(node.value)] if code}
    return found


def _code(node: ast.expr) -> str | None:
    """Return a code; of one that ends in a number the part before it."""
    value: Any = node.values[0] if isinstance(node, ast.JoinedStr) else node
    text = value.value if isinstance(value, ast.Constant) else None
    return text if isinstance(text, str) and CODE.fullmatch(text) else None


def _is_sentence(node: ast.expr) -> bool:
    value: Any = node.values[-1] if isinstance(node, ast.JoinedStr) else node
    text = value.value if isinstance(value, ast.Constant) else None
    # A place in the parameters comes before what is wrong there.
    return isinstance(node, ast.JoinedStr) or (isinstance(text, str) and text.endswith(".") and " " in text)
