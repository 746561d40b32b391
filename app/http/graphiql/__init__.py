"""The GraphiQL page: built beforehand, served from here, asking no other host for anything."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from app.http import pages

HERE: Final = Path(__file__).parent

# The editor writes style elements, hence 'unsafe-inline'; 'self' covers this host's WebSocket, too.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; font-src 'self'; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = pages.guarded(POLICY)


@dataclass(frozen=True, slots=True)
class DevelopmentKey:
    """A key that the page offers by its label: for a developer's own machine and nowhere else."""

    label: str
    key: str = field(repr=False)


def page() -> Response:
    """The page itself, at an address that answers queries as well."""
    return pages.page(HERE / "static" / "index.html", HEADERS | {"Vary": "Accept"})


def routes(development_keys: Sequence[DevelopmentKey] = ()) -> list[BaseRoute]:
    """What the page fetches. Without development keys there is no config.json, so the page offers none."""

    async def config(request: Request) -> Response:
        # However liberal CORS may be on a developer's machine, other sites are not handed the keys.
        if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            raise HTTPException(404)
        keys = [asdict(key) for key in development_keys]
        return JSONResponse({"developmentKeys": keys}, headers={"Cache-Control": "no-store"})

    async def operations(_: Request) -> Response:
        return FileResponse(HERE / "operations.json", headers=HEADERS | {"Cache-Control": "no-cache"})

    offer = [Route("/graphiql/config.json", config)] if development_keys else []
    return [
        *offer,
        Route("/graphiql/operations.json", operations),
        Mount("/graphiql/assets", pages.Assets(HERE / "static" / "assets", HEADERS)),
    ]
