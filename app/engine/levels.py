"""Where each value of a column stands in the answer, worked out only when somebody asks: for an error's path."""

from collections.abc import Sequence


class Level:
    """A column's place below its parent column.

    With `key`: field `key` of the parent's objects. With `positions`: items of the parent's lists. With `rows` alone:
    some of the parent's values. `rows[i]` is the parent's place of value i (the same place when there are none).
    """

    __slots__ = ("_key", "_parent", "_positions", "_rows")

    def __init__(
        self,
        parent: "Level | None" = None,
        *,
        key: str | None = None,
        rows: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        self._parent = parent
        self._key = key
        self._rows = rows
        self._positions = positions

    def path(self, place: int) -> list[str | int]:
        """The response path of the value at `place`."""
        path: list[str | int] = []
        level: Level | None = self
        while level is not None:
            if level._positions is not None:
                path.append(level._positions[place])
            if level._key is not None:
                path.append(level._key)
            if level._rows is not None:
                place = level._rows[place] if level._rows else 0
            level = level._parent
        path.reverse()
        return path
