"""The name that users give to `extras.evaluation`: `python -m ms_codegeex.evaluation.sandbox` (docs/sandbox.md)."""

from ms_codegeex.extras.evaluation import __path__

__all__ = ["__path__"]
