from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.facts import RequestFacts
from relay.core.principal import SCOPES
from relay.identity.dev import DevFacts, dev_facts, dev_principal_for
from relay.settings import load_settings

GOOD = DevFacts(
    enabled=True,
    env="local",
    bind="127.0.0.1",
    trusted_proxies=False,
    public_url_host=None,
    peer="127.0.0.1",
    hosts=(b"localhost:8000",),
    header_names=frozenset({b"host", b"user-agent", b"content-type"}),
)


def with_header(*names: str) -> DevFacts:
    return replace(GOOD, header_names=GOOD.header_names | {name.encode() for name in names})


def test_the_person_dev_holds_every_scope_of_workspace_default():
    dev = dev_principal_for(GOOD)
    assert dev is not None
    assert (dev.id, dev.kind, dev.workspace_id, dev.credential_id) == ("dev", "person", "default", "dev")
    assert dev.scopes == frozenset(SCOPES) and dev.auth_method == "dev"


@pytest.mark.parametrize(
    "facts",
    [
        replace(GOOD, bind="::1", peer="::1", hosts=(b"[::1]:8000",)),
        replace(GOOD, hosts=(b"127.0.0.1",)),
        replace(GOOD, hosts=(b"LOCALHOST",)),
        replace(GOOD, peer="127.9.9.9"),
        replace(GOOD, public_url_host="localhost"),
        replace(GOOD, fetch_sites=(b"same-origin",)),
        replace(GOOD, fetch_sites=(b"none",)),
    ],
)
def test_every_form_of_loopback_will_do(facts):
    assert dev_principal_for(facts) is not None


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(replace(GOOD, enabled=False), id="the mode is off"),
        pytest.param(replace(GOOD, enabled="true"), id="a text is not a switch"),
        pytest.param(replace(GOOD, env="production"), id="production"),
        pytest.param(replace(GOOD, env="test"), id="test"),
        pytest.param(replace(GOOD, bind="0.0.0.0"), id="bound to everything"),
        pytest.param(replace(GOOD, bind="192.168.1.5"), id="bound to the network"),
        pytest.param(replace(GOOD, trusted_proxies=True), id="proxies"),
        pytest.param(replace(GOOD, public_url_host="relay.example.com"), id="public URL"),
        pytest.param(replace(GOOD, public_url_host=""), id="public URL without host"),
        pytest.param(replace(GOOD, peer="192.168.1.9"), id="peer in the network"),
        pytest.param(replace(GOOD, peer=""), id="unknown peer"),
        pytest.param(replace(GOOD, peer="localhost"), id="a name is no peer"),
        pytest.param(replace(GOOD, hosts=()), id="no Host"),
        pytest.param(replace(GOOD, hosts=(b"localhost", b"localhost")), id="two Hosts"),
        pytest.param(replace(GOOD, hosts=(b"relay.example.com",)), id="rebound name"),
        pytest.param(replace(GOOD, hosts=(b"127.0.0.1.example.com",)), id="a name that begins like loopback"),
        pytest.param(replace(GOOD, hosts=(b"localhost.example.com:8000",)), id="a name that begins like localhost"),
        pytest.param(replace(GOOD, hosts=(b"example.com#localhost",)), id="fragment"),
        pytest.param(replace(GOOD, hosts=(b"user@localhost",)), id="user"),
        pytest.param(replace(GOOD, hosts=(b"localhost, example.com",)), id="two in one"),
        pytest.param(replace(GOOD, hosts=(b"",)), id="empty Host"),
        pytest.param(replace(GOOD, hosts=(b"0.0.0.0:8000",)), id="unspecified Host"),
        pytest.param(replace(GOOD, hosts=(b"[::]:8000",)), id="unspecified Host, IPv6"),
        pytest.param(replace(GOOD, fetch_sites=(b"cross-site",)), id="another site"),
        pytest.param(replace(GOOD, fetch_sites=(b"same-site",)), id="another port of this machine"),
        pytest.param(replace(GOOD, fetch_sites=(b"none", b"cross-site")), id="two answers"),
        *(
            pytest.param(with_header(name), id=name)
            for name in (
                "origin authorization x-api-key proxy-authorization cookie forwarded x-forwarded-for x-forwarded-host "
                "x-forwarded-proto x-forwarded x-forwarded-by x-real-ip via x-client-ip x-cluster-client-ip client-ip "
                "true-client-ip cf-connecting-ip fastly-client-ip fly-client-ip x-envoy-external-address "
                "x-original-forwarded-for x-original-host"
            ).split()
        ),
    ],
)
def test_each_condition_alone_shuts_the_door(facts):
    assert dev_principal_for(facts) is None


ENVIRONMENT = {"RELAY_ENV": "local", "DEV_AUTH_MODE": "true"}


def facts_of(headers, *, client="127.0.0.1", tmp_path, **environment):
    variables = {**ENVIRONMENT, "RELAY_DATA_DIR": str(tmp_path), **environment}
    settings = load_settings(variables, tmp_path)
    request = RequestFacts("req_1", client, "GET", headers, peer=client)
    return dev_facts(settings, request, enabled=settings.dev_auth_mode)


def test_facts_are_gathered_from_settings_and_request(tmp_path):
    good = [(b"Host", b"localhost:8000"), (b"accept", b"*/*")]
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path)) is not None
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path, DEV_AUTH_MODE="false")) is None
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path, RELAY_ENV="production")) is None
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path, RELAY_HOST="0.0.0.0")) is None
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path, TRUSTED_PROXIES="10.0.0.0/8")) is None
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path, RELAY_PUBLIC_URL="https://relay.example.com")) is None
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path, RELAY_PUBLIC_URL="http://localhost:8000")) is not None
    assert dev_principal_for(facts_of(good, tmp_path=tmp_path, client="10.1.2.3")) is None
    for name in (b"Origin", b"X-Forwarded-For", b"Via", b"Authorization"):
        assert dev_principal_for(facts_of([*good, (name, b"x")], tmp_path=tmp_path)) is None
    assert dev_principal_for(facts_of([*good, (b"Sec-Fetch-Site", b"cross-site")], tmp_path=tmp_path)) is None


@given(st.binary(max_size=40))
def test_a_host_header_is_judged_whatever_its_bytes(value):
    allowed = dev_principal_for(replace(GOOD, hosts=(value,))) is not None
    if allowed:
        name = value.decode("ascii").lower()
        assert name.startswith(("localhost", "127.", "[")) or ".localhost" in name or "localhost." in name
