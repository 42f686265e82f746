import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.problem import Unauthenticated
from relay.identity.credentials import MAX_HEADER_BYTES, credential_from

A, B = b"relay_sk_test_aaaa", b"relay_sk_test_bbbb"
AUTH, KEY = b"authorization", b"x-api-key"


@pytest.mark.parametrize(
    "headers",
    [
        [(AUTH, b"Bearer " + A)],
        [(AUTH, b"bearer " + A)],
        [(AUTH, b"BEARER   " + A + b" ")],
        [(b"Authorization", b"Bearer " + A)],
        [(KEY, A)],
        [(b"X-API-Key", b" " + A + b"\t")],
        [(AUTH, b"Bearer " + A), (KEY, A)],
        [(KEY, A), (b"host", b"localhost"), (AUTH, b"Bearer " + A)],
    ],
)
def test_one_credential_is_found(headers):
    assert credential_from(headers) == A.decode()


@pytest.mark.parametrize("headers", [[], [(b"host", b"x"), (b"x-api-keys", A), (b"proxy-authorization", A)]])
def test_no_credential_is_none(headers):
    assert credential_from(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(AUTH, b"Bearer " + A), (KEY, B)], id="two different keys"),
        pytest.param([(AUTH, b"Bearer " + A), (KEY, b"")], id="a key and an empty one"),
        pytest.param([(AUTH, b"Bearer " + A), (AUTH, b"Bearer " + B)], id="two Authorization lines"),
        pytest.param([(AUTH, b"Bearer " + A), (b"Authorization", b"Bearer " + A)], id="the same line twice"),
        pytest.param([(AUTH, b""), (AUTH, b"Bearer " + A)], id="an empty line before"),
        pytest.param([(KEY, A), (KEY, A)], id="two X-API-Key lines"),
        pytest.param([(AUTH, b"Basic " + A)], id="another scheme"),
        pytest.param([(AUTH, b"Basic " + A), (KEY, A)], id="another scheme beside a good key"),
        pytest.param([(AUTH, A)], id="no scheme"),
        pytest.param([(AUTH, b"Bearer")], id="scheme alone"),
        pytest.param([(AUTH, b"Bearer ")], id="scheme and space"),
        pytest.param([(AUTH, b"Bearer\t" + A)], id="tab after the scheme"),
        pytest.param([(AUTH, b"Bearer:" + A)], id="colon after the scheme"),
        pytest.param([(AUTH, b"Bearer " + A + b" " + B)], id="two tokens"),
        pytest.param([(AUTH, b"Bearer " + A + b",Bearer")], id="folded lines"),
        pytest.param([(AUTH, b"Bearer " + A + b"\x00")], id="NUL"),
        pytest.param([(AUTH, b"Bearer " + A + b"\xc3\xa9")], id="not ASCII"),
        pytest.param([(AUTH, b"Bearer\xa0" + A)], id="no-break space"),
        pytest.param([(KEY, b"")], id="empty X-API-Key"),
        pytest.param([(KEY, b"Bearer " + A)], id="scheme in X-API-Key"),
        pytest.param([(AUTH, b"Bearer " + b"a" * MAX_HEADER_BYTES)], id="too long"),
        pytest.param([(KEY, b"a" * (MAX_HEADER_BYTES + 1))], id="too long X-API-Key"),
        pytest.param([(AUTH, b" " * 1_000_000)], id="a megabyte of spaces"),
    ],
)
def test_ambiguous_and_malformed_credentials_are_refused(headers):
    with pytest.raises(Unauthenticated) as refusal:
        credential_from(headers)
    problem = refusal.value
    assert problem.status == 401 and problem.headers["WWW-Authenticate"].startswith("Bearer ")
    assert "relay_sk_test" not in problem.detail


_names = st.one_of(st.sampled_from([AUTH, KEY, b"Authorization", b"X-API-KEY", b"cookie"]), st.binary(max_size=20))
_values = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda tail: b"Bearer " + tail),
    st.sampled_from([A, B, b"Bearer " + A, b"bEaReR " + B]),
)


@given(st.lists(st.tuples(_names, _values), max_size=5))
@example([(AUTH, b"Bearer \xff")])
def test_whatever_the_bytes_it_finds_refuses_or_returns_none(headers):
    presented = [value for name, value in headers if name.lower() in (AUTH, KEY)]
    try:
        found = credential_from(headers)
    except Unauthenticated:
        assert presented
        return
    if found is None:
        assert not presented
        return
    # Every header that speaks of a credential speaks of this one.
    assert 1 <= len(presented) <= 2
    assert all(value.strip(b" \t").rpartition(b" ")[2] == found.encode() for value in presented)
    assert all(0x21 <= character <= 0x7E and character != ord(",") for character in found.encode())
