"""What the operator's settings say about policies, and how start-up refuses what they must not say."""

from pathlib import Path

import pytest

from relay.policy.check import compile_policies
from relay.policy.engine import evaluate
from relay.policy.installed import installed_reach, installed_schema
from relay.policy.source import Active
from relay.settings import Settings, SettingsError, load_settings
from tests.policy_kit import CATALOG, OUTSIDE, inputs, probed, who


def settings(folder: Path, **given: str) -> Settings:
    return load_settings({"RELAY_DATA_DIR": str(folder), **given}, folder)


def test_internal_domains(tmp_path: Path) -> None:
    assert settings(tmp_path).internal_domains == ()
    given = settings(tmp_path, INTERNAL_DOMAINS="Example.COM, *.example.com,b\u00fccher.example,example.com")
    assert given.internal_domains == ("example.com", "*.example.com", "xn--bcher-kva.example")
    reach = installed_reach(settings(tmp_path, INTERNAL_DOMAINS="example.com", EGRESS_ALLOW="10.0.0.0/8"))
    assert reach.external_recipients(["a@example.com", "a@b.example.com"]) == ["a@b.example.com"]
    assert reach.external_hosts(["10.0.0.1", "192.0.2.1"], 80) == ["192.0.2.1"]


@pytest.mark.parametrize(
    "wrong",
    [
        "*.com",
        "*",
        "exa mple.com",
        "a@b.example",
        ".example.com",
        "example.com.",
        "a..b",
        "-a.example",
        "a,,b",
        "x" * 64,
    ],
)
def test_what_is_no_domain_is_refused(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="INTERNAL_DOMAINS"):
        settings(tmp_path, INTERNAL_DOMAINS=wrong)


def test_without_a_file_the_baseline_is_relay_s_own(tmp_path: Path) -> None:
    assert [rule.name for rule in installed_schema(CATALOG, settings(tmp_path)).baseline] == [
        '"unapproved-destruction"'
    ]


def test_the_operator_s_rules_are_added(tmp_path: Path) -> None:
    file = tmp_path / "baseline.cedar"
    file.write_text('@id("quiet") forbid(principal, action, resource) when { context.recipient_count > 0 };')
    schema = installed_schema(CATALOG, settings(tmp_path, POLICY_BASELINE_FILE=str(file)))
    open_to_all = compile_policies("permit(principal, action, resource);", schema)
    for shown, effect in (({"recipients": [OUTSIDE]}, "deny"), ({}, "allow")):
        asked = inputs(who("person"), probed("probe.write", **shown), approvals=5)
        assert evaluate(asked, Active("pol", 1, open_to_all)).effect == effect


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\npermit(principal, action, resource);", "line 2, column 1: the baseline forbids"),
        (b"forbid(principal, action, resource) when { context.nope };", "line 1, column 52: attribute `nope`"),
        (b"forbid(principal", "line 1, column 17: unexpected end"),
        (b"\xff", r"cannot be read as text \(UnicodeDecodeError\)"),
        (b" " * 200_000, "line 1, column 1: the text is longer than 128 KiB"),
    ],
)
def test_start_up_refuses_a_baseline_that_is_none(text: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.cedar"
    file.write_bytes(text)
    with pytest.raises(SettingsError, match=rf"POLICY_BASELINE_FILE: {said}"):
        installed_schema(CATALOG, settings(tmp_path, POLICY_BASELINE_FILE=str(file)))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="POLICY_BASELINE_FILE: must be the path of a file that exists"):
        settings(tmp_path, POLICY_BASELINE_FILE=str(tmp_path / "nope"))
