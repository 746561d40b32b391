"""Plans answer as graphql-core does: for generated documents over the real schema, with faults in it, on real data.

ESCROWGRID_DOCUMENTS chooses how many documents there are (2,000 in CI, more in a soak).
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.engine.documents import Author, Document
from tests.engine.faults import KINDS, Fault, Faults, planted
from tests.engine.worlds import Both, World, answer_of, world

DOCUMENTS = int(os.environ.get("ESCROWGRID_DOCUMENTS", "2000"))
# Written beside a document's execution by whoever may not read: another answer a moment later.
CHANGING = frozenset({"Query.auditEvents"})
DIFFERENT: list[tuple[str, Any, Any]] = []
SEEN: Counter[str] = Counter()
ASKED: set[tuple[str, str]] = set()


@pytest.fixture(scope="module")
async def there(admin_url: str, template: str) -> AsyncIterator[World]:
    async with world(admin_url, template) as made:
        yield made


@pytest.fixture(scope="module")
def both() -> Both:
    return Both()


@pytest.fixture(scope="module")
def faults(both: Both) -> Iterator[Faults]:
    with planted([both.slow._schema, both.fast._schema]) as made:
        yield made


def compose(data: st.DataObject, both: Both, there: World) -> tuple[Document, int]:
    asker = data.draw(st.integers(0, len(there.askers) - 1))
    author = Author(data.draw, both.slow._schema, there.known, frozenset() if asker < 2 else CHANGING)
    return author.query(), asker


def chosen(data: st.DataObject, document: Document, places: Any) -> list[Fault]:
    asked = sorted(place for place in document.asked if place in places)
    if not asked:
        return []
    one = st.builds(
        lambda place, kind, every: Fault(*place, kind, every),
        st.sampled_from(asked),
        st.sampled_from(KINDS),
        st.booleans(),
    )
    return data.draw(st.lists(one, max_size=3, unique_by=lambda fault: (fault.type, fault.field)))


# What graphql-core leaves behind when a null removes a parent whose other fields have not been awaited yet.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(0)
@settings(
    max_examples=DOCUMENTS,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
async def test_generated_documents_are_executed(
    data: st.DataObject, both: Both, there: World, faults: Faults
) -> None:
    """By both; what differs is told below, where it can be told of the simplest document of all."""
    document, asker = compose(data, both, there)
    injected = chosen(data, document, faults.places)
    by, parsed = there.askers[asker], both.parsed(document.text)
    with faults.inject(injected):
        slow = answer_of(await both.by_core(there.services, parsed, document.variables, by))
        fast = answer_of(await both.by_plans(there.services, parsed, document.variables, by))
    if fast != slow:
        told = f"{document.text}\n{dict(document.variables)} as {by.role}, {injected}"
        DIFFERENT.append((told, fast, slow))
    ASKED.update(document.asked)
    SEEN["documents"] += 1
    SEEN["errors"] += bool(slow[1])
    SEEN["faults"] += bool(injected)
    SEEN["data"] += slow[0] != "null"


def test_generated_documents_are_answered_alike() -> None:
    for told, fast, slow in sorted(DIFFERENT, key=lambda one: len(one[0]))[:3]:
        print(f"{told}\n  plans: {fast}\n  graphql-core: {slow}\n")
    assert not DIFFERENT, f"{len(DIFFERENT)} of {DOCUMENTS} documents are answered differently"


def test_none_of_them_was_left_to_graphql_core(both: Both) -> None:
    assert both.plans.fallbacks == 0
    print(SEEN, len(ASKED))
