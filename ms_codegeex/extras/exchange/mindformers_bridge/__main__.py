"""`python -m ms_codegeex.mindformers_bridge --config FILE [key=value …]`: mindformers' Trainer on one of the families.

The mindformers package has no command of its own (`run_mindformer.py` is only in its repository)."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error

if TYPE_CHECKING:
    from mindformers.tools.register import MindFormerConfig

BUILDERS = {  # modules of mindformers, and the part of its file that they build
    "build_lr.py": "lr_schedule",
    "build_optim.py": "optimizer",
    "optimizer_grouped_parameters.py": "optimizer",
}


def check_weights(config: MindFormerConfig) -> None:
    """`UserError` if a checkpoint lacks weights of the model, of which mindformers only warns and which stay random."""
    from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

    from ms_codegeex.formats.mindspore_checkpoint import is_training_state, read_mindspore

    path = config.load_checkpoint or (config.checkpoint or {}).get("load_path")
    if not path:
        return
    files = [Path(path)] if Path(path).is_file() else Path(path).rglob("*")
    weights = [file for file in files if file.suffix in (".ckpt", ".safetensors")]
    weights = [file for file in weights if not is_training_state("files", file.name)]  # such as strategy files
    there = {name for file in weights for name in read_mindspore(file)}
    model = MindFormerRegister.get_instance_from_cfg(config.model.model_config.copy(), MindFormerModuleType.CONFIG)
    if missing := [name for name in model.run_config().model.sizes.parameter_shapes() if name not in there]:
        remedy = "give a checkpoint of this model, or `convert` one (docs/exchange.md)"
        raise UserError(f"load_checkpoint: {path} lacks {len(missing)} weights, such as {missing[0]}; {remedy}")


@contextmanager
def built() -> Iterator[None]:
    """`UserError` for a part of the file that mindformers refuses to build; other errors pass."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        files = {Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)}
        part = next((BUILDERS[name] for name in BUILDERS if name in files), None)
        if part is None:
            raise
        raise UserError(f"{part}: {str(error).strip().splitlines()[0]}; correct it") from None


def train(path: Path, overrides: Sequence[str] = ()) -> None:
    """Register the families, then do what mindformers' own start script does: context, `Trainer`, `train`."""
    from ms_codegeex.extras.exchange.mindformers_bridge import register
    from ms_codegeex.extras.exchange.mindformers_bridge.settings import load

    os.environ.setdefault("LOCAL_DEFAULT_PATH", "runs/mindformers")  # otherwise its import makes ./output
    register()
    from mindformers import Trainer, build_context

    config = load(path, overrides)
    build_context(config)
    check_weights(config)
    with built():
        Trainer(args=config).train()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if training is done, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m ms_codegeex.mindformers_bridge", description=__doc__)
    words = "YAML file of mindformers, or a shipped name"
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help=words)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, such as optimizer.eps=1.0e-6")
    arguments = parser.parse_args(argv)
    try:
        train(arguments.config, arguments.overrides)
    except UserError as error:
        print_error(f"ms_codegeex.mindformers_bridge: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
