"""The mail as bytes, and what is not accepted into one."""

import base64
from email import message_from_string, policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relay.connectors.email import MAX_BYTES, SendMail, compose, digest_form, redact
from relay.core.ids import id_milliseconds, new_id
from relay.crypto.digest import sha256_hex
from relay.egress.mail import check_address, has_invisible

NONCE = new_id("nce")
FROM = "relay@example.com"
FILE = {"name": "a.txt", "type": "text/plain", "data": base64.b64encode(b"one\ntwo\r\n\0").decode()}


def mail(**given: Any) -> SendMail:
    return SendMail.model_validate({"to": ["to@example.com"], "subject": "Hello", "text": "Hi", **given})


def parsed(params: SendMail) -> EmailMessage:
    message = message_from_string(compose(params, NONCE, FROM).data.decode(), policy=policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert part.defects == []
    return message


def test_the_same_step_gives_the_same_bytes_and_another_step_does_not() -> None:
    params = mail(html="<p>Hi</p>", attachments=[FILE, FILE])
    again = SendMail.model_validate_json(params.model_dump_json())
    assert compose(params, NONCE, FROM) == compose(again, NONCE, FROM)
    assert compose(params, new_id("nce"), FROM).message_id != compose(params, NONCE, FROM).message_id


def test_headers_and_parts() -> None:
    params = mail(cc=["cc@example.com"], bcc=["bcc@example.com"], html="<p>Hi</p>", attachments=[FILE])
    message = parsed(params)
    assert (message["From"], message["To"], message["Cc"], message["Subject"]) == (
        FROM, "to@example.com", "cc@example.com", "Hello",
    )  # fmt: skip
    assert int(message["Date"].datetime.timestamp()) == id_milliseconds(NONCE) // 1000
    assert message["Message-ID"].endswith("@example.com>")
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None and text.get_content() == "Hi\r\n"
    assert html is not None and html.get_content() == "<p>Hi</p>\r\n"
    (file,) = message.iter_attachments()
    assert file.get_filename() == "a.txt"
    assert file.get_payload(decode=True) == b"one\ntwo\r\n\0"


def test_bcc_stands_nowhere_in_the_message() -> None:
    data = compose(mail(bcc=["hidden@example.com"]), NONCE, FROM).data
    assert b"hidden" not in data and b"\nbcc" not in data.lower()
    assert parsed(mail(to=[], bcc=["hidden@example.com"]))["To"] == "undisclosed-recipients:;"


def test_seven_bits_crlf_and_short_lines() -> None:
    data = compose(mail(subject="Grüße " * 40, text="ü" * 2000, html="x" * 2000, attachments=[FILE]), NONCE, FROM).data
    assert data.isascii()
    lines = data.split(b"\r\n")
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert max(map(len, lines)) <= 998


HEADERS = "From To Subject Date Message-ID MIME-Version Content-Type Content-Transfer-Encoding".split()
LINE = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"]), max_size=120)


@given(subject=LINE, text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_what_is_read_is_what_was_written(subject: str, text: str) -> None:
    message = parsed(mail(subject=subject, text=text))
    assert sorted(message) == sorted(HEADERS)
    assert "".join(message["Subject"].split()) == "".join(subject.split())
    assert message.get_content().encode().splitlines() == (text.encode().splitlines() or [b""])


@pytest.mark.parametrize(
    "name", ["a.pdf", "résumé.pdf", 'quo"te.txt', "se;mi=colon.txt", "日本.txt", "a" * 200, "x y.txt"]
)
def test_file_names_survive(name: str) -> None:
    (file,) = parsed(mail(attachments=[{**FILE, "name": name}])).iter_attachments()
    assert file.get_filename() == name


@pytest.mark.parametrize("address", ["a@b", "a.b+c@example.com", "A@EXAMPLE.com", "jürgen@exämple.com", "o'x@e-x.com"])
def test_addresses(address: str) -> None:
    local, _, domain = address.partition("@")
    assert check_address(address) == f"{local}@{domain.lower()}"
    assert parsed(mail(to=[address], cc=[address]))["To"].addresses[0].addr_spec == f"{local}@{domain.lower()}"


@pytest.mark.parametrize(
    "address",
    ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b c", "<a@b>", "A <a@b>", "a@b, c@d", "a@b;c@d", '"a"@b',
     "a@[127.0.0.1]", ".a@b", "a.@b", "a..b@c", "a@.b", "a@b.", "a@-b", "a@b\r\nBcc: c@d", "a@b\n", "a\0@b", "a@b(c)",
     "a\u202e@b",
     "a\u200b@b", "a＠b.c@d.e", "a\u2028@b", "a@b\u00a0c", "a" * 65 + "@b", "a@" + "b." * 130 + "c"],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused(address: str) -> None:
    for field in ("to", "cc", "bcc"):
        with pytest.raises(ValidationError):
            mail(**{field: [address]})


@given(st.text(max_size=30))
def test_no_accepted_address_holds_a_second_one(text: str) -> None:
    try:
        address = check_address(text)
    except ValueError:
        return
    assert address.count("@") == 1 and not set(address) & set(' ,;:<>()[]"\\\r\n')
    assert not has_invisible(address)


@pytest.mark.parametrize(
    "subject", ["a\r\nBcc: x@y", "a\nb", "a\0", "\u202eabc", "a\u2066b", "a\x85b", "a\u2028b", "x" * 501]
)
def test_subjects_that_hide_something_are_refused(subject: str) -> None:
    with pytest.raises(ValidationError):
        mail(subject=subject)


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "=?utf-8?q?Invoice=0d=0aReply-To:_thief@evil.example?="},
        {"subject": "Re: =?utf-8?b?4oCu?= gnp.exe"},
        {"to": ["=?utf-8?q?evil=40evil.example=2C?=@example.com"]},
        {"cc": ["=?utf-8?q?a=0d=0aBcc=3Aevil?=@example.com"]},
        {"attachments": [FILE | {"name": "=?utf-8?q?a=0d=0aX-Evil:1?=.txt"}]},
    ],
)
def test_encoded_words_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        mail(**change)


def test_question_marks_and_equals_signs_are_no_encoded_words() -> None:
    for subject in ("2+2=?", "Is a=b?", "a?=b", "=??"):
        assert parsed(mail(subject=subject))["Subject"] == subject


@pytest.mark.parametrize(
    "change",
    [{"subject": "a" * 501}, {"to": ["a." * 127 + "b@example.com"]}, {"attachments": [FILE | {"name": "a" * 201}]}],
)
def test_what_is_too_long_is_not_looked_at_character_by_character(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(text: str) -> bool:
        raise AssertionError(f"{len(text)} characters were looked at")

    for place in ("relay.connectors.email.has_invisible", "relay.egress.mail.has_invisible"):
        monkeypatch.setattr(place, lambda text: len(text) > 200 and never(text))
    with pytest.raises(ValidationError, match="at most"):
        mail(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"}, {"name": "..\\b"}, {"name": ".."}, {"name": ""}, {"name": "a\r\nX: y"},
        {"name": "txt.\u202eexe"},
        {"name": "a" * 201}, {"type": "text"}, {"type": "text/plain; x=y"}, {"type": "multipart/mixed"},
        {"type": "message/rfc822"}, {"type": "text/plain\r\nX: y"}, {"data": "!"}, {"data": "AAA"}, {"data": "AA\nAA"},
        {"data": "ä"}, {"extra": 1},
    ],
)  # fmt: skip
def test_malformed_attachments_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        mail(attachments=[{**FILE, **change}])


def test_recipients_are_counted_together() -> None:
    addresses = [f"a{number}@example.com" for number in range(101)]
    assert len(mail(to=addresses[:50], cc=addresses[50:80], bcc=addresses[80:100]).recipients()) == 100
    with pytest.raises(ValidationError, match="recipients"):
        mail(to=addresses[:50], cc=addresses[50:80], bcc=addresses[80:101])
    with pytest.raises(ValidationError, match="recipients"):
        mail(to=[])
    assert mail(to=["a@b", "a@B"], cc=["a@b"]).recipients() == ["a@b"]


def test_size_is_counted_together() -> None:
    half = MAX_BYTES // 2
    data = base64.b64encode(b"x" * (half - 1)).decode()
    assert mail(text="y" * half, html="z", attachments=[{**FILE, "data": data}]).size() == MAX_BYTES
    with pytest.raises(ValidationError, match="10 MiB"):
        mail(text="y" * half, html="zz", attachments=[{**FILE, "data": data}])


@given(st.binary(max_size=50))
def test_the_size_of_an_attachment_is_that_of_its_bytes(content: bytes) -> None:
    params = mail(text="", attachments=[{**FILE, "data": base64.b64encode(content).decode()}])
    assert params.size() == len(content)


def test_a_mail_says_something() -> None:
    with pytest.raises(ValidationError, match="text or html"):
        mail(text=None)
    assert parsed(mail(text=None, html="<p>x</p>")).get_content_type() == "text/html"


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_is_no_text_is_refused(text: str) -> None:
    for field in ("text", "html"):
        with pytest.raises(ValidationError):
            mail(**{field: text})


def test_attachments_are_described_in_redaction_and_digest() -> None:
    params = mail(attachments=[FILE])
    described = {"name": "a.txt", "type": "text/plain", "size": 10, "sha256": sha256_hex(b"one\ntwo\r\n\0")}
    assert redact(params)["attachments"] == digest_form(params)["attachments"] == [described]
    other = mail(attachments=[{**FILE, "data": base64.b64encode(b"other").decode()}])
    assert digest_form(params) != digest_form(other)
    assert FILE["data"] not in repr(params)
