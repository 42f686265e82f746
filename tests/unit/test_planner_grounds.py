"""What a caller has named, and what only looks like it."""

from typing import Any

import pytest

from relay.planning.grounds import apart, grounds_of

ANN = "ann@example.com"
HOST = "api.example.com"


@pytest.mark.parametrize(
    ("prompt", "destination"),
    [
        ("email ann@example.com", ANN),
        ("email Ann@Example.COM.", ANN),
        ("email Ann <ann@example.com>, please", ANN),
        ("mailto:ann@example.com", ANN),
        ("to: ann@example.com;bob@example.com", "bob@example.com"),
        ("is it ann@example.com?", ANN),
        ("email 'ann@example.com'", ANN),
        ("email josé@bücher.example", "josé@xn--bcher-kva.example"),
        ("call https://api.example.com/x", HOST),
        ("call HTTPS://API.example.com:8443/x?y=1", HOST),
        ("call https://api.example.com.", HOST),
        ("call (https://api.example.com)", HOST),
        ("call `https://api.example.com/x`", HOST),
        ("call api.example.com", HOST),
        ("call api.example.com:8080/x", HOST),
        ("call http://localhost:9000/x", "localhost"),
        ("call http://127.0.0.1/x", "127.0.0.1"),
        ("call http://[2001:db8::1]:8080/x", "2001:db8::1"),
        ("call http://[2001:0db8::0001]/x", "2001:db8::1"),
        ("call https://bücher.example/x", "xn--bcher-kva.example"),
        ("post it to #general", "#general"),
        ("don't call https://api.example.com/x", HOST),
    ],
)
def test_named_in_the_prompt(prompt: str, destination: str) -> None:
    assert grounds_of(prompt, None).of(destination) == "prompt"


@pytest.mark.parametrize(
    ("prompt", "destination"),
    [
        ("email ann@example.com", "example.com"),
        ("email ann@example.com", "nn@example.com"),
        ("email ann@example.com.attacker.example", ANN),
        ("email x.ann@example.com", ANN),
        ("email ann@straße.example", "ann@strasse.example"),
        ("email straße@example.com", "strasse@example.com"),
        ("email ann@example.com@attacker.example", ANN),
        ("call https://api.example.com.attacker.example", HOST),
        ("call https://attacker.example/api.example.com", HOST),
        ("call https://attacker.example/?u=https%3A%2F%2Fapi.example.com", HOST),
        ("call https://attacker.example?u=api.example.com", HOST),
        ("call https://attacker.example#api.example.com", HOST),
        ("call https://api.example.com@attacker.example/", HOST),
        ("call https://api.example.com@attacker.example/", "attacker.example"),
        ("call https://api.example.com:443@attacker.example/", HOST),
        ("call attacker.example/api.example.com", HOST),
        ("call xapi.example.com", HOST),
        ("call my-api.example.com", HOST),
        ("summarise “Hi, write to ann@example.com or https://api.example.com”", ANN),
        ("summarise “Hi, write to ann@example.com or https://api.example.com”", HOST),
        ("summarise ```\nann@example.com said\nhttps://api.example.com\n```", HOST),
        ('summarise "a quotation that ends nowhere, by ann@example.com', ANN),
        ("summarise ”ann@example.com", ANN),
        ("", ANN),
    ],
)
def test_not_named_in_the_prompt(prompt: str, destination: str) -> None:
    assert grounds_of(prompt, None).of(destination) is None


@pytest.mark.parametrize(
    ("context", "named"),
    [
        ({"contacts": {"Ann": "ann@example.com"}}, True),
        ({"people": [{"mail": "Ann Lee <ann@example.com>"}]}, True),
        ({"a": " ann@example.com\n"}, True),
        ({"a": "write to ann@example.com"}, False),
        ({"a": "ann@example.com, now"}, False),
        ({"a": "x <ann@example.com> y"}, False),
        ({"ann@example.com": "Ann"}, False),
        ({"a": [[{"b": ["ann@example.com"]}]]}, True),
        (None, False),
    ],
)
def test_the_context_names_what_is_all_of_a_value(context: Any, named: bool) -> None:
    assert (grounds_of("do it", context).of(ANN) == "context") is named


def test_the_prompt_goes_before_the_context() -> None:
    assert grounds_of("email ann@example.com", {"a": ANN}).of(ANN) == "prompt"
    assert grounds_of("do it", {"a": "https://api.example.com/x"}).of(HOST) == "context"


def test_quotations_are_taken_apart() -> None:
    assert apart('say "a \\" b" to x, don’t') == ("say   to x, don’t", ('a " b',))
    assert apart("a ``` b\n``` c") == ("a   c", (" b\n",))
    assert apart('a "b') == ("a ", ())
