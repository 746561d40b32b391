"""A client that costs little: one connection, one request at a time, no framework."""

import asyncio
import json
from typing import Any


class Client:
    """One HTTP connection to /graphql."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._head = (
            f"POST /graphql HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()

    async def open(self) -> "Client":
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        return self

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, query: str, **variables: Any) -> Any:
        """The answer's data; raises when there are errors."""
        answer = json.loads(await self.page(query, **variables))
        if answer.get("errors"):
            raise RuntimeError(answer["errors"])
        return answer["data"]

    async def page(self, query: str, **variables: Any) -> bytes:
        """The answer's body as it came."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        self._writer.write(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        return await self._reader.readexactly(length)


async def place(client: Client) -> tuple[str, str]:
    """A new institution with one asset; returns the secret of an admin's key and the asset's id."""
    made = await client.ask(
        'mutation { made: createInstitution(input: {name: "Bench", regions: [US]}) { institution { id } } }'
    )
    owner = made["made"]["institution"]["id"]
    made = await client.ask(
        "mutation($i: ID!, $c: JSONObject!) { made: createAssetTemplate(input: {institutionId: $i, "
        'code: "CONSTR_ESCROW", name: "Bench", region: US, config: $c}) { assetTemplate { id } } }',
        i=owner,
        c={"currency": "USD", "region": "US"},
    )
    template = made["made"]["assetTemplate"]["id"]
    made = await client.ask(
        "mutation($i: ID!, $t: ID!) { made: createAsset(input: {institutionId: $i, templateId: $t, "
        'label: "Bench", metadata: {}}) { asset { id } } }',
        i=owner,
        t=template,
    )
    key = await client.ask(
        'mutation($i: ID!) { made: createApiKey(input: {institutionId: $i, label: "bench", role: ADMIN}) { secret } }',
        i=owner,
    )
    return key["made"]["secret"], made["made"]["asset"]["id"]
