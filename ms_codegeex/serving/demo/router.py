"""The routes of the web demo: the page at `/`, its assets, its examples.

A model can write hostile text, which the page shows only as text nodes. As a second defence, the browser may load
scripts and styles from this server only, runs no inline scripts, and sends requests to no other server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.exceptions import HTTPException

from ms_codegeex.serving.demo.examples import DemoExample

ASSETS = Path(__file__).parent / "assets"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def assets() -> dict[str, Response]:
    """The responses with the assets, by file name."""
    return {
        path.name: Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=HEADERS)
        for path in ASSETS.iterdir()
        if path.suffix in TYPES
    }


def router(examples: Sequence[DemoExample]) -> APIRouter:
    """The routes of the page, its assets and these examples."""
    routes = APIRouter(include_in_schema=False)
    files, shown = assets(), [asdict(example) for example in examples]

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return files["index.html"]

    @routes.api_route("/demo/assets/{name}", methods=["GET", "HEAD"])
    async def asset(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no asset {name!r}")
        return files[name]

    @routes.get("/demo/examples")
    async def the_examples() -> list[dict[str, str]]:
        return shown

    return routes
