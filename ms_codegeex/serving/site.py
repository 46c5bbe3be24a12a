"""What `serve` answers with: the API, and the pages that people look at."""

from __future__ import annotations

from fastapi import FastAPI

from ms_codegeex.serving.app import create_app
from ms_codegeex.serving.backend import Backend
from ms_codegeex.serving.demo import router as demo
from ms_codegeex.serving.demo.examples import load_examples
from ms_codegeex.serving.description import router as description
from ms_codegeex.serving.settings import ServeSettings


def create_site(settings: ServeSettings, backend: Backend) -> FastAPI:
    """The API that answers from `backend`, its description at `/docs`, and the web demo at `/` if it is wanted."""
    app = create_app(settings, backend)
    if settings.demo:
        app.include_router(demo.router(load_examples(settings.example_path)))
    app.include_router(description(app))
    return app
