"""Pages that were built beforehand and are served from here: how browsers keep them, and what those may do."""

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

ASSET_AGE_SECONDS: Final = 365 * 24 * 3600


def guarded(policy: str) -> dict[str, str]:
    """The headers that hold a browser to that Content-Security-Policy."""
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}


def page(file: Path, headers: Mapping[str, str]) -> Response:
    """The page itself; it holds no key and no data, so anyone may load it."""
    return FileResponse(file, headers=dict(headers) | {"Cache-Control": "no-cache"})


_STYLE: Final = (
    ":root { color-scheme: light dark; font: 1.05rem/1.6 system-ui, sans-serif } "
    "body { margin: 18vh auto 0; max-width: 34rem; padding: 0 1.5rem } "
    "h1 { font-size: 1.6rem } a { color: inherit }"
)
_MISSING: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Not here · Escrowgrid</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>There is no such page</h1>
<p>Nothing of this server is at this address. The <a href="/">dashboard</a> shows what is held; in
<a href="/graphql">GraphiQL</a> one asks the ledger.</p>
</main>
</body>
</html>
"""
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()
_MISSING_HEADERS: Final = guarded(
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
) | {"Cache-Control": "no-cache", "Vary": "Accept"}


def missing() -> Response:
    """What a person sees at an address where there is nothing; it repeats nothing of the address."""
    return HTMLResponse(_MISSING, 404, _MISSING_HEADERS)


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
