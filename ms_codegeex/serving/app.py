"""The API as an application: its routes, errors and request guards. `site` adds the pages that people look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import ms_codegeex
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.serving import errors
from ms_codegeex.serving.backend import Backend
from ms_codegeex.serving.guards import BodyLimit, Guard, Recording, check_origins
from ms_codegeex.serving.keys import Keys
from ms_codegeex.serving.records import AccessLog, Metrics
from ms_codegeex.serving.routes import completions, embeddings, infill, native, status, tasks, tokens
from ms_codegeex.serving.schemas import ErrorAnswer
from ms_codegeex.serving.settings import ServeSettings


def create_app(settings: ServeSettings, backend: Backend) -> FastAPI:
    """The API that answers from `backend`."""
    app = FastAPI(
        title="ms-codegeex",
        version=ms_codegeex.__version__,
        redirect_slashes=False,  # behind a proxy, the new address would be wrong
        docs_url=None,  # FastAPI's pages load their scripts from other servers
        redoc_url=None,
        description=f"{backend.model.name}: completions for code, in the shape of OpenAI's API.",
        responses={
            "4XX": {"model": ErrorAnswer, "description": "a request that is wrong, not allowed, or one too many"},
            "5XX": {"model": ErrorAnswer, "description": "the server cannot answer at present"},
        },
    )
    errors.install(app)
    keys = None if settings.api_key_file is None else Keys(settings.api_key_file)
    check_origins(settings.cors, keys is not None)
    metrics = Metrics(backend)
    app.include_router(status.models_router(backend))
    for module in (completions, embeddings, tasks, infill, native, tokens):
        app.include_router(module.router(backend))
    app.include_router(status.router(backend, metrics))
    log = None
    if settings.access_log is not None:
        log = AccessLog(settings.access_log, backend.model.tokenizer.decode if settings.log_prompts else None)
    # the middleware that is added last is the outermost
    app.add_middleware(BodyLimit, maximum=settings.max_body)
    app.add_middleware(Guard, settings=settings, keys=keys)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(Recording, metrics=metrics, log=log)
    app.state.reload = partial(_reload, [one for one in (keys and keys.reload, log and log.reopen) if one])
    return app


def _reload(reloads: Sequence[Callable[[], object]]) -> None:
    """Handle SIGHUP: read the keys and open the access log again. An invalid file changes nothing."""
    for reload in reloads:
        try:
            reload()
        except UserError as error:
            print_error(f"SIGHUP: {error}; the old one stays in use")
