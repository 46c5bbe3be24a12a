"""`POST /tokenize` and `/detokenize` as in llama.cpp and vLLM, and vLLM's `/tokenizer_info`, which lm-eval needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import AliasChoices, Field
from starlette.responses import Response

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving.backend import Backend
from ms_codegeex.extras.serving.schemas import Body, Ids


class TokenizeRequest(Body):
    """Text to encode."""

    foreign = "tokens"
    content: str = Field(validation_alias=AliasChoices("content", "prompt"))
    add_special: bool | None = Field(
        None,
        validation_alias=AliasChoices("add_special", "add_special_tokens"),
        description="begin with the ids that every prompt has (default: no)",
    )
    parse_special: bool | None = Field(
        None, description="names of special tokens become their ids (default: as in prompts)"
    )
    with_pieces: bool | None = Field(
        None, description="also give each token's text, or its bytes if they are not text (default: no)"
    )


class DetokenizeRequest(Body):
    """Ids to decode."""

    foreign = "tokens"
    tokens: Ids


def _response(tokens: Sequence[Any], context: int) -> Response:
    """Encode token by token: a single long call of `json.dumps` would block all other threads."""
    rest = f'"count":{len(tokens)},"max_model_len":{context}'
    return Response(f'{{"tokens":[{",".join(map(json.dumps, tokens))}],{rest}}}', media_type="application/json")


def router(backend: Backend) -> APIRouter:
    routes, tokenizer = APIRouter(tags=["tokens"]), backend.model.tokenizer

    def piece(number: int) -> str | list[int]:
        data = tokenizer.token_bytes(number)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return list(data)

    # not `async`: FastAPI runs plain functions in a thread, so that long texts do not delay other answers
    @routes.post("/tokenize", response_model=dict[str, int | list[int] | list[dict[str, Any]]])
    def tokenize(body: TokenizeRequest) -> Response:
        """Encode a text, which may be as long as the longest prompt."""
        text = body.content
        if len(text) > backend.model.max_characters:
            raise UserError(f"content: {len(text)} characters; give {backend.model.max_characters} at most")
        special = backend.model.special_tokens if body.parse_special is None else body.parse_special
        ids = tokenizer.encode_prompt(text, special)
        if not body.add_special:
            ids = ids[len(tokenizer.prefix) :]
        if body.with_pieces:
            ids = [{"id": number, "piece": piece(number)} for number in ids]
        return _response(ids, backend.model.context)

    @routes.post("/detokenize")
    def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        """Decode ids. The text has both llama.cpp's and vLLM's field name."""
        return dict.fromkeys(("content", "prompt"), tokenizer.decode(body.tokens))

    @routes.get("/tokenizer_info")
    def tokenizer_info() -> dict[str, str | None]:
        """Return the names of the special tokens. There is none at the start of documents."""
        eos = tokenizer.token_bytes(tokenizer.eos_id).decode("utf-8", "replace")
        return {"tokenizer_class": tokenizer.name, "eos_token": eos, "bos_token": None, "pad_token": None}

    return routes
