"""The folders and files of `ms_codegeex.extras.evaluation` import in one direction: the order in its docstring."""

import re
from pathlib import Path

from test_architecture import imports_of

from ms_codegeex.extras import evaluation

PACKAGE, INSIDE = Path(evaluation.__file__).parent, "extras.evaluation."
LINES = re.findall(r"^    (\w+(?:, \w+)*)(?:  |$)", evaluation.__doc__, re.MULTILINE)
LEVELS = {name: level for level, line in enumerate(LINES) for name in line.split(", ")}


def test_every_part_has_a_level():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(LEVELS) == parts - {"__init__"}


def test_imports_go_down():
    upward = []
    for pair in imports_of(PACKAGE.parents[1]):
        inside = [name.removeprefix(INSIDE) for name in pair if name.startswith(INSIDE)]
        if len(inside) == 2:
            part, other = (name.partition(".")[0] for name in inside)
            if part != other and LEVELS[other] <= LEVELS[part]:
                upward.append(pair)
    assert not upward
