"""Secrets are found in texts and structures, in linear time, without raising, and once is enough."""

import base64
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from relay.crypto.api_key import new_api_key
from relay.settings.secret_text import generate_kek, generate_secret_key, generate_token
from relay.telemetry.patterns import PATTERNS
from relay.telemetry.redaction import (
    CUT,
    HIDDEN,
    MAX_DEPTH,
    MAX_NODES,
    MAX_TEXT,
    hints_at_secret,
    names_secret,
    redact,
    redact_text,
)

DASHES = "-" * 5
ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def some(length: int, alphabet: str = ALNUM) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _base64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _jwt() -> str:
    head, body = json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps({"sub": "1", "exp": 1})
    return ".".join((_base64(head), _base64(body), some(43)))


UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

# Of each: the whole text, and the part that must not be seen.
SAMPLES: dict[str, tuple[str, str]] = {}


def _add(name: str, secret: str, around: str = "{}") -> None:
    SAMPLES[name] = (around.format(secret), secret)


for _env in ("live", "test", "local"):
    _add(f"relay key, {_env}", new_api_key(_env))
_add("relay key in capitals", new_api_key("live").upper())
_add("relay key, percent-encoded", new_api_key("live").replace("_", "%5F"))
_add("relay key, cut", new_api_key("live")[:24])
_add("relay key within a word", new_api_key("live"), "x{}y")
_add("relay key of an unknown kind", "relay_sk_" + some(40))
_add("webhook secret", "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
_add("openai", "sk-" + some(48))
_add("openai project", "sk-proj-" + some(60) + "_" + some(20))
_add("anthropic", "sk-ant-api03-" + some(80) + "-" + some(6))
_add("google api", "AIza" + some(35))
_add("google client", "GOCSPX-" + some(28))
_add("google token", "ya29." + some(100))
_add("google refresh", "1//0" + some(60))
for _kind in "abprs":
    _add(f"slack xox{_kind}", f"xox{_kind}-{some(12, '0123456789')}-{some(24)}")
_add("slack app", "xapp-1-" + some(40))
_add("slack webhook", f"T{some(8, UPPER)}/B{some(8, UPPER)}/{some(24)}", "https://hooks.slack.com/services/{} said no")
for _kind in "pousr":
    _add(f"github gh{_kind}_", f"gh{_kind}_{some(36)}")
_add("github fine-grained", "github_pat_" + some(22) + "_" + some(59))
_add("gitlab", "glpat-" + some(20))
_add("stripe", "sk_live_" + some(24))
_add("aws id", "AKIA" + some(16, UPPER))
_add("aws session id", "ASIA" + some(16, UPPER))
_add("aws secret", some(40, ALNUM + "/+"), "aws_secret_access_key = {}")
_add("aws secret, json", some(40, ALNUM + "/+"), '{{"SecretAccessKey": "{}"}}')
_add("jwt", _jwt())
_add("jwt, unsigned", _jwt().rpartition(".")[0] + ".")
for _label in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "):
    _body = "\n".join(some(64) for _ in range(3))
    _add(
        f"pem {_label}",
        _body,
        f"{DASHES}BEGIN {_label}PRIVATE KEY{DASHES}\n{{}}\n{DASHES}END {_label}PRIVATE KEY{DASHES}",
    )
_add(
    "pem, one line",
    "\\n".join(some(64) for _ in range(3)),
    f"{DASHES}BEGIN PRIVATE KEY{DASHES}\\n{{}}\\n{DASHES}END PRIVATE KEY{DASHES}",
)
_add("pem, cut", "\n".join(some(64) for _ in range(3)), f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n{{}}")
_add("pgp", some(64), f"{DASHES}BEGIN PGP PRIVATE KEY BLOCK{DASHES}\n{{}}\n{DASHES}END PGP PRIVATE KEY BLOCK{DASHES}")
_add("url password", some(20), "postgresql://relay:{}@db.example.com/relay")
_add("url password with an @", "p@" + some(20), "postgresql://relay:{}@db.example.com/relay")
_add("url password alone", some(20), "redis://:{}@cache:6379/0")
_add("bearer", some(30), "Authorization: Bearer {}")
_add("bearer alone", some(30), "sent bearer {} to it")
_add("bearer, short", some(9), "Bearer {}")
_add("basic", base64.b64encode(b"user:" + some(12).encode()).decode(), "Basic {}")
_add("basic header", base64.b64encode(b"user:" + some(12).encode()).decode(), "authorization: basic {}")
_add("digest header", some(20), "Authorization: Digest response={}")
_add("header pair", some(20), "(b'authorization', b'Bearer {}')")
_add("api key header", some(20), "X-API-Key: {}")
_add("cookie", some(20), "Cookie: session={}; a=b")
_add("fernet key", generate_kek(), "OAUTH_ENCRYPTION_KEY={}")
_add("fernet key, named", generate_kek(), "fernet_key: {}")
_add("secret key", generate_secret_key(), "SECRET_KEY={}")
_add("metrics token", generate_token(), "METRICS_TOKEN='{}'")
_add("password", "hunter22", "password={}")
_add("password, quoted", "correct horse, battery", 'password: "{}"')
_add("password, json", "q7~", '{{"password":"{}"}}')
_add("password, json within json", "hunter 2", '{{\\"password\\": \\"{}\\"}}')
_add("password, json within json within json", "hunter 2", '{{\\\\\\"password\\\\\\": \\\\\\"{}\\\\\\"}}')
_add("token, json within json within json", some(20), '{{\\\\\\"access_token\\\\\\":\\\\\\"{}\\\\\\"}}')
_add("header, json within json within json", some(20), '{{\\\\\\"authorization\\\\\\":\\\\\\"Digest {}\\\\\\"}}')
_add("password, query", some(12), "https://example.com/?user=1&password={}&x=1")


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("around", ["{}", "before {} after", "x={}", '{{"note":"{}"}}', "first\n{}\nlast"])
def test_each_kind_of_credential_is_hidden(name: str, around: str) -> None:
    whole, secret = SAMPLES[name]
    shown = redact_text(around.format(whole))
    assert secret not in shown and HIDDEN in shown
    # Nor is the greater part of it, in one piece.
    assert not any(secret[start : start + 16] in shown for start in range(len(secret) - 15) if len(secret) >= 32)
    assert redact_text(shown) == shown


def test_what_is_around_stays() -> None:
    key = new_api_key("live")
    assert redact_text(f"revoked {key} at noon") == "revoked relay_sk_*** at noon"
    assert redact_text("redis://:secret1@cache:6379/0") == "redis://:***@cache:6379/0"
    assert redact_text(f"GET /x Authorization: Bearer {key}\nHost: h") == "GET /x Authorization: ***\nHost: h"
    assert redact_text("user=1&password=abcdef&x=1") == "user=1&password=***&x=1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "POST /actions/execute 200",
        "attempt att_01JD0000000000000000000000 of email.send is failed: connect_timeout",
        "the API key that asked for this lacks actions:execute now",
        "a key begins with relay_sk_live_ and is shown once",
        "https://relay.example.com:8443/actions?limit=5",
        "the token expired; the secret is old; no password was given",
        "1 of 3 keys end soon: key_01JD0000000000000000000000",
        "2026-11-22T19:16:43.123Z 192.0.2.1 [2001:db8::1]:443",
        "risk-based-decision, task-runner, disk-usage-report",
    ],
)
def test_ordinary_lines_are_left_alone(text: str) -> None:
    assert redact_text(text) == text


FRAGMENTS = [hint for pattern in PATTERNS for hint in pattern.hints] + [
    *("=", ":", '"', "'", "\\", " ", "\n", "@", "//", ".", "-", "_", "a" * 20, "A" * 20, "0" * 20, "relay_sk_live_"),
    *(
        f"{DASHES}BEGIN PRIVATE KEY{DASHES}",
        f"{DASHES}END PRIVATE KEY{DASHES}",
        "***",
        "eyJ",
        "AKIA",
        "Bearer ",
        "%5f",
        "%20",
    ),
]
texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=8)), max_size=30).map("".join),
)


@settings(max_examples=600)
@given(text=texts)
def test_once_is_enough(text: str) -> None:
    shown = redact_text(text)
    assert redact_text(shown) == shown


@settings(max_examples=400)
@given(text=texts)
def test_a_text_without_a_hint_has_no_match(text: str) -> None:
    if not hints_at_secret(text.lower()):
        assert not any(pattern.regex.search(text) for pattern in PATTERNS)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_every_pattern_says_what_it_needs(pattern: Any) -> None:
    found = [whole for whole, _ in SAMPLES.values() if pattern.regex.search(whole)]
    assert found, "no sample shows what it is for"
    assert all(any(hint in whole.lower() for hint in pattern.hints) for whole in found)


WORST = [
    *("eyJ", "eyJa.", "relay_sk_", "relay%5fsk%5f", "://a:", "://", "token", "token=", "token____", "password:\"'"),
    *(
        f"{DASHES}BEGIN PRIVATE KEY{DASHES}",
        f"{DASHES}BEGIN ",
        "bearer ",
        "basic%20",
        "sk-",
        "sk-ant",
        "authorization:",
        "xox",
    ),
    *("cookie", "1//0", "AKIA", "gh", "ghp_", "passwordpwd", "api_key", "aws_secret_access_", "hooks.slack.com/"),
    *(
        "://a:@",
        "ya29.",
        "=",
        '"',
        "'",
        "\\",
        " ",
        "whsec_",
        "secret\t\t\t\t",
        "key key",
        "x-api-key",
        "relay_sk_live_",
    ),
]


@pytest.mark.parametrize("piece", dict.fromkeys([*WORST, *(pattern.hints[0] for pattern in PATTERNS)]))
def test_no_input_takes_more_than_its_length(piece: str) -> None:
    def cpu(length: int) -> float:
        best = float("inf")
        text = "token" + piece * (length // len(piece))
        for _ in range(3):
            began = time.process_time()
            redact_text(text)
            best = min(best, time.process_time() - began)
        return best

    # Sixteen times the length costs about sixteen times as much; what is quadratic costs 256 times.
    assert cpu(64_000) < 80 * max(cpu(4_000), 0.0005)


class _Colour(Enum):
    RED = "password=abcdef"


class _Evil(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWORD", "userPassword", "user_password", "user-password", "user.password", "db password"),
        *("apiKey", "api_key", "API-KEY", "X-API-Key", "apikey", "OPENAI_API_KEY", "secretKey", "SecretAccessKey"),
        *("token", "accessToken", "refresh_token", "csrfToken", "Authorization", "Proxy-Authorization", "Cookie"),
        *("Set-Cookie", "client_secret", "privateKey", "sessionId", "session_id", "webhook-signature", "credential"),
    ],
)
def test_names_of_secrets_are_known_in_every_spelling(name: str) -> None:
    assert names_secret(name)
    assert redact({name: "x"}) == {name: HIDDEN}
    assert redact({"a": [{name: {"deep": ["x", 1]}}]}) == {"a": [{name: HIDDEN}]}
    assert redact([(name, "x")]) == [[name, HIDDEN]]
    assert redact([(name.encode(), b"x")]) == [[name, HIDDEN]]


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "author", "keyboard", "key_id", "monkey", "compass", "status", "request_id", "key", "secretary"],
)
def test_other_names_are_not(name: str) -> None:
    assert redact({name: "x"}) == {name: "x"}


def test_structures_become_plain_data() -> None:
    given = {
        "when": [None, True, 1, 1.5, float("nan"), float("inf"), 2**70],
        "who": SecretStr("x" * 9),
        "bytes": b"password=abcdef \xff",
        "enum": _Colour.RED,
        "object": object(),
        "error": ValueError("password=abcdef"),
        3: {"x"},
        "token": None,
        new_api_key("live"): "as a name",
    }
    found = redact(given)
    assert found == {
        "when": [None, True, 1, 1.5, "nan", "inf", CUT],
        "who": HIDDEN,
        "bytes": "password=*** \\xff",
        "enum": "password=***",
        "object": "<object>",
        "error": "<ValueError>",
        "3": ["x"],
        "token": None,
        "relay_sk_***": "as a name",
    }
    assert json.loads(json.dumps(found)) == found


def test_it_is_bounded_and_never_raises() -> None:
    cycle: dict[str, Any] = {}
    cycle["again"] = [cycle, cycle]
    found = json.dumps(redact(cycle))
    assert CUT in found and found.count("again") < 2**MAX_DEPTH
    wide = redact([list(range(500)) for _ in range(500)])
    assert len(json.dumps(wide)) < 20 * MAX_NODES
    assert len(redact("x" * 1_000_000)) == MAX_TEXT + len(CUT)
    assert redact(_Evil()) == "[unreadable]"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert json.dumps(redact(deep)).count("[") < 2 * MAX_DEPTH


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=30),
        st.binary(max_size=30),
        texts,
        st.just(SecretStr("s3cr3t-value")),
        st.just(object()),
        st.sampled_from(_Colour),
        st.complex_numbers(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner, inner),
        st.dictionaries(
            st.one_of(st.text(max_size=8), st.sampled_from(["password", "apiKey", "n"])), inner, max_size=4
        ),
    ),
    max_leaves=30,
)


@settings(max_examples=300)
@given(value=values)
@example(value=[["password", ["x", "y"]]])
def test_any_structure_becomes_json_and_once_is_enough(value: Any) -> None:
    found = redact(value)
    text = json.dumps(found, allow_nan=False)
    assert "s3cr3t-value" not in text
    assert redact(found) == found


def test_a_known_secret_is_in_no_part_of_what_comes_out() -> None:
    whole = {name: {"note": text, "list": [text, {"x": text.encode()}]} for name, (text, _) in SAMPLES.items()}
    for start in range(0, len(whole), 20):
        part = dict(list(whole.items())[start : start + 20])
        out = json.dumps(redact(part), ensure_ascii=False)
        for name in part:
            secret = SAMPLES[name][1]
            assert len(secret) < 6 or secret not in out, name
