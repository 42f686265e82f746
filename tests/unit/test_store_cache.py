from relay.store.cache import GenerationCache
from relay.store.generation import Generation


def make(max_entries: int = 3) -> tuple[Generation, GenerationCache[str]]:
    generation = Generation()
    return generation, GenerationCache(generation, max_entries)


def test_an_entry_holds_until_the_generation_moves():
    generation, cache = make()
    cache.put("a", "1", generation.current())
    assert cache.get("a") == "1"
    generation.changed()
    assert cache.get("a") is None


def test_an_old_entry_does_not_come_back_with_a_new_one():
    generation, cache = make()
    cache.put("a", "1", generation.current())
    generation.changed()
    cache.put("b", "2", generation.current())
    assert cache.get("b") == "2"
    assert cache.get("a") is None


def test_what_was_looked_up_before_a_change_is_not_kept():
    generation, cache = make()
    before = generation.current()
    generation.changed()
    cache.put("a", "stale", before)
    assert cache.get("a") is None and len(cache) == 0


def test_nothing_is_given_or_kept_while_the_generation_is_unknown():
    generation, cache = make()
    cache.put("a", "1", generation.current())
    generation._fresh_until = 0.0
    assert generation.current() is None
    assert cache.get("a") is None
    cache.put("b", "2", None)
    cache.put("b", "2", 0)
    generation._fresh_until = float("inf")
    assert cache.get("b") is None


def test_it_is_bounded_and_the_oldest_makes_room():
    generation, cache = make(max_entries=3)
    for number in range(10):
        cache.put(str(number), "x", generation.current())
    assert len(cache) == 3
    assert cache.get("9") == "x" and cache.get("6") is None
    cache.put("9", "y", generation.current())
    assert len(cache) == 3 and cache.get("9") == "y" and cache.get("7") == "x"
