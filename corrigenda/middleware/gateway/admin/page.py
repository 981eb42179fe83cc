"""The admin page: static files that talk to the admin API. No build step, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
# The page shows texts that anyone may have written: nothing but our own script runs, nobody may frame it, and the
# key, which lives in the tab, is sent to this server only.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def routes() -> list[BaseRoute]:
    """Return the routes of the page: ``/admin/`` and its files."""
    folder = files("corrigenda.middleware.gateway.admin") / "static"
    contents = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.rpartition(".")[2] in _TYPES}

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in contents:
            return Response("There is nothing here.", 404)
        kind = _TYPES[name.rpartition(".")[2]]
        return Response(contents[name], media_type=f"{kind}; charset=utf-8", headers=_HEADERS)

    async def home(request: Request) -> Response:
        return RedirectResponse("/admin/", 308)

    return [Route("/admin", home), Route("/admin/", file), Route("/admin/{name}", file)]
