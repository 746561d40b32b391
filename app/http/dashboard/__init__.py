"""The dashboard: built beforehand from frontend-examples/dashboard, served from here, asking no other host."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from app.http.pages import Assets, guarded, page

STATIC: Final = Path(__file__).parent / "static"

# 'self' covers this host's WebSocket, too. Nothing is inline, so nothing inline is allowed.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; font-src 'self'; img-src 'self'; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = guarded(POLICY)
# One page for all screens: it reads from its address which one is meant.
SCREENS: Final = ("/", "/positions", "/positions/{id}", "/live", "/administration")


async def _dashboard(_: Request) -> Response:
    return page(STATIC / "index.html", HEADERS)


def routes() -> list[BaseRoute]:
    """The page at each of its addresses, and what it fetches."""
    return [
        *(Route(path, _dashboard) for path in SCREENS),
        Mount("/dashboard/assets", Assets(STATIC / "assets", HEADERS)),
    ]
