"""The GraphiQL page: built beforehand, served from here, asking no other host for anything."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

HERE: Final = Path(__file__).parent
ASSET_AGE_SECONDS: Final = 365 * 24 * 3600

# The editor writes style elements, hence 'unsafe-inline'; 'self' covers this host's WebSocket, too.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; font-src 'self'; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
PAGE_HEADERS: Final = HEADERS | {"Cache-Control": "no-cache", "Vary": "Accept"}
ASSET_HEADERS: Final = HEADERS | {"Cache-Control": f"public, max-age={ASSET_AGE_SECONDS}, immutable"}
# What only a proxy sends.
PROXIES: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})


@dataclass(frozen=True, slots=True)
class DevelopmentKey:
    """A key that the page offers by its label: for a developer's own machine and nowhere else."""

    label: str
    key: str = field(repr=False)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _name_in(asked: str) -> str | None:
    try:
        return urlsplit(f"//{asked}").hostname
    except ValueError:
        return None


def _is_this_machine(request: Request) -> bool:
    """Whether a page of this server asks, shown on this very machine.

    The name that was asked for tells a site whose name was made to lead here (DNS rebinding); the headers of
    proxies tell a tunnel that ends here; the last two, other sites, however liberal CORS may be.
    """
    headers = request.headers
    asked = headers.get("host", "")
    return (
        request.client is not None
        and _is_loopback(request.client.host)
        and _is_loopback(_name_in(asked))
        and PROXIES.isdisjoint(headers)
        and headers.get("sec-fetch-site", "same-origin") in {"same-origin", "none"}
        and headers.get("origin", f"http://{asked}") == f"http://{asked}"
    )


class Assets(StaticFiles):
    """Files named by a hash of their content, so a browser never asks twice."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Say so to the browser; workers take their policy from here as well."""
        response = await super().get_response(path, scope)
        response.headers.update(ASSET_HEADERS)
        return response


def page() -> Response:
    """The page itself; it holds no key and no data, so anyone may load it."""
    return FileResponse(HERE / "static" / "index.html", headers=PAGE_HEADERS)


def routes(development_keys: Sequence[DevelopmentKey] = (), *, host: str = "127.0.0.1") -> list[BaseRoute]:
    """What the page fetches. Where there is no config.json, the page offers no key and asks for one.

    There is one with development keys alone, on a server that listens on a loopback address (`host`), and only
    for the browser of the same machine.
    """

    async def config(request: Request) -> Response:
        if not _is_this_machine(request):
            raise HTTPException(404)
        keys = [asdict(key) for key in development_keys]
        return JSONResponse({"developmentKeys": keys}, headers={"Cache-Control": "no-store"})

    async def operations(_: Request) -> Response:
        return FileResponse(HERE / "operations.json", headers=HEADERS | {"Cache-Control": "no-cache"})

    offered = development_keys and _is_loopback(host)
    offer = [Route("/graphiql/config.json", config)] if offered else []
    return [
        *offer,
        Route("/graphiql/operations.json", operations),
        Mount("/graphiql/assets", Assets(directory=HERE / "static" / "assets")),
    ]
