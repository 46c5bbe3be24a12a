"""The runs of a ladder: one for every size, number of tokens, seed and value of the varied setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.validation import Natural, Positive, check_tree, validated
from ms_codegeex.config.values import merged, parse_overrides, read_yaml, with_home

QUIET = {"checkpoint": {"every": 0, "keep": 1, "resume": "auto", "export": False}, "logging": {"tensorboard": False}}


@dataclass(frozen=True)
class Variation:
    """One setting of a run, with the values that are compared."""

    key: str | None = None  # dotted, such as data.reset_at_eos; None: nothing is varied
    values: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class LadderSettings:
    """A ladder's YAML file."""

    run: str  # YAML file of the runs, or a shipped name
    tokens: list[Positive]  # each is a separate run; its schedule ends there
    sizes: list[dict[str, Any]]  # fields of the model's configuration
    output: str = "runs/ladder"
    seeds: list[Natural] = field(default_factory=lambda: [1])
    vary: Variation = field(default_factory=Variation)
    settings: dict[str, Any] = field(default_factory=dict)  # other differences of the runs from `run`


LadderSettings.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Rung:
    """One run of a ladder."""

    config: RunConfig
    size: int  # its index in the list of sizes
    tokens: int
    seed: int
    value: Any  # what the varied setting has

    @property
    def directory(self) -> Path:
        """Its run directory: another configuration has another one, so that a finished run is never mistaken."""
        return Path(self.config.output)


def load_ladder(path: Path | None, overrides: Sequence[str]) -> tuple[LadderSettings, list[Rung]]:
    """A ladder from a YAML file and overrides of its keys, checked with every run in it."""
    values = merged(with_home(read_yaml(path)) if path else {}, parse_overrides(overrides))
    for key in ("run", "tokens", "sizes"):
        if not values.get(key):
            raise UserError(f"{key}: missing; a ladder needs run, tokens and sizes (docs/plan.md has an example)")
    if isinstance(values["run"], str) and path and (path.parent / values["run"]).is_file():
        values["run"] = str(path.parent / values["run"])
    own = {"settings": values["settings"]} if "settings" in values else {}
    checked = check_tree(LadderSettings, {key: value for key, value in values.items() if key not in own})
    settings = validated(LadderSettings, {**checked, **own})
    if (settings.vary.key is None) != (not settings.vary.values):
        raise UserError("vary: give both key and values, such as vary={key: data.reset_at_eos, values: [true, false]}")
    for name, listed in {**vars(settings), "vary.values": settings.vary.values}.items():
        again = [x for number, x in enumerate(listed) if x in listed[:number]] if isinstance(listed, list) else []
        if again:
            raise UserError(f"{name}: {json.dumps(again[0])} equals one before it; give each once")
    if not settings.seeds:
        raise UserError("seeds: an empty list; give one or more, such as [1]")
    ladder = rungs(settings)
    _check_distinct(ladder)
    return settings, ladder


def _check_distinct(ladder: Sequence[Rung]) -> None:
    """`UserError` if two runs would train the same: the fit would count one twice."""
    known: dict[str, Rung] = {}
    for rung in ladder:
        other = known.setdefault(json.dumps({**rung.config.to_dict(), "output": None}, sort_keys=True), rung)
        if other is not rung:
            first, second = (
                f"sizes[{x.size}], {x.tokens} tokens, seed {x.seed}, value {json.dumps(x.value)}" for x in (other, rung)
            )
            raise UserError(
                f"tokens, sizes, vary: two runs are the same ({first}; {second}); make tokens differ by a step or "
                "more, and vary no key that the ladder sets itself, such as training.steps or seed"
            )


def rungs(settings: LadderSettings) -> list[Rung]:
    """All runs, the smallest first."""
    common = merged(with_home(read_yaml(find_config(settings.run, option="run"))), merged(QUIET, settings.settings))
    ladder = [
        _rung(common, settings, size, tokens, seed, value)
        for tokens in sorted(settings.tokens)
        for size in range(len(settings.sizes))
        for value in settings.vary.values or [None]
        for seed in settings.seeds
    ]
    return sorted(ladder, key=lambda x: x.config.model.sizes.flops_per_token(x.config.seq_length) * x.tokens)


def _rung(common: Mapping[str, Any], settings: LadderSettings, size: int, tokens: int, seed: int, value: Any) -> Rung:
    key = settings.vary.key
    values = merged(common, {"model": settings.sizes[size], "seed": seed, "devices": common.get("devices") or 1})
    if key is not None:
        values = merged(values, parse_overrides([f"{key}={json.dumps(value)}"]))
    first = build_run_config(merged(values, {"training": {"steps": 1, "tokens": None}, "output": "none"}))
    steps = max(2, round(tokens / (first.training.global_batch * first.seq_length)))
    schedule = {"decay_steps": None, "warmup_steps": None}  # those of its length
    length = {"steps": steps, "tokens": None, "evaluate_every": 0, "schedule": schedule}
    values = merged(values, {"training": length, "output": "none"})
    whole = build_run_config(values)
    digest = json_digest(whole.to_dict())
    name = f"{whole.model.sizes.parameter_count()}-{tokens}-seed{seed}-{digest[:8]}"
    output = Path(settings.output).absolute() / "runs" / name
    return Rung(build_run_config({**values, "output": str(output)}), size, tokens, seed, value)
