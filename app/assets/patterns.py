"""Regular expressions that institutions bring along: matched in linear time, bounded in size.

Python's own engine backtracks, so that a pattern of six characters can hold a process for hours. These run
on the automaton of Rust's `regex` crate (it comes with pydantic): no look-around and no back references.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema

PATTERN_LENGTH_MAX = 200
# Repetitions are written out in the automaton; a letter weighs 1, and the whole may weigh this much.
WEIGHT_MAX = 1000
COMPILED_MAX = 128

# One step of a pattern: an escape, a class, a group's end, a repetition, or a single character.
STEP = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[\s\d,]*\}|.", re.DOTALL)
COUNTED = re.compile(r"\{[\s\d,]*\}")
CLASS_WEIGHT = 4
UNICODE_WEIGHT = 16


class PatternError(ValueError):
    """A pattern that is not taken; the message says why."""


def check_pattern(pattern: str) -> None:
    """Raise `PatternError` unless `pattern` is small and one that the engine understands."""
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise PatternError(f"a pattern has at most {PATTERN_LENGTH_MAX} characters")
    steps = STEP.findall(pattern)
    for step, mark, kind in zip(steps, steps[1:], steps[2:], strict=False):
        if (step, mark) == ("(", "?") and kind not in (":", "<", "P"):
            raise PatternError("groups are ( ), (?: ) or (?<name> ); there are no flags and no look-around")
    if weight(steps) > WEIGHT_MAX:
        raise PatternError("the pattern repeats too much; use smaller counts in { }")
    try:
        _compiled(pattern)
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("error: ").strip()
        raise PatternError(f"not a pattern that can be matched in linear time: {reason}") from None


def matches(pattern: str, text: str) -> bool:
    """Whether a checked pattern occurs anywhere in `text`, as JSON Schema has it: it brings its anchors."""
    return _compiled(pattern).isinstance_python(text)


@lru_cache(maxsize=COMPILED_MAX)
def _compiled(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True))


def weight(steps: Sequence[str]) -> int:
    """How much a pattern's steps weigh with counted repetitions written out; never too little."""
    groups = [0]
    last = 0
    for step in steps:
        if step == "(":
            groups.append(0)
            last = 0
        elif step == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif COUNTED.fullmatch(step) is not None:
            count = max((int(number) for number in re.findall(r"\d+", step)), default=1) or 1
            groups[-1] += last * (count - 1)
            last *= count
        elif step not in ("*", "+", "?"):
            last = _step_weight(step)
            groups[-1] += last
    return sum(groups)


def _step_weight(step: str) -> int:
    if step[0] == "[":
        return CLASS_WEIGHT + UNICODE_WEIGHT * len(re.findall(r"\\[wWpPdDsS]|\[:", step))
    if step == ".":
        return CLASS_WEIGHT
    if step[0] == "\\" and step[1:2] in ("w", "W", "p", "P", "d", "D", "s", "S"):
        return UNICODE_WEIGHT
    return 1
