"""What an operator wants to see of anchoring."""

from collections.abc import Callable, Mapping, Sequence

from app.anchoring import status
from app.anchoring.model import Account, State
from app.anchoring.status import Status
from app.http.vitals import Kind, Vital
from app.kit.clock import Clock
from app.storage.database import Driver

GAUGE, COUNTER = Kind.GAUGE, Kind.COUNTER


class Anchoring:
    """How it stood when it was last asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._found: Status | None = None

    async def ask(self, driver: Driver) -> None:
        """As the feed role."""
        self._found = await status.read(driver)

    def vitals(self) -> Sequence[Vital]:
        """All of it."""
        chain = self._of_chains
        return (
            Vital(GAUGE, "escrowgrid_anchors", "Anchors in each state.", self._states, "state"),
            Vital(
                GAUGE,
                "escrowgrid_anchor_lag_events",
                "Events that are in no final anchor.",
                self._number(lambda found: found.ledger - found.final),
            ),
            Vital(
                GAUGE,
                "escrowgrid_anchor_lag_seconds",
                "How long the oldest of them waits.",
                self._lag_seconds,
            ),
            Vital(
                GAUGE,
                "escrowgrid_anchor_records_waiting",
                "Events that wait to be recorded on the chain by themselves.",
                self._number(lambda found: found.to_record),
            ),
            Vital(
                GAUGE,
                "escrowgrid_anchor_records_skipped",
                "Events not recorded although their template asks for it: `escrowgrid anchor status` says why.",
                self._number(lambda found: found.skipped),
            ),
            Vital(
                COUNTER,
                "escrowgrid_anchor_reorgs",
                "How often the chain dropped the block of an anchor.",
                self._number(lambda found: found.reorgs),
            ),
            Vital(
                GAUGE,
                "escrowgrid_chain_failing",
                "1 while nothing can be submitted: `escrowgrid anchor status` says why.",
                chain(lambda one: float(one.failure is not None)),
                "chain",
            ),
            Vital(
                GAUGE,
                "escrowgrid_chain_block",
                "The newest block of a chain.",
                chain(lambda one: float(one.block_number or 0)),
                "chain",
            ),
            Vital(
                GAUGE,
                "escrowgrid_chain_balance",
                "What the submitting account has, of the chain's own coin.",
                chain(lambda one: float(one.balance or 0)),
                "chain",
            ),
            Vital(
                GAUGE,
                "escrowgrid_chain_balance_low",
                "1 while that is less than CHAIN_BALANCE_MIN.",
                chain(lambda one: float(one.balance_low)),
                "chain",
            ),
        )

    def _states(self) -> Mapping[str, float]:
        found = self._found
        return {} if found is None else {state.value: found.states.get(state.value, 0) for state in State}

    def _lag_seconds(self) -> float:
        since = None if self._found is None else self._found.waiting_since
        return 0.0 if since is None else max((self._clock() - since).total_seconds(), 0.0)

    def _number(self, pick: Callable[[Status], float]) -> Callable[[], float]:
        return lambda: 0.0 if self._found is None else pick(self._found)

    def _of_chains(self, pick: Callable[[Account], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {str(one.chain_id): pick(one) for one in (self._found.chains if self._found else ())}
