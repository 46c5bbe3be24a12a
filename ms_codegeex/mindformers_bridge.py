"""Public name of `extras.exchange.mindformers_bridge` (docs/exchange.md).

`python -m ms_codegeex.mindformers_bridge` runs it. `ms_codegeex.mindformers_bridge.X` is the same module object as its
submodule X, not a second copy with its own classes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ms_codegeex.extras.exchange.mindformers_bridge import __path__, register

__all__ = ["__path__", "register"]
NAME, PLACE = "ms_codegeex.mindformers_bridge", "ms_codegeex.extras.exchange.mindformers_bridge"


class _SameModule(MetaPathFinder, Loader):
    """Import hook that resolves modules below `NAME` to those below `PLACE`."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.startswith(f"{NAME}.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(PLACE + spec.name.removeprefix(NAME))
        spec.loader_state = module.__spec__  # the import system replaces `__spec__`; `exec_module` restores it
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state


if __name__ == "__main__":
    from ms_codegeex.extras.exchange.mindformers_bridge.__main__ import main

    sys.exit(main())
elif not any(isinstance(each, _SameModule) for each in sys.meta_path):
    sys.meta_path.insert(0, _SameModule())
