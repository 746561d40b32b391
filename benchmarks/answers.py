"""Whether servers told the same, however each of them names, nests and spells it."""

import json
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

Told = tuple[list[str], list["Told"]]


def told(body: bytes) -> Told:
    """What an answer says: each row's values sorted, with the rows below it in their order; cursors are left out."""
    answer = json.loads(body)
    assert not answer.get("errors"), answer
    return _row(answer["data"])


def _row(value: Any) -> Told:
    values: list[str] = []
    below: list[Told] = []
    if isinstance(value, list):
        below += [_row(one) for one in value]
    elif isinstance(value, dict):
        for name, part in value.items():
            if name != "endCursor":
                more, rows = _row(part)
                values += more
                below += rows
    else:
        values.append(_plain(value))
    return sorted(values), below


def _plain(value: Any) -> str:
    """An amount by what it is worth, a time to the millisecond, which is all that JavaScript keeps of it."""
    if value is None or isinstance(value, bool):
        return str(value)
    try:
        return str(Decimal(value).normalize())
    except InvalidOperation:
        pass
    try:
        return datetime.fromisoformat(value).astimezone(UTC).isoformat(timespec="milliseconds")
    except ValueError:
        return str(value)
