"""What a token bucket is, and the part of one that a process holds: pure arithmetic, the time is given."""

import math
from dataclasses import dataclass

# A process takes a sixteenth of a bucket at a time: few round trips, and little that others cannot reach.
SLICES = 16
# Below this part of a slice the next one is asked for ahead.
LOW = 0.25
EMPTY_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Terms:
    """How much a bucket holds, and how much flows in each second."""

    capacity: float
    refill: float

    @property
    def slice(self) -> float:
        """What a process takes at a time."""
        return self.capacity / SLICES


@dataclass(frozen=True, slots=True)
class Standing:
    """What a caller is told of its bucket; `reset` is the seconds until it is full again."""

    limit: int
    remaining: int
    reset: int


@dataclass(slots=True, eq=False)
class Purse:
    """What this process holds of one bucket, and what it last heard of the rest."""

    name: str
    terms: Terms
    shared: float
    asked_at: float
    tokens: float = 0.0
    # What those need who wait for a slice at this moment.
    waiting: float = 0.0
    not_before: float = 0.0
    used_at: float = 0.0

    @classmethod
    def full(cls, name: str, terms: Terms, now: float) -> "Purse":
        """A purse of a bucket that nobody has asked yet: it may be full."""
        return cls(name, terms, terms.capacity, now, used_at=now)

    def pay(self, cost: float, now: float) -> bool:
        """Take `cost` of what is at hand, if it is enough."""
        self.used_at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def debit(self, cost: float) -> None:
        """Take `cost` of what is at hand even if that makes a debt, within the bucket's size."""
        self.tokens = max(self.tokens - cost, -self.terms.capacity)

    def refund(self, cost: float) -> None:
        """Put back what was paid too much."""
        self.tokens = min(self.tokens + cost, self.terms.capacity)

    def leased(self, granted: float, remaining: float, now: float) -> None:
        """A slice came, or as much of it as was there."""
        self.tokens += granted
        self.shared = remaining
        self.asked_at = now
        if granted < 1:
            self.not_before = now + EMPTY_PAUSE_SECONDS

    def wanted(self) -> float:
        """How much to ask for: a slice, or what those who wait need."""
        return max(self.terms.slice, self.waiting - self.tokens)

    def is_low(self) -> bool:
        """Whether the next slice should be asked for ahead."""
        return self.tokens < self.terms.slice * LOW

    def elsewhere(self, now: float) -> float:
        """What the bucket itself holds by now, at most: others may have taken some."""
        return min(self.shared + (now - self.asked_at) * self.terms.refill, self.terms.capacity)

    def is_spent(self, now: float) -> bool:
        """Whether nothing is left, neither here nor, as far as is known, in the bucket."""
        return self.tokens < 1 and (now < self.not_before or self.tokens + self.elsewhere(now) < 1)

    def wait(self, cost: float, now: float) -> float:
        """Seconds until it is worth asking for `cost`; 0 when it is now."""
        missing = cost - self.tokens - self.elsewhere(now)
        return max(missing / self.terms.refill, self.not_before - now, 0.0)

    def remaining(self, now: float) -> float:
        """What could be asked for now."""
        return min(max(self.tokens + self.elsewhere(now), 0.0), self.terms.capacity)

    def standing(self, now: float) -> Standing:
        """What to tell of it."""
        capacity, remaining = self.terms.capacity, self.remaining(now)
        reset = math.ceil((capacity - remaining) / self.terms.refill)
        return Standing(int(capacity), int(remaining), reset)
