"""What the tests of rotation share: a rotation on an open house, and a look at every envelope there is."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from relay.crypto.envelope import Envelopes, sealed_with
from relay.house import House
from relay.identity.operator import operator
from relay.rotation.care import Care
from relay.rotation.places import PLACES
from relay.rotation.rotate import Rotation
from relay.store.tables.secrets import secret_keys


def rotation_of(
    house: House, *, wait: float = 30.0, progress: Callable[[str, str], None] = lambda _step, _what: None
) -> Rotation:
    return Rotation(
        house.database,
        house.envelopes,
        house.keyring,
        house.installation,
        principal=operator().id,
        wait=wait,
        progress=progress,
    )


def care_of(house: House, *, period: int, rotates: bool) -> Care:
    return Care(house.database, house.envelopes, house.keyring, rotation_of(house), period=period, rotates=rotates)


async def opened(house: House, envelopes: Envelopes | None = None) -> tuple[int, set[str]]:
    """Open every envelope in every place; return how many there are, and the keys that they name."""
    keys, count, named = envelopes or house.envelopes, 0, set[str]()
    for place in PLACES:
        after: tuple[str, ...] | None = None
        while rows := [place.read(row) for row in await house.database.reader.all(place.page(after, 500))]:
            for row in await house.database.reader.all(place.bodies([one.key for one in rows])):
                one = next(one for one in rows if one.key == tuple(row[:-1]))
                keys.open(bytes(row[-1]), workspace=one.workspace, purpose=one.purpose, record=one.record)
                assert sealed_with(bytes(row[-1])) == one.kek
                named.add(one.kek)
                count += 1
            after = rows[-1].key
    return count, named


async def states(house: House, kind: str) -> dict[str, str]:
    """Return the state of every secret of a kind, by id."""
    rows = await house.database.reader.all(
        select(secret_keys.c.id, secret_keys.c.state).where(secret_keys.c.kind == kind)
    )
    return {row[0]: row[1] for row in rows}


def key_files(folder: Any) -> list[str]:
    """Return the names in the key folder of a data folder."""
    return sorted(path.name for path in (folder / "keys").iterdir())
