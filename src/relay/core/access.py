"""What a route declares about itself; there is no default."""

from dataclasses import dataclass
from typing import Literal

from relay.core.principal import Scope

Auth = Literal["bearer", "session", "signature", "state", "operator", "public"]
Door = Literal["chat"]
"""A way in beside API keys. It opens routes that name it, and of these only such as ask for the scope of its name."""


@dataclass(frozen=True, slots=True)
class Access:
    """A route's declaration: how it authenticates, every scope it needs, its limits, its audit tag.

    ``limits`` names rules of the limit table, besides those that hold for every request, or ``unlimited`` to be exempt
    from these as well. ``tag`` reads ``source:subject:action``. ``doors`` are what opens
    the route besides API keys, where the installation has it.
    """

    auth: Auth
    scopes: frozenset[Scope]
    limits: tuple[str, ...]
    tag: str
    doors: frozenset[Door] = frozenset()

    def __post_init__(self) -> None:
        if self.auth in ("public", "signature", "operator") and self.scopes:
            raise ValueError(f"a {self.auth} route cannot ask for scopes: nobody who calls it has any")
        if self.doors and (self.auth != "bearer" or not self.doors <= self.scopes):
            raise ValueError("a door opens routes that take API keys and ask for the scope of its name")
        if self.tag.count(":") != 2 or not all(self.tag.split(":")):
            raise ValueError(f"the audit tag {self.tag!r} must read source:subject:action")
