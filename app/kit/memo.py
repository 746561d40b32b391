"""Remembers answers within a bound."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(Generic[K, V]):
    """At most `size_max` answers. When it is full it begins anew: cheaper than to know what was used last."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._known: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: K) -> V | None:
        """What is remembered of `key`."""
        return self._known.get(key)

    def keep(self, key: K, value: V) -> V:
        """Remember `value`, and return it."""
        if len(self._known) >= self._size_max:
            self._known.clear()
        self._known[key] = value
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
