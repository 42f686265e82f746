"""Honey actions: they look like any other and are never run. Whoever asks for one loses the credential.

Their names are the operator's choice: a trap whose name stood in the source would be known to everybody.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from relay.catalog import CatalogError, Connector, Rendering
from relay.core.action import Step
from relay.core.permit import Permit, PermitRefused


class Wanted(BaseModel):
    """What is wanted, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=200, description="Which one; `*` for every one.")]
    format: Annotated[Literal["json", "csv"], Field(description="How the result is written.")] = "json"
    include_archived: Annotated[bool, Field(description="Whether archived entries are included.")] = False


class Given(BaseModel):
    """What came of it."""

    count: int
    content: str


def honey_connectors(names: Iterable[str]) -> list[Connector]:
    """Return a connector for each first part of these names, with an action for each name.

    :class:`~relay.catalog.CatalogError` for a name that can be none, or that is there twice.
    """
    connectors: dict[str, Connector] = {}
    for name in names:
        place, _, what = name.partition(".")
        if not what:
            raise CatalogError(f"{name!r} is malformed: it must read like place.action_name")
        _declare(connectors.setdefault(place, Connector(place)), name, summary_of(place, what))
    return list(connectors.values())


def summary_of(place: str, what: str) -> str:
    """Return what an action would seem to do: “Export credentials of the vault.” for ``vault.export_credentials``."""
    verb, _, rest = what.rpartition(".")[2].partition("_")
    things = f"{rest.replace('_', ' ')} of the {place}" if rest else f"the {place}"
    return f"{verb.capitalize()} {things}."


def _declare(connector: Connector, name: str, summary: str) -> None:
    def render(step: Step, client: None) -> Rendering:
        return Rendering(summary=summary, body=step.params.model_dump(mode="json"))

    async def never(permit: Permit, params: Wanted, client: None) -> Given:
        _refuse(name)

    never.__doc__ = summary
    connector.action(name, effect="write", render=render, honey=True)(never)


def _refuse(name: str) -> NoReturn:
    raise PermitRefused(f"{name} is never run")
