"""What the scan takes for a credential. Every credential here is made up when the test runs; none stands in a file."""

import base64
import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.crypto.api_key import new_api_key
from relay.crypto.fingerprint import fingerprint
from relay.scanning import detect, scan
from relay.scanning.formats import OwnFormats
from relay.settings.secret_text import generate_webhook_secret

_rng = random.Random(20)
ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


def _of(alphabet: str, length: int) -> str:
    return "".join(_rng.choice(alphabet) for _ in range(length))


def _jwt() -> str:
    parts = ('{"alg":"HS256","typ":"JWT"}', '{"sub":"1234567890"}', _of(ALNUM, 32))
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


SAMPLES: dict[str, Callable[[], str]] = {
    "ArtifactoryDetector": lambda: "=AKC" + _of(ALNUM, 20),
    "AWSKeyDetector": lambda: "AKIA" + _of(string.ascii_uppercase + string.digits, 16),
    "AzureStorageKeyDetector": lambda: "AccountKey=" + _of(ALNUM, 86) + "==",
    "BasicAuthDetector": lambda: f"https://relay:{_of(ALNUM, 12)}@db.corp.internal/relay",
    "CloudantDetector": lambda: f"cloudant_password = '{_of(HEX, 64)}'",
    "DiscordBotTokenDetector": lambda: f"M{_of(ALNUM, 23)}.{_of(ALNUM, 6)}.{_of(ALNUM, 27)}",
    "GitHubTokenDetector": lambda: "ghp_" + _of(ALNUM, 36),
    "GitLabTokenDetector": lambda: "glpat-" + _of(ALNUM, 20),
    "IbmCloudIamDetector": lambda: f"ibm_cloud_iam_api_key = '{_of(ALNUM, 44)}'",
    "IbmCosHmacDetector": lambda: f"ibm_cos_hmac_secret_access_key = '{_of(HEX, 48)}'",
    "JwtTokenDetector": _jwt,
    "MailchimpDetector": lambda: _of(HEX, 32) + "-us12",
    "NpmDetector": lambda: "//registry/:_auth" + f"Token=npm_{_of(ALNUM, 36)}",
    "OpenAIDetector": lambda: f"sk-{_of(ALNUM, 20)}T3BlbkFJ{_of(ALNUM, 20)}",
    "PrivateKeyDetector": lambda: "-----BEGIN " + "EC PRIVATE KEY-----",
    "PypiTokenDetector": lambda: "pypi-AgEIcHlwaS5vcmc" + _of(ALNUM, 80),
    "SendGridDetector": lambda: f"SG.{_of(ALNUM, 22)}.{_of(ALNUM, 43)}",
    "SlackDetector": lambda: f"xoxb-{_of(string.digits, 12)}-{_of(string.digits, 12)}-{_of(ALNUM, 24)}",
    "SoftlayerDetector": lambda: f"softlayer_api_key = '{_of(HEX, 64)}'",
    "SquareOAuthDetector": lambda: "sq0csp-" + _of(ALNUM, 43),
    "StripeDetector": lambda: "sk_live_" + _of(ALNUM, 24),
    "TelegramBotTokenDetector": lambda: f"{_of('123456789', 9)}:{_of(ALNUM, 35)}",
    "TwilioKeyDetector": lambda: "SK" + _of(HEX, 32),
}
OWN: tuple[Callable[[], str], ...] = (
    lambda: new_api_key("live"),
    generate_webhook_secret,
    lambda: "sk-" + _of(ALNUM, 40),
    lambda: "sk-proj-" + _of(ALNUM, 60),
    lambda: "GOCSPX-" + _of(ALNUM, 28),
    lambda: "AIza" + _of(ALNUM, 35),
    lambda: "ya29." + _of(ALNUM, 60),
    lambda: "github_pat_" + _of(ALNUM, 22) + "_" + _of(ALNUM, 59),
    lambda: "xapp-1-" + _of(string.ascii_uppercase, 11) + "-" + _of(string.digits, 13) + "-" + _of(HEX, 64),
)


def test_every_detector_has_a_sample() -> None:
    assert set(SAMPLES) == set(detect.DETECTORS)
    assert len(OWN) == len(OwnFormats.denylist)


@pytest.mark.parametrize("name", SAMPLES)
def test_each_detector_sees_its_credential_through_the_quick_look(name: str) -> None:
    [detector] = [one for one in detect._detectors() if type(one).__name__ == name]
    for _ in range(5):
        line = SAMPLES[name]()
        [found, *_] = detect.find(f"first\nvalue: {line}\n")
        assert found.line == 2
        assert any(detector.analyze_string(line)), "the sample is not one of this detector's"


@pytest.mark.parametrize("number", range(len(OWN)))
def test_each_format_of_its_own_is_seen(number: int) -> None:
    for _ in range(5):
        line = OWN[number]()
        assert OwnFormats.denylist[number].search(line)
        assert detect.find(f"key={line};")


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_key_is_seen_wherever_it_stands(before: str, after: str) -> None:
    key = new_api_key("live")
    before, after = before.replace("pragma", ""), after.replace("pragma", "")
    found = detect.find(f"{before} {key} {after}")
    assert [one.relay_key for one in found if one.relay_key] == [key]
    assert key not in repr(found) and all(key not in str(one) for one in found)


@pytest.mark.parametrize("place", [0, 8191, 8192, 100_000, 999_900])
def test_a_key_is_seen_in_a_line_of_a_megabyte(place: int) -> None:
    key, filling = new_api_key("live"), "ab, " * 250_000
    [found] = detect.find(f"{filling[:place]} {key} {filling[place:]}")
    assert found.relay_key == key


def test_what_is_no_credential_is_left_alone() -> None:
    key = new_api_key("live")
    harmless = [
        "relay_sk_live_…",
        "sk-proj-YOUR_KEY_HERE",
        "task-abcdefghijklmnopqrstuvwxyz",
        "ab" * 32,
        f"{key}  # pragma: allowlist secret",
        "smtp://user:password@host:587",
        f"postgresql://me:{_of(ALNUM, 12)}@db.example.com/relay",
        f"redis://:{_of(ALNUM, 12)}@127.0.0.1:6379",
        "postgresql://relay:${DB_SECRET}@db/relay",
    ]
    assert detect.find("\n".join(harmless)) == []
    assert detect.find(f"postgresql://me:{_of(ALNUM, 12)}@db.example.com.evil.net/relay")


def test_a_folder_outside_git_is_scanned_whole(tmp_path: Path) -> None:
    keys = [new_api_key("live") for _ in range(4)]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.env").write_text(f"KEY={keys[0]}\n")
    (tmp_path / "wide.txt").write_bytes(f"\n{keys[1]}".encode("utf-16"))
    (tmp_path / "relay.db").write_bytes(b"SQLite format 3\0" + keys[2].encode() + b"\0\xff")
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe\xfd" + keys[3].encode())
    (tmp_path / "twice").symlink_to("wide.txt")
    report = scan.scan_path(tmp_path)
    found = {finding.path: (finding.line, finding.relay_key) for finding in report.findings}
    assert found["a/.env"] == (1, keys[0]) and found["wide.txt"] == (2, keys[1])
    assert found["relay.db"] == (1, keys[2])
    assert report.scanned == 5 and report.left_out == []


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("before", [b"", b"\xff\xfe", b"\xfe\xff", b"x" * 70_000 + b"\n"])
def test_a_key_is_seen_in_every_encoding(tmp_path: Path, encoding: str, before: bytes) -> None:
    (tmp_path / "notes").write_bytes(before + f"key: {(key := new_api_key('live'))}\n".encode(encoding))
    [finding] = scan.scan_path(tmp_path).findings
    assert finding.relay_key == key and finding.line == 1 + before.count(b"\n")


def test_what_cannot_be_scanned_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LARGEST", 10)
    (tmp_path / "large").write_text("x" * 11)
    (tmp_path / "gone").symlink_to("nowhere")
    report = scan.scan_path(tmp_path)
    assert [line.partition(":")[0] for line in report.left_out] == ["large"]


def test_a_fingerprint_that_is_allowed_is_left_alone(tmp_path: Path) -> None:
    key, other = new_api_key("live"), new_api_key("live")
    (tmp_path / "notes").write_text(f"{key}\n{other}\n")
    (tmp_path / scan.ALLOW_FILE).write_text(f"# ours\n{fingerprint(key)}  # a sample\n\n")
    assert [finding.relay_key for finding in scan.scan_path(tmp_path).findings] == [other]
