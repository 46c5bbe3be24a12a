"""The shortest way from one function of a package to another, over the names that each of them uses."""

import ast
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

Place = tuple[str, str]  # a file by its dotted name below the package, and a function, class or constant of it
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Names:
    """What the files of a package define, and what each definition uses. Annotations do not count. A string that is the
    name of a program leads to its `main`: this is how one process starts another."""

    def __init__(self, package: Path):
        self.package = package
        self.file = lru_cache(maxsize=None)(self._file)

    def _path(self, name: str) -> Path | None:
        path = self.package / name.replace(".", "/")
        found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
        return found[0] if found else None

    def _file(self, name: str) -> tuple[dict[str, ast.stmt], dict[str, Place]]:
        """Definitions and imports of a file."""
        tree = ast.parse(self._path(name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.returns = None
            elif isinstance(node, ast.arg):
                node.annotation = None
            elif isinstance(node, ast.AnnAssign):
                node.annotation = ast.Constant(None)
        defined: dict[str, ast.stmt] = {}
        for node in tree.body:
            if isinstance(node, DEFINITIONS):
                defined[node.name] = node
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name):
                    defined[target.id] = node
        outside = [node for node in tree.body if not isinstance(node, (*DEFINITIONS, ast.If))]
        return defined, {key: place for node in outside for key, place in self._imports(node)}

    def _imports(self, node: ast.AST) -> Iterator[tuple[str, Place]]:
        for each in ast.walk(node):
            if isinstance(each, ast.ImportFrom) and str(each.module).partition(".")[0] == self.package.name:
                for alias in each.names:
                    yield alias.asname or alias.name, (each.module.partition(".")[2], alias.name)

    def used(self, place: Place) -> Iterator[Place]:
        """What a definition uses of the package."""
        name, key = place
        defined, imports = self.file(name)
        known = imports | dict(self._imports(defined[key]))
        for node in ast.walk(defined[key]):
            if isinstance(node, ast.Name):
                yield from self._defined(known.get(node.id, (name, node.id)))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
                yield from self._defined((".".join(known[node.value.id]).strip("."), node.attr))
            elif isinstance(node, ast.Constant) and str(node.value).startswith(f"{self.package.name}."):
                program = node.value.partition(".")[2]
                yield from self._defined((program, "main"))
                yield from self._defined((f"{program}.__main__", "main"))

    def _defined(self, place: Place) -> Iterator[Place]:
        while self._path(place[0]):
            defined, imports = self.file(place[0])
            if place[1] in defined:
                yield place
            if place[1] in defined or place[1] not in imports:
                return
            place = imports[place[1]]  # handed on by a package's face


def road(package: Path, begin: Place, end: Place) -> list[str]:
    """The files of a way with the fewest of them, in order; none if no way leads there."""
    names, cost, before, todo = Names(package), {begin: 0}, {}, deque([begin])
    while todo:
        place = todo.popleft()
        if place == end:
            break
        for other in sorted(names.used(place)):
            steps = cost[place] + (other[0] != place[0])
            if steps < cost.get(other, steps + 1):
                cost[other], before[other] = steps, place
                (todo.append if other[0] != place[0] else todo.appendleft)(other)
    if end not in before:
        return []
    way = [end]
    while way[-1] != begin:
        way.append(before[way[-1]])
    return list(dict.fromkeys(name for name, _ in reversed(way)))
