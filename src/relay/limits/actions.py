"""The operator's limits of actions, in place of those that the actions declare."""

from relay.catalog import Catalog, CatalogError
from relay.core.limit import Limit
from relay.settings import Settings, SettingsError


def limit_actions(catalog: Catalog, settings: Settings) -> None:
    """Put them into the catalogue. :class:`SettingsError` for an action that there is not, or what it cannot have."""
    limits: dict[str, list[Limit]] = {}
    for name, count, seconds in settings.rate_limit_actions:
        limits.setdefault(name, []).append(Limit(count, seconds))
    try:
        for name, given in limits.items():
            catalog.limit(name, limits=tuple(given))
    except CatalogError as error:
        raise SettingsError([f"RATE_LIMIT_ACTIONS: {error}"]) from None
    try:
        for name, places in settings.concurrency_actions:
            catalog.limit(name, concurrency=places)
    except CatalogError as error:
        raise SettingsError([f"CONCURRENCY_ACTIONS: {error}"]) from None
