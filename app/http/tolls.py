"""What an operation is charged, from which bucket, and what its caller is told of it."""

import hashlib
import math
from time import monotonic
from typing import NamedTuple

from app.engine.limits import Bill
from app.engine.masking import LIMIT_EXCEEDED, RATE_LIMITED, ToldError, refusal
from app.http.metrics import Metrics
from app.limits.model import Purse, Standing, Terms
from app.limits.service import Quota
from app.principal import Principal, Role
from app.settings import Settings

# Paid from a bucket of their own, so that a key which has spent everything else can still be revoked with itself.
SENSITIVE = frozenset({"createInstitution", "createApiKey", "rotateApiKey", "revokeApiKey"})
# What a document costs that was looked at and refused: to judge one is more work than to run most.
REFUSED_COST = 10
NAME_LENGTH_MAX = 200


class Cost(NamedTuple):
    """What an operation was charged, and what it came to."""

    requested: int
    actual: int

    def told(self, standing: Standing | None) -> dict[str, int | None]:
        """As an answer's extensions tell it."""
        available = None if standing is None else standing.remaining
        return {"requested": self.requested, "actual": self.actual, "available": available}


class Tolls:
    """The buckets' terms, and the purses of this process; without a quota nothing is charged."""

    def __init__(self, quota: Quota | None, settings: Settings, metrics: Metrics) -> None:
        self.quota = quota
        self.metrics = metrics
        self.keys = _terms(settings.rate_capacity, settings.rate_refill_per_second)
        self.root = _terms(settings.root_rate_capacity, settings.root_rate_refill_per_second)
        self.sensitive = _terms(settings.sensitive_capacity, settings.sensitive_refill_per_second)

    def purse(self, principal: Principal) -> Purse | None:
        """This process's part of the principal's bucket; None where nothing is limited."""
        terms = self.root if principal.role is Role.ROOT else self.keys
        if self.quota is None or terms is None:
            return None
        return self.quota.purse(_name(principal), terms)


class Toll:
    """One operation's: it pays before it runs, once, and gets back what it did not need."""

    __slots__ = ("_paid", "_prepaid", "_principal", "_purse", "_tolls", "_turned_away")

    def __init__(self, tolls: Tolls, principal: Principal, purse: Purse | None) -> None:
        self._tolls = tolls
        self._principal = principal
        self._purse = purse
        self._paid = False
        self._prepaid = 0
        self._turned_away = False

    def is_spent(self) -> bool:
        """Whether nothing is left to pay with."""
        return self._purse is not None and self._purse.is_spent(monotonic())

    def spent(self) -> ToldError:
        """Why nothing more is done for whoever has nothing left."""
        assert self._purse is not None, "who has nothing left has a purse"
        return self._refused(self._purse, self._purse.wait(1, monotonic()))

    async def enter(self, text: str) -> ToldError | None:
        """Before a document is even parsed: whoever has nothing left may only ask for what is paid from elsewhere."""
        if not self.is_spent():
            return None
        if self._tolls.sensitive is None or not any(name in text for name in SENSITIVE):
            return self.spent()
        # To look whether it really is one of these costs as much as doing it.
        self._prepaid = 1
        return await self._pay_sensitive(1)

    async def pay(self, bill: Bill) -> ToldError | None:
        """None when it is paid, else why it may not run now. A stream that begins anew has paid already."""
        if self._paid:
            return None
        purse, cost = self._purse, bill.estimate.requested
        sensitive = (
            sum(count for name, count in bill.fields.items() if name in SENSITIVE) if bill.fields else 0
        )
        if sensitive:
            refused = await self._pay_sensitive(max(sensitive - self._prepaid, 0))
            if refused is not None:
                return refused
        if purse is not None and sensitive and sensitive == sum(bill.fields.values()):
            purse.debit(cost)
        elif purse is not None:
            assert self._tolls.quota is not None, "where there is a purse there is a quota"
            wait = await self._tolls.quota.spend(purse, cost)
            if wait:
                return self._refused(purse, wait)
        self._paid = True
        return None

    def settle(self, cost: Cost) -> None:
        """It is over, and came to less than was asked for."""
        if self._paid and self._purse is not None and cost.actual < cost.requested:
            self._purse.refund(cost.requested - cost.actual)

    def pass_on(self) -> None:
        """It is asked for again in another way: this was no document refused."""
        self._turned_away = True

    def leave(self) -> None:
        """It is over; one that was never estimated was refused, and is charged for that."""
        if self._purse is not None and not self._turned_away:
            self._purse.debit(REFUSED_COST)

    def available(self) -> int | None:
        """What could be asked for now; None where nothing is limited."""
        return None if self._purse is None else int(self._purse.remaining(monotonic()))

    async def _pay_sensitive(self, count: int) -> ToldError | None:
        terms, quota = self._tolls.sensitive, self._tolls.quota
        if terms is None or quota is None or not count:
            return None
        if count > terms.capacity:
            words = f"the document makes or revokes {count} keys and institutions"
            most = int(terms.capacity)
            return refusal(LIMIT_EXCEEDED, words, limit="sensitive_capacity", max=most, found=count)
        purse = quota.purse(f"{_name(self._principal)}:sensitive", terms)
        wait = await quota.spend(purse, count)
        return self._refused(purse, wait, "sensitive") if wait else None

    def _refused(self, purse: Purse, wait: float, what: str = "") -> ToldError:
        self._turned_away = True
        is_root = self._principal.role is Role.ROOT
        self._tolls.metrics.limited(what or ("root" if is_root else "key"))
        limit = f"{what}_capacity" if what else "root_rate_capacity" if is_root else "rate_capacity"
        return limited(limit, int(purse.terms.capacity), wait)


def standing(purse: Purse | None) -> Standing | None:
    """How a bucket stands at this moment; None where nothing is limited."""
    return None if purse is None else purse.standing(monotonic())


def headers(found: Standing | None) -> dict[str, str]:
    """The same as a single answer's headers tell it."""
    if found is None:
        return {}
    return {
        "RateLimit-Limit": str(found.limit),
        "RateLimit-Remaining": str(found.remaining),
        "RateLimit-Reset": str(found.reset),
    }


def limited(limit: str, most: int, wait: float) -> ToldError:
    """The refusal of somebody who asked for too much."""
    seconds = max(math.ceil(wait), 1)
    words = f"you have asked for too much at once; try again in {seconds} s"
    return refusal(RATE_LIMITED, words, limit=limit, max=most, retryAfter=seconds)


def _terms(capacity: float, refill: float) -> Terms | None:
    return Terms(capacity, refill) if capacity else None


def _name(principal: Principal) -> str:
    name = f"{principal.tenant}:{principal.id}"
    return name if len(name) <= NAME_LENGTH_MAX else hashlib.sha256(name.encode()).hexdigest()
