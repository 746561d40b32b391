"""Token buckets in memory, by name and within a bound of names: one that is forgotten begins full again."""

from collections import OrderedDict


class Buckets:
    """All of one capacity and refill. Of each only the instant is kept at which, left alone, it is full."""

    def __init__(self, capacity: float, refill_per_second: float, names_max: int) -> None:
        self._capacity = capacity
        self._refill = refill_per_second
        self._names_max = names_max
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: str, now: float, tokens: float = 1.0) -> bool:
        """Take that many, if there are as many."""
        full_at = max(self._full_at.get(name, now), now)
        after = full_at + tokens / self._refill
        is_enough = (after - now) * self._refill <= self._capacity + 1e-6
        # One that is refused is remembered as well, else asking on and on would be a way to be forgotten.
        self._full_at[name] = after if is_enough else full_at
        self._full_at.move_to_end(name)
        if len(self._full_at) > self._names_max:
            self._full_at.popitem(last=False)
        return is_enough

    def give_back(self, name: str, tokens: float = 1.0) -> None:
        """What was taken was not needed."""
        if name in self._full_at:
            self._full_at[name] -= tokens / self._refill

    def wait(self, name: str, now: float, tokens: float = 1.0) -> float:
        """Seconds until that many are there."""
        held = self._capacity - max(self._full_at.get(name, now) - now, 0.0) * self._refill
        return max(tokens - held, 0.0) / self._refill
