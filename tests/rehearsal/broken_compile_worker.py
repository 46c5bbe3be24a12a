"""The compile worker with a fault that test_compile.py has to see: `broken_compile_worker.py FAULT ARGUMENTS…`."""

import sys

from ms_codegeex.base.errors import UserError
from ms_codegeex.parallel import context
from ms_codegeex.rehearsal import compile_worker


def unsharded(config, rank, settings=context.engine_settings):
    """All replicas share a weight, as by default; where they do not divide its rows, the engine keeps it whole."""
    values = settings(config, rank)
    values["parallel_optimizer_config"].pop("optimizer_weight_shard_size")
    return values


def stumbling(config, rank):
    """A worker that cannot go on."""
    raise UserError("model.hidden_size: a message for the user")


if __name__ == "__main__":
    context.engine_settings = {"unsharded": unsharded, "stumbling": stumbling}[sys.argv[1]]
    sys.exit(compile_worker.main(sys.argv[2:]))
