import re
from pathlib import Path

from relay.core.principal import BUNDLES, SCOPES
from relay.crypto.api_key import new_api_key
from relay.identity import rules

PAGE = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()


def table(head: str) -> dict[str, str]:
    """Return the rows of the table whose first column has this head, the back-ticks of the first column removed."""
    lines = PAGE.split(f"| {head} |", 1)[1].splitlines()[2:]
    rows = (line.strip("|").split("|") for line in lines[: lines.index("")])
    return {first.strip().strip("`"): rest.strip() for first, rest in rows}


def test_every_scope_is_documented_and_no_other():
    described = table("scope")
    assert list(described) == list(SCOPES)
    assert all(len(meaning) > 10 for meaning in described.values())


def test_every_bundle_is_documented_as_it_is():
    described = table("bundle")
    assert set(described) == set(BUNDLES)
    assert described.pop("admin") == "every scope"
    assert {name: tuple(re.findall(r"`([a-z:]+)`", text)) for name, text in described.items()} == {
        name: scopes for name, scopes in BUNDLES.items() if name != "admin"
    }


def test_the_documented_bounds_are_the_real_ones():
    assert f"1 to {rules.MAX_DAYS} days, {rules.DEFAULT_DAYS} unless said otherwise" in PAGE
    assert f"0 to {rules.MAX_OVERLAP_HOURS} hours, {rules.DEFAULT_OVERLAP_HOURS}" in PAGE


def test_the_documented_pattern_finds_keys():
    pattern = next(re.finditer(r"`(relay_sk_\(.*?\{49\})`", PAGE))[1]
    assert re.fullmatch(pattern, new_api_key("live")) and re.fullmatch(pattern, new_api_key("local"))
