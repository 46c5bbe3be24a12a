"""Translates mindformers' settings (`settings.yaml`), numbers and learning rates."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_once
from ms_codegeex.base.shipped import SUFFIXES, find_config, shipped_table
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.config.values import parse_overrides

if TYPE_CHECKING:
    from mindformers.tools.register import MindFormerConfig

NUMERIC = ("grouped_lr_schedule", "lr_schedule", "model", "moe_config", "optimizer", "runner_config")
NUMERIC += ("runner_wrapper", "seed")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_COUNTS = re.compile(r"(.*\.)?(num_.*|.*_steps|.*_size|epochs|seed|t_0|t_max)")
# Attributes of mindformers' schedules; the sum of the first that one has is the number of its steps.
_LENGTHS = (
    ("total_steps",),
    ("decay_start_steps", "decay_steps"),
    ("warmup_steps", "cosine_steps"),
    ("warmup_steps", "keep_steps", "decay_steps", "final_steps"),
)
_BORDERS = ("warmup_steps", "decay_steps", "t_0", "t_max")  # where rates may change besides
_FIRST = 50  # steps that are computed in any case, and as many spread over the whole schedule
# mindformers reads these, too
_UNLISTED = ("checkpoint", "generation_config", "parallelism", "profile_cb", "profiler", "profiler_level")
_NEAR = 0.8  # how similar a misspelt name is
_CUT, _SMALL = 4, 0.0025  # a cut is this many times the falls beside it, and this share of the highest rate


def load(path: Path, overrides: Sequence[str] = ()) -> MindFormerConfig:
    """A YAML file, or the shipped one of that name, as a `MindFormerConfig` with dotted overrides applied. `UserError`
    for settings that would have no effect on these models, or a wrong one."""
    from mindformers.tools.register import MindFormerConfig
    from mindformers.tools.register.template import CONFIG_NAME_TO_CLASS, GeneralConfig

    path = find_config(path, "mindformers")
    if path.suffix not in SUFFIXES:
        raise UserError(f"--config: {path} is not a YAML file; its name must end in .yaml")
    given = parse_overrides(overrides)
    try:
        config = MindFormerConfig(str(path))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        content = read_yaml_file(path) or {}
        if "model" not in given and isinstance(content, Mapping):  # the first thing to know about another model's file
            _check_model(content)
        refused = f"mindformers refuses {path} ({error.args[0]})"
        raise UserError(f"--config: {refused}; correct this, or leave it out") from None
    _refuse_misspelt(given, config, {*config, *CONFIG_NAME_TO_CLASS, *GeneralConfig.keys(), *settings(), *_UNLISTED})
    config.merge_from_dict(given)
    _check_model(config)
    if not config.get("use_parallel"):  # recipes for many devices, run on one
        (config.get("parallel") or {}).pop("enable_parallel_optimizer", None)
    for section in filter(config.get, NUMERIC):
        config[section] = numbers(config[section], section)
    check(config)
    return config


def _check_model(config: Mapping[str, Any]) -> None:
    """`UserError` if a file names no model of ours; newer ones only give the directory that has it."""
    model, trainer = config.get("model"), config.get("trainer")
    arch = model.get("arch") if isinstance(model, Mapping) else None
    if not isinstance(arch, Mapping) or not arch.get("type"):
        name = trainer.get("model_name") if isinstance(trainer, Mapping) else None
        found = f"missing, and trainer.model_name is {name}" if name else "missing"
        raise UserError(f"model.arch.type: {found}; {settings()['model.arch.type']['why']}")
    check({"model": model})


def _refuse_misspelt(
    given: Mapping[str, Any], there: Mapping[str, Any], names: Collection[str], where: str = ""
) -> None:
    """`UserError` for an override of a section, or of a key outside all sections, that is nearly one of mindformers or
    of the file: it would have no effect."""
    for key, value in given.items():
        inner, section = there.get(key), isinstance(value, Mapping)
        near = get_close_matches(key, names, 1, _NEAR) if section or not where else []
        if near and key not in names:
            raise UserError(f"{where}{key}: mindformers has no such section or key; did you mean {where}{near[0]}?")
        if section and isinstance(inner, Mapping):
            _refuse_misspelt(value, inner, inner, f"{where}{key}.")


def settings() -> dict[str, dict[str, Any]]:
    return {key: row for row in shipped_table(Path(__file__).with_name("settings.yaml")) for key in row["keys"]}


def known(section: str) -> list[str]:
    return [key.removeprefix(f"{section}.") for key in settings() if key.startswith(f"{section}.")]


def check(config: Mapping[str, Any]) -> None:
    """`UserError` for a refused setting in mindformers' file, or in a part of it; a line for an ignored one, which is
    taken out, since mindformers refuses some of its values, such as lists of stages."""
    for key, row in settings().items():
        section: Any = None
        value: Any = config
        for part in key.split("."):
            section, value = value, value.get(part) if isinstance(value, Mapping) else None
        asked = value in row["never"] if "never" in row else value not in row.get("fine", (False, "", [], {}))
        if value is not None and asked and row["is"] == "refused":
            raise UserError(f"{key}: found {str(value)[:60]}; {row['why']}")
        if value is not None and asked and row["is"] == "ignored":
            print_once(f"{key}: found {str(value)[:60]}, which has no effect: {row['why']}")
            section[key.rpartition(".")[2]] = row.get("fine", (False,))[0]


def numbers(value: Any, where: str) -> Any:
    """A value of mindformers' file, in which YAML 1.1 takes numbers such as 2e-3 for text; 1e3 is a whole number where
    the setting is a count. `UserError` for one that is not finite."""
    if isinstance(value, dict):
        value.update({key: numbers(each, f"{where}.{key}") for key, each in value.items()})
    elif isinstance(value, list):
        return [numbers(each, where) for each in value]
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: found {value}; give a finite number")
    whole = isinstance(value, float) and value.is_integer() and _COUNTS.fullmatch(where)
    return int(value) if whole else value


def _rates(schedule: LearningRateSchedule) -> dict[int, float]:
    lengths = next((names for names in _LENGTHS if all(hasattr(schedule, name) for name in names)), ())
    borders = {name: int(float(getattr(schedule, name, None) or 0)) for name in {*lengths, *_BORDERS}}
    end = sum(borders[name] for name in lengths) or max(borders.values()) + 1
    sums = {sum(some) for count in range(4) for some in combinations(borders.values(), count)}
    steps = {each + near for each in sums for near in range(-2, 3)} | {end * part // _FIRST for part in range(_FIRST)}
    chosen = sorted(step for step in steps | {*range(_FIRST)} if 0 <= step < end)
    return {step: float(schedule.construct(ms.Tensor([step], ms.int32)).asnumpy().reshape(())) for step in chosen}


def check_rates(rate: Any) -> None:
    """Say where the learning rate of an optimizer, a schedule or some for groups, falls at once. `UserError` if it is
    negative or not finite; the optimizer itself has checked what is not a schedule."""
    for each in rate if isinstance(rate, list | tuple) else (rate,):
        try:
            rates = _rates(each) if isinstance(each, LearningRateSchedule) else {0: 0.0}
        except (ArithmeticError, TypeError, ValueError) as error:
            raise UserError(f"lr_schedule: no rate can be computed ({error}); give all its numbers") from None
        for step, value in rates.items():
            if not 0 <= value < math.inf:
                remedy = "correct warmup_steps, decay_steps and total_steps"
                raise UserError(f"lr_schedule: the learning rate is {value:g} at step {step + 1}; {remedy}")
        small = _SMALL * max(rates.values())
        falls = {step: max(small, rates[step - 1] - rates[step]) for step in rates if step - 1 in rates}
        for step, fall in falls.items():
            if fall > _CUT * max(falls.get(step - 1, small), falls.get(step + 1, small)):
                at_once = f"falls at once from {rates[step - 1]:g} to {rates[step]:g} at step {step + 1}"
                print_once(f"lr_schedule: the learning rate {at_once}; if that is not meant, correct decay_steps")
