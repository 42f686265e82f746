"""Policy text that cannot be used is refused, with the place and the reason; what is odd gets a warning."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.policy.check import PolicyRefused, compile_policies, policy_schema
from relay.policy.text import MAX_BYTES, MAX_NESTING, MAX_OPERATORS, MAX_POLICIES, fragments
from tests.policy_kit import CATALOG, SCHEMA

ANY = "permit(principal, action, resource)"


def problems(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(PolicyRefused) as refused:
        compile_policies(text, SCHEMA)
    return [(found.line, found.column, found.reason) for found in refused.value.problems]


def warnings(text: str) -> tuple[str, ...]:
    return compile_policies(text, SCHEMA).warnings


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        (f"{ANY};\n\npermit(principal, acton, resource);", 3, 19, "acton"),
        (f"{ANY};\r\npermit(principal, acton, resource);", 2, 19, "acton"),
        (f"{ANY};\n{ANY}", 2, 36, "unexpected end of input"),
        (f"{ANY};\n  permit(principal, action, resource when", 2, 38, "unexpected token `when`"),
        (f"// {ANY};\n{ANY} when {{ context.approvd }};", 2, 52, "attribute `approvd`"),
        (f"// approvd\n{ANY}\nwhen {{\n  context.approvd\n}};", 4, 11, "attribute `approvd`"),
        (f'{ANY}\nwhen {{ resource == Foo::"x" }};', 2, 20, "unrecognized entity type `Foo`"),
        (
            'permit(\n  principal,\n  action == Relay::Action::"email.snd",\n  resource\n);',
            3,
            13,
            'unrecognized action `Relay::Action::"email.snd"`',
        ),
        (f"{ANY} when {{ context.time.hour }};", 1, 1, "unexpected type: expected Bool but saw Long"),
        (f"{ANY}\nwhen {{ context.client_address.isLoopback() }};", 2, 16, "optional attribute `client_address`"),
        (
            f"{ANY}\nwhen {{ context.credential.age_minutes > 1 }};",
            2,
            16,
            "optional attribute `credential.age_minutes`",
        ),
        (f"{ANY}\nwhen {{ context.params.bytes > 1 }};", 2, 16, "`params.bytes` in context for"),
        (f'{ANY} when {{ ip("10.0.0.0/88").isLoopback() }};', 1, 47, "failed to parse as IP address"),
        ('permit(principal, action == Relay::Action::"effect:write", resource);', 1, 1, "applicable action"),
        ('permit(principal in Relay::Connector::"email", action, resource);', 1, 1, "applicable action"),
        ("permit(principal == ?principal, action, resource);", 1, 21, "templates"),
        (f'{ANY};\n@id("a")\n{ANY};\n@id("a")\n{ANY};', 4, 1, "the policy in line 2 has the same @id"),
        (f'@id("{"x" * 65}") {ANY};', 1, 1, "an @id is 1 to 64 letters"),
        (f'@id("<b>") {ANY};', 1, 1, "an @id is 1 to 64 letters"),
        (f"@id {ANY};", 1, 1, "an @id is 1 to 64 letters"),
        (f'@id("a") @id("b") {ANY};', 1, 1, "duplicate annotation"),
        (f'{ANY} when {{ context.recipients.contains("a\u202eb") }};', 1, 74, "an invisible character (U+202E)"),
        ("// \u200b\n", 1, 4, "invisible character (U+200B)"),
        (f"{ANY};\0", 1, 37, "invisible character (U+0000)"),
        (f'{ANY} when {{ "', 1, 44, "a string that does not end"),
        (f"{ANY};\n  §", 2, 3, "unexpected '§'"),
        (f"{ANY};\xa0", 1, 37, "unexpected '\\xa0'"),
        ("\ud800", 1, 1, "not Unicode"),
        (";", 1, 1, ""),
    ],
)
def test_the_place_and_the_reason(text: str, line: int, column: int, reason: str) -> None:
    found = problems(text)
    assert (found[0][0], found[0][1]) == (line, column), found
    assert reason in found[0][2], found


def test_every_policy_that_does_not_parse_is_told() -> None:
    found = problems(f"permit(;\n{ANY};\nforbid(principal, acton, resource);\npermit(principal, action, resorce);")
    assert [line for line, _, _ in found] == [1, 3, 4]


def test_one_mistake_is_told_once_for_all_actions() -> None:
    found = problems(f"{ANY} when {{ context.params.bytes > 1 }};")
    where = 'Relay::Action::"probe.blind" and 4 more'
    assert [reason for _, _, reason in found] == [f"attribute `params.bytes` in context for {where} not found"]


def test_every_policy_that_does_not_type_check_is_told() -> None:
    found = problems(f"{ANY} when {{ context.a }};\n{ANY};\n{ANY} when {{ context.b }};")
    assert {line for line, _, _ in found} == {1, 3}
    assert len(found) <= 50


def test_the_message_has_all_of_it() -> None:
    with pytest.raises(PolicyRefused, match=r"^line 1, column 19: .*acton; line 2, column 19: .*acton$"):
        compile_policies("permit(principal, acton, resource);\n" * 2, SCHEMA)


def nested(depth: int) -> str:
    return f"{ANY} when {{ {'(' * (depth - 1)}true{')' * (depth - 1)} }};"


def chained(operators: int) -> str:
    return f"{ANY} when {{ {'true && ' * operators}true }};"


def test_bounds() -> None:
    assert len(compile_policies(nested(MAX_NESTING), SCHEMA).statements) == 2
    assert "nested more than" in problems(nested(MAX_NESTING + 1))[0][2]
    assert len(compile_policies(chained(MAX_OPERATORS), SCHEMA).statements) == 2
    assert "operators in one clause" in problems(chained(MAX_OPERATORS + 1))[0][2]
    many = "".join(f'@id("{number}") {ANY};\n' for number in range(MAX_POLICIES))
    assert len(compile_policies(many, SCHEMA).statements) == MAX_POLICIES + 1
    assert problems(f"{many}{ANY};") == [(MAX_POLICIES + 1, 1, f"there are more than {MAX_POLICIES} policies")]
    padding = " " * (MAX_BYTES - len(ANY) - 1)
    assert compile_policies(f"{ANY};{padding}", SCHEMA)
    assert problems(f"{ANY}; {padding}")[0] == (1, 1, "the text is longer than 128 KiB")


def test_operators_are_counted_by_clause() -> None:
    clause = f"when {{ {'true && ' * MAX_OPERATORS}true }}"
    assert compile_policies(f"{ANY} {clause} {clause} {clause};", SCHEMA)
    actions = ", ".join(['Relay::Action::"email.send"'] * (MAX_OPERATORS * 2))
    assert compile_policies(f"permit(principal, action in [{actions}], resource);", SCHEMA)


def test_texts_in_strings_and_comments_are_no_policies() -> None:
    text = f'// permit(;\n{ANY} when {{ ["a;b", "c\\"; permit(", "// no"].contains("") }}; // (((((((((((((((((((((('
    (policy,) = fragments(text)
    assert (policy.start, policy.text.endswith("};")) == (12, True)
    assert len(compile_policies(text, SCHEMA).statements) == 2


@given(st.lists(st.sampled_from([ANY + ";", "// x ;\n", '@id("q;") ' + ANY + ";", "\n", "\t "]), max_size=8))
def test_the_fragments_are_the_text(parts: list[str]) -> None:
    text = "".join(parts)
    found = fragments(text)
    assert all(text[one.start : one.start + len(one.text)] == one.text for one in found)
    # What follows a comment on its line is the comment's.
    assert all(one.text.endswith(";") for one in found)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (f"\n{ANY};", "line 2: without an @id"),
        (f'@id("a")\n{ANY};', "line 1: this permit is about every action"),
        (
            f'@id("a") {ANY}\nwhen {{ context.recipients.contains("Boss@example.com") }};',
            "line 2: addresses are compared in lower case",
        ),
    ],
)
def test_warnings(text: str, warning: str) -> None:
    assert any(found.startswith(warning) for found in warnings(text)), warnings(text)


def test_what_is_sound_has_no_warning() -> None:
    text = """
    @id("a") permit(principal, action in Relay::Action::"effect:write", resource)
    when { context.recipients == ["boss@example.com"] };
    """
    assert warnings(textwrap.dedent(text)) == ()


def test_an_effect_that_no_action_has_is_a_warning() -> None:
    few = policy_schema([found for found in CATALOG if found.effect != "destructive"])
    text = '@id("a") forbid(principal, action in [Relay::Action::"effect:destructive"], resource);'
    assert compile_policies(text, few).warnings == ("line 1: there is no action that this policy applies to",)
    assert compile_policies(text, SCHEMA).warnings == ()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (f"forbid(principal, action, resource);\n{ANY};", 2, "the baseline forbids; a permit has no place in it"),
        ("forbid(principal, action, resource) when { context.nope };", 1, "nope"),
        ("forbid(", 1, "unexpected end"),
    ],
)
def test_a_baseline_forbids(text: str, line: int, reason: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        policy_schema(CATALOG, text)
    assert refused.value.problems[0].line == line and reason in refused.value.problems[0].reason


def test_an_empty_text_is_a_policy_that_allows_nothing() -> None:
    for text in ("", "\n", "// nothing\n"):
        assert [statement.baseline for statement in compile_policies(text, SCHEMA).statements] == [True]
