"""Credentials in prose and in encodings, which nothing but words for a model is searched for."""

import base64
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.llm.credentials import without_credentials
from relay.telemetry.redaction import HIDDEN

NAMED = "password=hunter22"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"


def code(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("my password is hunter2", "my password is ***"),
        ("The Password is hunter2.", "The Password is ***."),
        ("(the password is hunter2!), ok", "(the password is ***), ok"),
        ("Password for the wifi at Bob's is Blue-Horse-77?", "Password for the wifi at Bob's is ***?"),
        ("set the password to Blue77!x and tell Bob", "set the password to *** and tell Bob"),
        ("the new passwords will be: hunter22, ok", "the new passwords will be: ***, ok"),
        ("its secret is now `abc-123`", "its secret is now `***`"),
        ("the API key is 9f8e7d6c5b4a", "the API key is ***"),
        ("token was 12345678", "token was ***"),
        ('the password is "it\'s a correct horse" today', 'the password is "***" today'),
        ("password is 'swordfish'", "password is '***'"),
        ("password is “correct horse”", "password is “***”"),
        ("passphrase is «correct horse»", "passphrase is «***»"),
        (r'{"text":"my password is \"correct horse\"","x":1}', r'{"text":"my password is \"***\"","x":1}'),
        (r'{"text":"my password is hunter2\nBye"}', r'{"text":"my password is ***\nBye"}'),
    ],
)
def test_what_a_sentence_gives_away_is_hidden(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert without_credentials(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "the password is required, and the token is expired since 2024",
        "the token is a 64-character string; tokens are 4 bytes; a token is 64-character",
        "the secret is at https://x.example/1; the secret is https://x.example/1",
        "the access key is stored in vault 12",
        "set the password to something that you know",
        "the secret to success is hard work",
        "tokens = list(dict.fromkeys(found[0]))",
        "send 12345678 to secretary@corp.example",
        "my compass is N45E22N45",
    ],
)
def test_sentences_about_credentials_stay(text: str) -> None:
    assert without_credentials(text) == text


@pytest.mark.parametrize(
    "encoded",
    [
        code(NAMED),
        code(f"user: ann\nnote: {AWS}"),
        code(f"user=ann&{NAMED}").rstrip("="),
        base64.urlsafe_b64encode(b"\xff\xfe\xfb" + f" {NAMED}".encode()).decode(),
        NAMED.encode().hex(),
        NAMED.encode().hex().upper(),
        base64.encodebytes(b"x" * 150 + b" " + NAMED.encode() + b" " + b"y" * 50).decode().rstrip("\n"),
        base64.encodebytes(b"x" * 50 + b" " + NAMED.encode() + b" " + b"y" * 50).decode().strip().replace("\n", "\\n"),
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "before {} after", '{{"data":"{}"}}', "data:text/plain;base64,{}", "x={}&y=1"]
)
def test_what_an_encoding_holds_is_hidden(encoded: str, around: str) -> None:
    shown = without_credentials(around.format(encoded))
    assert encoded not in shown and shown.replace("\n", "") == around.format(HIDDEN).replace("\n", "")
    assert without_credentials(shown) == shown


@pytest.mark.parametrize("before", ["/a/", "/ab/", "/abc/", "/abcd/"])
def test_what_stands_before_a_code_does_not_hide_it(before: str) -> None:
    assert without_credentials(f"GET {before}{code(f'key {AWS} end')}") == f"GET {HIDDEN}"


@pytest.mark.parametrize(
    "text",
    [
        code("nothing in particular, of a certain length"),
        "0123456789abcdef" * 4,
        "/usr/lib/python3/site-packages/pydantic_ai/models/openai",
        "a-rather-long-name-with-hyphens_and_underscores",
        base64.b64encode(bytes(range(256))).decode(),
    ],
)
def test_codes_of_nothing_stay(text: str) -> None:
    assert without_credentials(text) == text


PIECES = st.sampled_from(
    [
        *("password", " is ", "secret", " to ", " for the ", '"', "'", "`", "hunter2", " ", "\n", "\\", "a" * 20),
        *("A" * 60, "***", ".", NAMED.encode().hex(), "“", "”", "token ", "https://", "64-bit", "=", "/", code(AWS)),
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=25).map("".join)


@settings(max_examples=400)
@given(TEXTS, TEXTS)
def test_whatever_stands_around_a_credential_it_is_hidden(before: str, after: str) -> None:
    for credential in (code(NAMED), "password is hunter22"):
        assert credential not in without_credentials(f"{before} {credential} {after}")


@pytest.mark.parametrize(
    "piece",
    [
        *("password ", "password is ", "password for a ", "password for " + "a" * 40 + " ", "token is 1", "is "),
        *("A" * 100, "A" * 76 + "\n", "A" * 76 + "\\n", "-_/+", "a" * 21 + " ", "a" * 19 + " ", "=" * 20, "0f" * 30),
        *(
            'password is "x',
            "password is \\",
            "password is `",
            "password is 1-a",
            "secret to the ",
            "'",
            "password is a",
        ),
    ],
)
def test_no_input_takes_more_than_its_length(piece: str) -> None:
    def cpu(length: int) -> float:
        best = float("inf")
        text = "token" + piece * (length // len(piece))
        for _ in range(3):
            began = time.process_time()
            without_credentials(text)
            best = min(best, time.process_time() - began)
        return best

    # Sixteen times the length costs about sixteen times as much; what is quadratic costs 256 times.
    assert cpu(64_000) < 80 * max(cpu(4_000), 0.0005)
