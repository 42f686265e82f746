"""What the operator's settings say about policies."""

from collections.abc import Iterable

from relay.catalog import ActionSpec
from relay.core.principal import CHAT_ID
from relay.policy.actors import Services
from relay.policy.check import PolicyRefused, policy_schema
from relay.policy.reach import Reach
from relay.policy.schema import CatalogSchema
from relay.policy.text import MAX_BYTES
from relay.settings import Settings, SettingsError


def installed_schema(catalog: Iterable[ActionSpec], settings: Settings) -> CatalogSchema:
    """Return the schema of the catalogue with the operator's baseline; :class:`SettingsError` when that is refused."""
    try:
        return policy_schema(catalog, _baseline(settings))
    except PolicyRefused as refused:
        raise SettingsError(
            [
                f"POLICY_BASELINE_FILE: line {found.line}, column {found.column}: {found.reason}"
                for found in refused.problems
            ]
        ) from None


def installed_reach(settings: Settings) -> Reach:
    """Return what is internal; ValueError for an entry of EGRESS_ALLOW that cannot be."""
    return Reach(settings.internal_domains, settings.egress_allow)


def installed_services(settings: Settings) -> Services:
    """Return the services, whether their doors are open or not: what has been shut may still have to be stopped."""
    return {CHAT_ID: settings.chat_workspace}


def _baseline(settings: Settings) -> str:
    if settings.policy_baseline_file is None:
        return ""
    try:
        with settings.policy_baseline_file.open("rb") as file:
            return file.read(MAX_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"POLICY_BASELINE_FILE: cannot be read as text ({type(error).__name__})"]) from None
