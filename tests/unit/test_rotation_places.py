"""Rotation knows every column that holds an envelope, and walks each in bounded steps."""

import pytest
from sqlalchemy import Column, LargeBinary, Table, Text

from relay.rotation import places
from relay.store.tables import metadata


def test_every_binary_column_is_registered() -> None:
    assert places.unregistered() == []


def test_a_new_binary_column_is_found() -> None:
    planted = Table("planted", metadata, Column("id", Text, primary_key=True), Column("secret", LargeBinary))
    try:
        assert places.unregistered() == ["planted.secret"]
    finally:
        metadata.remove(planted)


@pytest.mark.parametrize("place", places.PLACES, ids=lambda place: place.table.name)
def test_a_page_is_bounded_and_ordered_by_the_primary_key(place: places.Place) -> None:
    text = str(place.page(None, 10))
    keys = [column.name for column in place.table.primary_key.columns]
    assert "LIMIT" in text
    assert f"ORDER BY {', '.join(f'{place.table.name}.{name}' for name in keys)}" in text
