"""Memory that the processes of one ``relay serve --workers N`` share, so that a scrape of any one shows all of them.

Each process counts in a slot of its own. When it dies, however suddenly, its counts stay where they are and the process
that replaces it goes on counting in the same slot: counters never go backwards, and the number of slots never grows.
The memory is anonymous: it is handed to the processes by the one that starts them, has no name that another program
could open, and ends with them.
"""

from collections.abc import Sequence
from multiprocessing.context import BaseContext
from typing import Any, Final

from relay.telemetry.layout import Layout

CAPACITY: Final = 32_768
"""Numbers in one slot, several times what the catalogue needs; 256 KiB."""

_HEAD: Final = 1


class Slots:
    """The slots of a group, made by the process that starts the others with ``context``."""

    def __init__(self, context: BaseContext, number: int) -> None:
        self._arrays = [context.RawArray("d", CAPACITY) for _ in range(number)]
        self._alive = context.RawArray("b", number)

    def slot(self, number: int) -> "Slot":
        """Return one slot, to be given to a process as an argument."""
        return Slot(self._arrays, self._alive, number)

    def vacate(self, number: int) -> None:
        """Note that the process of a slot is gone: its gauges are not shown any more, its counts are."""
        self._alive[number] = 0


class Slot:
    """One process's slot, and sight of the others."""

    def __init__(self, arrays: Sequence[Any], alive: Any, number: int) -> None:
        self._arrays = arrays
        self._alive = alive
        self.number: Final = number

    def attach(self, layout: Layout) -> "memoryview[float]":
        """Return this process's numbers: the counts of its predecessor, and gauges at zero.

        ValueError when the layout does not fit. Counts under another layout, of another version of Relay, are dropped.
        """
        if layout.size + _HEAD > CAPACITY:
            raise ValueError(f"the metrics need {layout.size} numbers and a slot has {CAPACITY - _HEAD}")
        own = _numbers(self._arrays[self.number])
        self._alive[self.number] = 0
        if own[0] != layout.fingerprint:
            own[0] = 0.0
            for at in range(_HEAD, CAPACITY):
                own[at] = 0.0
        for place in layout.places.values():
            if place.metric.kind == "gauge":
                for start in place.index().values():
                    own[_HEAD + start] = 0.0
        own[0] = layout.fingerprint
        self._alive[self.number] = 1
        return own[_HEAD : _HEAD + layout.size]

    def leave(self) -> None:
        """Note that this process ends."""
        self._alive[self.number] = 0

    def counted(self, layout: Layout) -> "list[memoryview[float]]":
        """Return the numbers of every slot that was ever used under this layout."""
        return self._all(layout, range(len(self._arrays)))

    def living(self, layout: Layout) -> "list[memoryview[float]]":
        """Return the numbers of the processes that are alive."""
        return self._all(layout, [number for number, alive in enumerate(self._alive) if alive])

    def _all(self, layout: Layout, numbers: Sequence[int]) -> "list[memoryview[float]]":
        slots = [_numbers(self._arrays[number]) for number in numbers]
        return [slot[_HEAD : _HEAD + layout.size] for slot in slots if slot[0] == layout.fingerprint]


def _numbers(shared: Any) -> "memoryview[float]":
    return memoryview(shared).cast("B").cast("d")
