"""Draws a lifecycle as the dashboard does: stages as stations, transitions as lines, coloured by their money."""

from dataclasses import dataclass
from html import escape

from app.ledger.model import Effect
from app.positions.lifecycle import Lifecycle

WIDTH, HEIGHT, COLUMN, ROW, ABOVE, BEND = 140, 36, 200, 60, 46, 10
RANK = (Effect.FUND, Effect.RELEASE, Effect.NONE, Effect.REFUND)
STYLE = """
  text { font: 500 13px system-ui, sans-serif; text-anchor: middle; dominant-baseline: central; fill: #19231f }
  rect { fill: none; stroke: #575f58; stroke-width: 1.3 }
  path { fill: none; stroke-width: 1.8 }
  .FUND { stroke: #1c5a48 } .RELEASE { stroke: #2a5a8c } .REFUND { stroke: #9a4a24 } .NONE { stroke: #8b8a7c }
  @media (prefers-color-scheme: dark) {
    text { fill: #ebe8df } rect { stroke: #a3ada6 }
    .FUND { stroke: #6fc2a3 } .RELEASE { stroke: #8bb8e4 } .REFUND { stroke: #e59f76 } .NONE { stroke: #8b9a90 }
  }
"""


@dataclass(frozen=True)
class Station:
    """Where a stage stands."""

    column: int
    row: int

    @property
    def left(self) -> int:
        return self.column * COLUMN + 1

    @property
    def top(self) -> int:
        return ABOVE + self.row * ROW

    @property
    def middle(self) -> int:
        return self.top + HEIGHT // 2


def picture(lifecycle: Lifecycle) -> str:
    """The lifecycle as an SVG file."""
    arrows = [
        (source, arrow.target, arrow.effect) for arrow in lifecycle.transitions for source in arrow.sources
    ]
    columns = _columns(lifecycle)
    spine = _spine(lifecycle, columns)
    below = [stage for stage in lifecycle.stages if stage not in spine]
    stations = {
        stage: Station(columns[stage], 0 if stage in spine else below.index(stage) + 1)
        for stage in lifecycle.stages
    }
    width, height = max(columns.values()) * COLUMN + WIDTH + 2, ABOVE + len(below) * ROW + HEIGHT + 2
    lines = [
        f'<path class="{effect}" d="{_path(stations[source], stations[target])}"/>'
        for source, target, effect in arrows
    ]
    stops = [_stop(stage, station) for stage, station in stations.items()]
    name = f"{lifecycle.name}@{lifecycle.version}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{escape(name)}: {escape(lifecycle.description)}</title>",
            f"<style>{STYLE}</style>",
            *lines,
            *stops,
            "</svg>\n",
        ]
    )


def _stop(stage: str, station: Station) -> str:
    words = stage.replace("_", " ").capitalize()
    return (
        f'<rect x="{station.left}" y="{station.top}" width="{WIDTH}" height="{HEIGHT}" rx="18"/>'
        f'<text x="{station.left + WIDTH // 2}" y="{station.middle}">{escape(words)}</text>'
    )


def _columns(lifecycle: Lifecycle) -> dict[str, int]:
    """How many steps the longest way to each stage has; what ends a life stands at the end."""
    columns = dict.fromkeys(lifecycle.stages, 0)

    def walk(stage: str, way: tuple[str, ...]) -> None:
        for arrow in lifecycle.leaving(stage):
            if arrow.target not in way and columns[arrow.target] < len(way):
                columns[arrow.target] = len(way)
                walk(arrow.target, (*way, arrow.target))

    walk(lifecycle.initial, (lifecycle.initial,))
    last = max(columns.values())
    return {stage: last if lifecycle.is_terminal(stage) else column for stage, column in columns.items()}


def _spine(lifecycle: Lifecycle, columns: dict[str, int]) -> list[str]:
    """The stages on the straight line, which money takes when all goes well."""
    spine = [lifecycle.initial]
    while True:
        onward = [a for a in lifecycle.leaving(spine[-1]) if columns[a.target] > columns[spine[-1]]]
        if not onward:
            return spine
        nearest = min(columns[arrow.target] for arrow in onward)
        candidates = [arrow for arrow in onward if columns[arrow.target] == nearest]
        spine.append(min(candidates, key=lambda arrow: RANK.index(arrow.effect)).target)


def _path(source: Station, target: Station) -> str:
    if source == target:
        x = source.left + WIDTH // 2
        return f"M{x - 16} {source.top} v-6 a8 8 0 0 1 8 -8 h16 a8 8 0 0 1 8 8 v6{_tip(x + 16, target.top, down=True)}"
    if (target.row, target.column) == (source.row, source.column + 1):
        x, y = target.left, source.middle
        return f"M{source.left + WIDTH} {y} H{x}{_tip(x, y)}"
    if target.row == 0:
        start, end, y = source.left + WIDTH - 26, target.left + 26, target.top - 34
        turn = BEND if end > start else -BEND
        return (
            f"M{start} {source.top} V{y + BEND} q0 {-BEND} {turn} {-BEND} H{end - turn} "
            f"q{turn} 0 {turn} {BEND} V{target.top}{_tip(end, target.top, down=True)}"
        )
    start, y = source.left + 20 + target.row * 18, target.middle
    return (
        f"M{start} {source.top + HEIGHT} V{y - BEND} q0 {BEND} {BEND} {BEND} "
        f"H{target.left}{_tip(target.left, y)}"
    )


def _tip(x: int, y: int, *, down: bool = False) -> str:
    return (
        f" M{x - 4} {y - 6} L{x} {y} L{x + 4} {y - 6}"
        if down
        else f" M{x - 6} {y - 4} L{x} {y} L{x - 6} {y + 4}"
    )
