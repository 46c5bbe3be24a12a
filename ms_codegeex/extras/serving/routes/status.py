"""`/v1/models` lists what the server offers; `/health`, `/ready` and `/metrics` are for probes and Prometheus."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ms_codegeex.extras.serving.backend import Backend
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.records import Metrics
from ms_codegeex.extras.serving.responding import chosen_model
from ms_codegeex.extras.serving.schemas import ModelList, ServedModelObject


def router(backend: Backend, metrics: Metrics) -> APIRouter:
    routes, created = APIRouter(tags=["status"]), int(time.time())

    def described(model: ServedModel) -> ServedModelObject:
        return ServedModelObject(
            id=model.name,
            created=created,
            family=model.family,
            context_length=model.context,
            infill=model.infill,
            chat=model.chat is not None,
            languages=list(model.languages),
            parent=model.parent,
        )

    @routes.get("/v1/models/", include_in_schema=False)
    @routes.get("/v1/models")
    async def models() -> ModelList:
        """List the served model, alone and with each adapter."""
        return ModelList(data=[described(each) for each in backend.models.values()])

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> ServedModelObject:
        """Describe a served model, by its name."""
        return described(chosen_model(backend, name))

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is alive: always 200. Needs no key."""
        return {"status": "ok"}

    @routes.head("/ready", include_in_schema=False)
    @routes.get("/ready", responses={503: {"description": "loading or draining"}})
    async def ready() -> JSONResponse:
        """Whether a request would be answered: 200 or 503. Needs no key."""
        status = "ready" if backend.ready else "draining" if backend.draining else "loading"
        return JSONResponse({"status": status}, 200 if backend.ready else 503)

    @routes.get("/metrics", response_class=Response)
    async def measured() -> Response:
        """Return measurements in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
