"""`python broken_worker.py MISTAKE ROLE …`: a rehearsal's process that makes one mistake, for tests of the verdict."""

import os
import sys
from dataclasses import replace

from ms_codegeex.models.layers import Dropout
from ms_codegeex.parallel import context
from ms_codegeex.parallel.strategies import Cuts
from ms_codegeex.rehearsal import worker
from ms_codegeex.rehearsal.exchange import Exchange
from ms_codegeex.training import build


def change_engine(**changes):
    settings = context.engine_settings
    context.engine_settings = lambda config, rank: {**settings(config, rank), **changes}


def averaged_gradients():
    change_engine(gradients_mean=True)


def whole_optimizer_state():
    """Every weight is below the size from which the engine shards, which says nothing about it."""
    change_engine(parallel_optimizer_config={"parallel_optimizer_threshold": 10**6, "optimizer_weight_shard_size": 2})


def swapped_column_and_row():
    Cuts.column, Cuts.row = Cuts.row, Cuts.column


def stale_table_on_the_last_stage():
    settings = build.step_settings
    build.step_settings = lambda *arguments: replace(settings(*arguments), tied=None)


def norm_that_counts_copies():
    """Every device that holds an element adds its square: too large a norm, so clipping takes too much."""
    settings = build.step_settings

    def counted(*arguments):
        right = settings(*arguments)
        return right if right.weights is None else replace(right, weights=(1.0,) * len(right.weights))

    build.step_settings = counted


def masks_of_each_rank():
    """Every device drops other elements, as a kernel does whose seeds have no effect."""
    initialise, rank = Dropout.__init__, int(os.environ.get("RANK_ID", "0"))
    Dropout.__init__ = lambda self, probability, shape, site, seed: initialise(
        self, probability, shape, site, seed + rank
    )


def missing_reduction():
    """One weight's gradient stays as each replica computed it."""
    register = Exchange.register

    def forgetful(self, collectives):
        skipped = next(c for c in collectives if c.op == "AllReduce" and c.fusion and len(c.shape) == 2)
        whole = self.function
        self.function = lambda c: (lambda value, *_: value) if c is skipped else whole(c)
        register(self, collectives)

    Exchange.register = forgetful


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.exit(worker.main(sys.argv[2:]))
