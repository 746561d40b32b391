"""Pages that were built beforehand and are served from here: how browsers keep them, and what those may do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

ASSET_AGE_SECONDS: Final = 365 * 24 * 3600


def guarded(policy: str) -> dict[str, str]:
    """The headers that hold a browser to that Content-Security-Policy."""
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}


def page(file: Path, headers: Mapping[str, str]) -> Response:
    """The page itself; it holds no key and no data, so anyone may load it."""
    return FileResponse(file, headers=dict(headers) | {"Cache-Control": "no-cache"})


class Assets(StaticFiles):
    """Files named by a hash of their content, so a browser never asks twice."""

    def __init__(self, directory: Path, headers: Mapping[str, str]) -> None:
        super().__init__(directory=directory)
        lasting = {"Cache-Control": f"public, max-age={ASSET_AGE_SECONDS}, immutable"}
        self._headers = dict(headers) | lasting

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Say so to the browser; workers take their policy from here as well."""
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response
