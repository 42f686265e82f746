"""Relay's own endpoints, out of its settings."""

import pytest

from relay.egress.own import Endpoint, own_endpoints

CASES = {
    "sqlite+aiosqlite:////data/relay.db": set(),
    "postgresql://u:p@db.internal/relay": {("db.internal", 5432)},
    "postgresql+psycopg://u:p@DB:6543/relay": {("db", 6543)},
    "postgresql://u:p%40x@[fd00::5]:5433/relay": {("fd00::5", 5433)},
    "postgresql://u@a:1,b:2/relay": {("a", 1), ("b", 2)},
    "postgresql://u@/relay?host=a,b&port=1": {("0.0.0.0", 1), ("a", 1), ("b", 1)},
    "postgresql:///relay?host=/run/postgresql": {("0.0.0.0", 5432)},
    "postgresql://n/relay?hostaddr=10.0.0.9": {("n", 5432), ("10.0.0.9", 5432)},
}


@pytest.mark.parametrize("url", CASES)
def test_database(url: str) -> None:
    found = own_endpoints(listen=("127.0.0.1", 8000), database_url=url)
    assert {(own.host, own.port) for own in found} == {("127.0.0.1", 8000)} | CASES[url]


def test_redis_and_a_listener_on_all_addresses() -> None:
    found = own_endpoints(listen=("", 80), redis_url="rediss://:secret@cache:6380/0")
    assert found == (Endpoint("0.0.0.0", 80), Endpoint("cache", 6380))
    assert Endpoint("0.0.0.0", 6379) in own_endpoints(listen=("::1", 80), redis_url="unix:///run/redis.sock")
    assert Endpoint("127.0.0.1", 6379) in own_endpoints(listen=("::1", 80), redis_url="redis://127.0.0.1")


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@h:port/x", "postgresql://u:hunter2@[::1/x"])
def test_a_malformed_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL") as raised:
        own_endpoints(listen=("127.0.0.1", 1), database_url=url)
    assert "hunter2" not in str(raised.value)
