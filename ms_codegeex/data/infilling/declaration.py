"""What a model directory declares about infilling; `sentinels.py` says what may be in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.quarantine import has_file, read_json_inside
from ms_codegeex.data.infilling.sentinels import DESCRIPTION


def declared_infill(directory: Path) -> Mapping[str, Any] | None:
    """The setting `infill` in a model directory, unchecked; None if there is none."""
    content = read_json_inside(directory, DESCRIPTION) if has_file(directory, DESCRIPTION) else None
    return content.get("infill") if isinstance(content, dict) else None
