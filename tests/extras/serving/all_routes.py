"""Every route of the application, and the smallest request to each: tests of what holds for all routes begin here."""

from __future__ import annotations

from functools import cache

from fake_backend import FakeBackend

from ms_codegeex.extras.serving.app import create_app

_CODE = {"code": "x", "language": "Python"}
BODIES = {  # of each route that takes one; `test_foreign_fields.py` fails if one is missing
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x"},
    "/v1/code/explain": _CODE,
    "/v1/code/comment": _CODE,
    "/v1/code/document": _CODE,
    "/v1/code/fix": _CODE,
    "/v1/code/sql": {"code": "x"},
    "/v1/code/translate": {"code": "x", "source_language": "Python", "target_language": "Java"},
    "/infill": {"input_prefix": "x"},
    "/v1/embeddings": {"input": "x"},
    "/apply-template": {"messages": [{"role": "user", "content": "x"}]},
    "/tokenize": {"content": "x"},
    "/detokenize": {"tokens": [5]},
}
WITHOUT_KEY = ("/health", "/ready")  # probes


@cache
def routes() -> tuple[tuple[str, str], ...]:
    """Method and path of each route, with the fake model's name where a path has one."""
    backend = FakeBackend()
    described = create_app(backend.settings, backend).openapi()["paths"]
    return tuple(
        (method.upper(), path.replace("{name}", "fake")) for path, methods in described.items() for method in methods
    )
