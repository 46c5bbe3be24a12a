"""Writes README's table "Status" and docs/status.md from docs/status.yaml.

python docs/status.py            # writes them
python docs/status.py --check    # writes nothing; exit status 1 and the names of the files that differ
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.hardware import CHIPS
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.planning.hardware_files import uncertain_of

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("not verified", "not seen", "not run", "not reproduced")
TABLES = {"summary": "of", "devices": "device", "capabilities": "capability"}  # in the YAML, and their first column


@dataclass(frozen=True)
class Check:
    """How to verify a part on devices: what to do, what to see."""

    part: str
    do: str
    see: str


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, what is tested, and each unverified part with one of `MARKS`."""

    name: str
    state: str
    unverified: dict[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def text(self) -> str:
        """State and unverified parts."""
        return "; ".join([self.state, *(f"{what} **{mark}**" for what, mark in self.unverified.items())])


def read_status(path: Path) -> dict[str, list[Row]]:
    """Rows by section; a mark that is not one of `MARKS`, or checks of a row without `unverified`, is a `UserError`."""
    tables: dict[str, list[Row]] = {}
    for key in TABLES:
        tables[key] = []
        for values in yaml.safe_load(path.read_text(encoding="utf-8"))[key]:
            check_tree(Row, values, key)
            row = validated(Row, values, f"{key}.")
            wrong = [mark for mark in row.unverified.values() if mark not in MARKS]
            if wrong:
                raise UserError(f"{path}: {row.name}: '{wrong[0]}'; write one of {', '.join(MARKS)}")
            if "**" in row.state or (row.checks and not row.unverified):
                raise UserError(f"{path}: {row.name}: name what is not verified under `unverified`")
            tables[key].append(row)
    return tables


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table, its header first; bars inside cells are escaped."""
    header, *rest = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *rest])


def table_of(key: str, tables: dict[str, list[Row]]) -> str:
    """One of `TABLES`."""
    return table((TABLES[key], "state"), *((row.name, row.text) for row in tables[key]))


def readme(text: str, tables: dict[str, list[Row]]) -> str:
    """README with its table made from the status."""
    pattern = re.compile(r"(?<=## Status\n\n)\|.*?\n(?=\n)", re.DOTALL)
    if not pattern.search(text):
        raise UserError("README.md: no table below '## Status'; put one line `|` there")
    return pattern.sub(lambda _: table_of("summary", tables) + "\n", text, count=1)


def status_page(tables: dict[str, list[Row]]) -> str:
    """docs/status.md."""
    rows = [*tables["devices"], *tables["capabilities"]]
    part = {"capabilities": [row for row in tables["capabilities"] if row.unverified]}
    checks = [(check.part, check.do, check.see) for row in rows for check in row.checks]
    figures = [(chip.name, ", ".join(f"`{name}`" for name in sorted(uncertain_of(chip)))) for chip in CHIPS.values()]
    return f"""# What is tested, and what nobody has verified

```bash
ms-codegeex doctor    # what this machine lacks
```

Generated from `docs/status.yaml` by `python docs/status.py`. Edit that file instead. The marks are **not verified**,
**not seen**, **not run** and **not reproduced**.

## What runs where

{table_of("devices", tables)}

## Capabilities

{table_of("capabilities", part)}

`docs/status.yaml` also has what is tested with nothing left open.

## How to verify it on devices

On one H100 the tests of a GPU passed, except that of two ([hardware.md](hardware.md#nvidia-gpus)). Nothing has run on
an Ascend device or a real network. "The run of one server" is that of [cluster.md](cluster.md#one-server).

{table(("part", "command", "what to see"), *checks)}

## Figures of devices that no source settles

`plan --sources` prints the source of each. A [hardware file](plan.md#measured-steps) replaces
them.

{table(("device", "uncertain"), *figures)}
"""


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The text that README and docs/status.md should have."""
    tables = read_status(root / "docs" / "status.yaml")
    path = root / "README.md"
    return {
        path: readme(path.read_text(encoding="utf-8"), tables),
        root / "docs/status.md": status_page(tables),
    }


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the pages, or with --check say which differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page differs")
    check, changed = parser.parse_args(arguments).check, 0
    try:
        for path, text in pages(root).items():
            if path.exists() and path.read_text(encoding="utf-8") == text:
                continue
            changed += 1
            if check:
                print(f"{path.relative_to(root)}: differs from docs/status.yaml; run python docs/status.py")
                continue
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except UserError as error:
        print(f"status: {error}", file=sys.stderr)
        return 2
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
