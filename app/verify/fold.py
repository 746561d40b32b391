"""Positions derived from their events alone, each step judged by its lifecycle."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from app.kit.money import ZERO
from app.ledger.model import Event, Kind
from app.positions.lifecycle import Lifecycle, Portion
from app.positions.model import Position, opened, stamped
from app.verify.findings import Report

TABLE = "ledger_events"

Lifecycles = Mapping[tuple[str, int], Lifecycle]


@dataclass(frozen=True, slots=True)
class Folded:
    """A position as its events make it, and the template version they name."""

    position: Position
    template_id: str


class Fold:
    """The positions of one institution, event by event."""

    def __init__(self, lifecycles: Lifecycles) -> None:
        self._lifecycles = lifecycles
        self.positions: dict[str, Folded] = {}

    def apply(self, event: Event, report: Report) -> None:
        """Take the next event in; what is illegal is reported, and the fold goes on with what the event says."""
        lifecycle = self._lifecycles.get((event.lifecycle_name, event.lifecycle_version))
        if lifecycle is None:
            report.add(
                TABLE, event.id, f"no lifecycle {event.lifecycle_name}@{event.lifecycle_version} is known"
            )
            return
        known = self.positions.get(event.position_id)
        if known is None:
            self._open(event, lifecycle, report)
            return
        position = known.position
        if known.template_id != event.template_id:
            report.add(TABLE, event.id, "it names another template version than the position was opened with")
        self._check_step(event, position, lifecycle, report)
        closed = lifecycle.is_terminal(event.new_stage)
        self.positions[event.position_id] = Folded(stamped(position, event, closed=closed), known.template_id)

    def _open(self, event: Event, lifecycle: Lifecycle, report: Report) -> None:
        if event.kind is not Kind.POSITION_CREATED or event.position_version != 1:
            report.add(TABLE, event.id, "the position's history does not begin with its creation")
            return
        if event.new_stage != lifecycle.initial or event.new_state != lifecycle.stages[lifecycle.initial]:
            report.add(TABLE, event.id, "the position does not begin where its lifecycle begins")
        try:
            position = opened(event)
        except (KeyError, ValueError, TypeError, InvalidOperation):
            report.add(TABLE, event.id, "its data does not say what was agreed on")
            return
        self.positions[event.position_id] = Folded(position, event.template_id)

    @staticmethod
    def _check_step(event: Event, position: Position, lifecycle: Lifecycle, report: Report) -> None:
        if event.position_version != position.version + 1:
            report.add(TABLE, event.id, f"version {event.position_version} follows {position.version}")
        if (event.previous_state, event.previous_stage) != (position.state, position.stage):
            report.add(TABLE, event.id, "it does not start where the position was")
        if event.currency != position.currency:
            report.add(TABLE, event.id, "it is in another currency than the position")
        arrows = [arrow for arrow in lifecycle.leaving(position.stage) if arrow.target == event.new_stage]
        if not arrows or event.new_state != lifecycle.stages.get(event.new_stage):
            report.add(
                TABLE, event.id, f"the lifecycle has no step from {position.stage} to {event.new_stage}"
            )
        elif arrows[0].effect is not event.effect or not _fits(
            arrows[0].portion, event.amount_moved, position
        ):
            report.add(TABLE, event.id, "it moved money otherwise than the lifecycle says")
        if event.balances != position.balances.moved(event.effect, event.amount_moved):
            report.add(TABLE, event.id, "the balances after it do not follow from those before")


def _fits(portion: Portion, moved: Decimal, position: Position) -> bool:
    held = position.balances.held
    return {
        Portion.NONE: moved == ZERO,
        Portion.WHOLE: moved == position.amount,
        Portion.PART: ZERO < moved < held,
        Portion.ALL: moved == held,
    }[portion]
