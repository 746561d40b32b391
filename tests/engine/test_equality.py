"""Plans answer as graphql-core does: for generated documents over the real schema, with faults in it, on real data.

ESCROWGRID_DOCUMENTS chooses how many documents there are (2,000 in CI, more in a soak), ESCROWGRID_SEED which.
"""

import gc
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from graphql import parse
from graphql.execution import executor

from tests.engine.documents import Author, Document, reachable
from tests.engine.faults import KINDS, Fault, Faults, planted
from tests.engine.worlds import Both, World, answer_of, patiently, world

DOCUMENTS = int(os.environ.get("ESCROWGRID_DOCUMENTS", "2000"))
SEED = int(os.environ.get("ESCROWGRID_SEED", random.randrange(2**32)))
FAULTS = (0, 0, 1, 2, 3)
# Written beside a document's execution by whoever may not read: another answer a moment later.
CHANGING = frozenset({"Query.auditEvents"})
# Validating costs as much as all the rest: so many are taken on trust between two that are not.
VALIDATED_EVERY = 10
# So many ask for every field there is.
FULL = 2_000


@pytest.fixture(scope="module")
async def there(admin_url: str, template: str) -> AsyncIterator[World]:
    async with world(admin_url, template) as made:
        yield made


@pytest.fixture(scope="module")
def both() -> Both:
    return Both()


@pytest.fixture(scope="module")
def faults(both: Both) -> Iterator[Faults]:
    with pytest.MonkeyPatch.context() as patch, planted([both.slow._schema, both.fast._schema]) as made:
        patch.setattr(executor, "gather_with_cancel", patiently)
        yield made


def chosen(chance: random.Random, document: Document, faults: Faults) -> Sequence[Fault]:
    """Faults in some of what a document asks for."""
    asked = sorted(place for place in document.asked if place in faults.places)
    places = chance.sample(asked, min(len(asked), chance.choice(FAULTS)))
    return [Fault(*place, chance.choice(KINDS), every=chance.random() < 0.5) for place in places]


# What graphql-core leaves behind when a null removes a parent whose other fields have not been awaited yet.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.timeout(max(180, DOCUMENTS))
async def test_generated_documents_are_answered_alike(both: Both, there: World, faults: Faults) -> None:
    seen: Counter[str] = Counter()
    asked: set[tuple[str, str]] = set()
    different: list[str] = []
    wanted = reachable(both.slow._schema) if DOCUMENTS >= FULL else set()
    # Chance leaves out a rare field now and then: as many again may look for it.
    for number in range(2 * DOCUMENTS):
        if number >= DOCUMENTS and wanted <= asked:
            break
        chance = random.Random(f"{SEED}:{number}")
        asker = chance.randrange(len(there.askers))
        without = frozenset() if asker < 2 else CHANGING
        document = Author(chance, both.slow._schema, there.known, without).query()
        injected = chosen(chance, document, faults)
        by, parsed = there.askers[asker], parse(document.text)
        if ("Query", "auditEvents") in document.asked:
            # What others were refused before is written by and by.
            await there.services.recorder.flush()
        with faults.inject(injected):
            slow = answer_of(await both.by_core(there.services, parsed, document.variables, by))
            fast = answer_of(await both.by_plans(there.services, parsed, document.variables, by))
        if number % VALIDATED_EVERY == 0 or fast != slow:
            both.validate(parsed)
        if fast != slow:
            told = f"{document.text}\n{dict(document.variables)} as {by.role}, {injected}"
            different.append(f"{told}\n  plans: {fast}\n  graphql-core: {slow}\n")
        asked |= document.asked
        seen += Counter(errors=bool(slow[1]), faults=bool(injected), data=slow[0] != "null")
    words = "\n".join(sorted(different, key=len)[:3])
    assert not different, f"{len(different)} of {DOCUMENTS} differ; ESCROWGRID_SEED={SEED}\n{words}"
    # What graphql-core left is told of in this test, which knows it, not in the next.
    gc.collect()
    assert both.plans.fallbacks == 0
    if DOCUMENTS >= FULL:
        missing = wanted - asked
        assert not missing, f"nobody asked for {sorted(missing)}"
        assert min(seen.values()) > DOCUMENTS / 5, f"something of everything: {seen}"
        assert faults.read_directly > DOCUMENTS / 250
        assert faults.loaded_at_once > DOCUMENTS / 250
