"""The route `/v1/models`."""

from __future__ import annotations

import time

from fastapi import APIRouter

from ms_codegeex.serving.backend import Backend
from ms_codegeex.serving.errors import ApiError
from ms_codegeex.serving.model import ServedModel
from ms_codegeex.serving.schemas import ModelList, ServedModelObject


def chosen_model(backend: Backend, name: str | None) -> ServedModel:
    """The model, or the model with an adapter, of that name; without a name the model alone. 404 for other names. Some
    editors send an empty name."""
    if not name:
        return backend.model
    if name not in backend.models:
        known = ", ".join(map(repr, backend.models))
        raise ApiError(
            404, f"the model {name!r} does not exist; this server has {known}", param="model", code="model_not_found"
        )
    return backend.models[name]


def router(backend: Backend) -> APIRouter:
    """The routes."""
    found, created = APIRouter(), int(time.time())

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

    @found.get("/v1/models")
    async def models() -> ModelList:
        """The model that is served, and it with each adapter."""
        return ModelList(data=[described(each) for each in backend.models.values()])

    @found.get("/v1/models/{name:path}")
    async def model(name: str) -> ServedModelObject:
        """A served model by its name."""
        return described(chosen_model(backend, name))

    return found
