"""Clients of the API as those write who must not lose anything: every command has a key and is noted before it is sent."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.site import Server
from tests.reliability.wire import Broken, Wire

KNOWN_WITHIN_SECONDS = 90
PAUSE_SECONDS = 0.05
# What leaves the outcome open, or says that nothing was done yet: the same command is sent again.
OPEN = frozenset({"UNAVAILABLE", "OVERLOADED", "INTERNAL"})
TRY_AGAIN = "TRY_AGAIN"

COMMAND = """
fragment Told on PositionPayload {
  position { id version state funded released refunded held }
  event { id sequence hash positionId positionVersion newState amountMoved postings { account amount } }
  cursor replayed userErrors { code message field }
}
"""
INPUTS = {
    "createPosition": "CreatePositionInput",
    "createPositions": "CreatePositionsInput",
    "fundPosition": "MovePositionInput",
    "releasePosition": "ReleasePositionInput",
    "cancelPosition": "MovePositionInput",
    "expirePosition": "MovePositionInput",
    "transitionPosition": "TransitionPositionInput",
    "transitionPositions": "TransitionPositionsInput",
}
LISTS = frozenset({"createPositions", "transitionPositions"})


def document(mutation: str) -> str:
    """The document that sends one command, or a list of them."""
    told = "results { ...Told } userErrors { code message field }" if mutation in LISTS else "...Told"
    return (
        f"mutation ($input: {INPUTS[mutation]}!) {{ made: {mutation}(input: $input) {{ {told} }} }}{COMMAND}"
    )


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request was answered with; not known when it may or may not have been done."""

    known: bool
    data: Any = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An institution with somewhere to open positions, and a key that may."""

    id: str
    asset_id: str
    template_id: str
    key: str


class Doors:
    """The servers that take requests at this moment."""

    def __init__(self, *urls: str) -> None:
        self._urls = list(urls)
        self._some = asyncio.Event()
        self._turns = itertools.count()
        if urls:
            self._some.set()

    def open(self, url: str) -> None:
        self._urls.append(url)
        self._some.set()

    def close(self, url: str) -> None:
        self._urls.remove(url)
        if not self._urls:
            self._some.clear()

    async def pick(self) -> str:
        """One of them, in turn; waits until there is one."""
        await self._some.wait()
        return self._urls[next(self._turns) % len(self._urls)]


class Journal:
    """A file that knows what was sent before it was, and what was answered after."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", buffering=1)
        self._numbers = itertools.count(1)

    def asked(self, tenant: Tenant, mutation: str, keys: Sequence[str], input: Mapping[str, Any]) -> int:
        number = next(self._numbers)
        self._write(number=number, institution=tenant.id, mutation=mutation, keys=keys, input=input)
        return number

    def answered(self, number: int, results: Sequence[Mapping[str, Any]]) -> None:
        self._write(number=number, results=results)

    def read(self) -> list[dict[str, Any]]:
        """Every command with its `results`, None for one whose outcome was never learned."""
        found: dict[int, dict[str, Any]] = {}
        for line in self.path.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["number"], {"results": None}).update(entry)
        return list(found.values())

    def close(self) -> None:
        self._file.close()

    def _write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry) + "\n")


class Client:
    """Sends commands through whatever door is open until their outcome is known."""

    def __init__(self, doors: Doors, journal: Journal | None = None) -> None:
        self._wire = Wire()
        self._journal = journal
        self.doors = doors
        self.open_outcomes: Counter[str] = Counter()
        self.under_way = 0
        self.settled = 0
        self._settling = asyncio.Condition()

    def close(self) -> None:
        self._wire.close()

    async def post(
        self, url: str, key: str, text: str, variables: Mapping[str, Any] | None = None
    ) -> Answered:
        """One request, one try."""
        try:
            status, body = await self._wire.post(
                f"{url}/graphql", key, {"query": text, "variables": variables or {}}
            )
        except Broken as error:
            return Answered(False, why=str(error))
        codes = {error["extensions"]["code"] for error in body.get("errors", ())}
        if codes & OPEN:
            return Answered(False, why="+".join(sorted(codes)))
        if codes:
            raise AssertionError(f"{status}: {body['errors']}")
        return Answered(True, body["data"])

    async def ask(self, key: str, text: str, variables: Mapping[str, Any] | None = None) -> Any:
        """The data that a request is answered with, asked again until it is."""
        deadline = asyncio.get_running_loop().time() + KNOWN_WITHIN_SECONDS
        while True:
            answered = await self.post(await self.doors.pick(), key, text, variables)
            if answered.known:
                return answered.data
            self.open_outcomes[answered.why] += 1
            assert asyncio.get_running_loop().time() < deadline, f"no answer in time: {answered.why}"
            await asyncio.sleep(PAUSE_SECONDS)

    async def command(
        self, tenant: Tenant, mutation: str, keys: Sequence[str], **input: Any
    ) -> list[dict[str, Any]]:
        """What became of each item of a command, learned by whatever number of tries; all of it in the journal."""
        number = self._journal.asked(tenant, mutation, keys, input) if self._journal else 0
        self.under_way += 1
        try:
            results = await self._settled(tenant, mutation, input)
        finally:
            self.under_way -= 1
        self.settled += 1
        async with self._settling:
            self._settling.notify_all()
        if self._journal:
            self._journal.answered(number, results)
        return results

    async def settle(self, count: int) -> None:
        """Until so many more commands have their outcome."""
        wanted = self.settled + count
        async with self._settling:
            await self._settling.wait_for(lambda: self.settled >= wanted)

    async def _settled(self, tenant: Tenant, mutation: str, input: Mapping[str, Any]) -> list[dict[str, Any]]:
        deadline = asyncio.get_running_loop().time() + KNOWN_WITHIN_SECONDS
        while True:
            made = (await self.ask(tenant.key, document(mutation), {"input": input}))["made"]
            results = _results(made, len(input.get("items", ())))
            if not any(refusal_of(result) == TRY_AGAIN for result in results):
                return results
            self.open_outcomes[TRY_AGAIN] += 1
            assert asyncio.get_running_loop().time() < deadline, "it cannot be done in time"
            await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def connected(*servers: Server) -> AsyncIterator[Client]:
    """A client of these servers, in turn, without a journal."""
    client = Client(Doors(*(server.url for server in servers)))
    try:
        yield client
    finally:
        client.close()


def _results(made: dict[str, Any], items: int) -> list[dict[str, Any]]:
    if "results" not in made:
        return [made]
    return made["results"] or [{"event": None, "position": None, "userErrors": made["userErrors"]}] * items


def refusal_of(result: Mapping[str, Any]) -> str | None:
    """Why a command was refused; None when it was done."""
    errors = result["userErrors"]
    return errors[0]["code"] if errors else None


async def found_tenant(client: Client, root_key: str, name: str, currency: str = "USD") -> Tenant:
    """A new institution with a template, an asset and an admin's key."""

    async def make(mutation: str, thing: str, input_type: str, **input: Any) -> dict[str, Any]:
        more = "secret" if thing == "apiKey" else ""
        text = (
            f"mutation ($input: {input_type}!) {{ made: {mutation}(input: $input) "
            f"{{ {thing} {{ id }} {more} userErrors {{ code message }} }} }}"
        )
        made: dict[str, Any] = (await client.ask(root_key, text, {"input": input}))["made"]
        assert not made["userErrors"], made["userErrors"]
        return {**made[thing], "secret": made.get("secret")}

    institution = await make(
        "createInstitution", "institution", "CreateInstitutionInput", name=name, regions=["US"]
    )
    of = {"institutionId": institution["id"]}
    template = await make(
        "createAssetTemplate",
        "assetTemplate",
        "CreateAssetTemplateInput",
        name="Escrow",
        code="CONSTR_ESCROW",
        region="US",
        config={"currency": currency, "region": "US"},
        **of,
    )
    asset = await make(
        "createAsset", "asset", "CreateAssetInput", templateId=template["id"], label="A site", **of
    )
    key = await make("createApiKey", "apiKey", "CreateApiKeyInput", label="A test", role="ADMIN", **of)
    return Tenant(institution["id"], asset["id"], template["id"], key["secret"])
