"""What every command shares: settings, an open house, and one-line errors."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from relay.core.problem import Problem
from relay.settings import Settings, SettingsError, load_settings
from relay.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from relay.house import House

T = TypeVar("T")


def fail(message: str, status: int = 1) -> NoReturn:
    """Print a message to standard error and end with an exit status."""
    typer.echo(message, err=True)
    raise typer.Exit(status)


def settings_or_exit(overrides: Mapping[str, str] | None = None) -> Settings:
    """Return the settings, or end with status 1 and one line for each thing to put right."""
    try:
        return load_settings(overrides=overrides)
    except SettingsError as error:
        refuse(error)


def refuse(error: SettingsError) -> NoReturn:
    """End with status 1 and one line for each thing to put right."""
    lines = "\n".join(f"  {problem}" for problem in error.problems)
    fail(f"relay does not start like this:\n{lines}")


def with_house(function: "Callable[[House], Awaitable[T]]", *, create: bool = False) -> T:
    """Open the installation, also beside a running server, run ``function`` on it and return its result.

    One that does not exist yet is made with ``create`` only. Ends with status 1 and one line when the settings are
    refused, the database does not answer or a problem says no.
    """
    from relay.house import NoInstallation, open_house
    from relay.store.writer import StoreUnavailable

    settings = settings_or_exit()
    configure_logging("warning")

    async def run() -> T:
        async with open_house(settings, create=create) as house:
            return await function(house)

    try:
        return asyncio.run(run())
    except SettingsError as error:
        refuse(error)
    except NoInstallation as error:
        fail(str(error))
    except StoreUnavailable as error:
        fail(f"the database cannot be used: {error}")
    except Problem as problem:
        fail(problem.detail)
