"""`python broken_program.py MISTAKE[+MISTAKE…] …`: the rehearsal's program with mistakes, for tests of the verdict."""

import os
import sys
from dataclasses import replace

from mindspore import ops

from ms_codegeex.extras.cluster.rehearsal import control_edges, execution_program
from ms_codegeex.extras.cluster.rehearsal.communicator import FileCommunicator
from ms_codegeex.models.layers import Dropout
from ms_codegeex.parallel import context, sharding
from ms_codegeex.parallel.strategies import Strategies
from ms_codegeex.training import build, step
from ms_codegeex.training.optimizer import AdamW
from ms_codegeex.training.step import TrainStep, _square


def change_engine(**changes):
    settings = context.engine_settings
    context.engine_settings = lambda config, rank: {**settings(config, rank), **changes}


def averaged_gradients():
    change_engine(gradients_mean=True)


def whole_optimizer_state():
    """Every weight is below the size from which the engine shards, which says nothing about it."""
    change_engine(parallel_optimizer_config={"parallel_optimizer_threshold": 10**6, "optimizer_weight_shard_size": 2})


def swapped_column_and_row():
    Strategies.column, Strategies.row = Strategies.row, Strategies.column


def three_devices_of_two():
    """The engine compiles no such strategy."""
    Strategies.column = lambda self, linear: linear.matmul.shard(((1, 1), (3, 1)))


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


def verdict_of_each_rank():
    """Each rank looks only at its own gradients to decide whether to skip; an overflow everywhere hides that."""
    TrainStep._global_sums = _sums_with_a_verdict_of_its_own


def _sums_with_a_verdict_of_its_own(self, last, sums, gradients, scale):
    square = ops.addn(self.map(_square, self.norm_weights, gradients))
    if self.scaled:
        square = square / scale / scale
    own = ops.select(ops.isfinite(square), square, ops.zeros_like(square))
    packed = sums * self.sum_share + self.square_place * own
    if self.world > 1:
        packed = self.reduce(packed)
    return packed[0], packed[1], ops.select(ops.isfinite(square), packed[2], square)


def decays_twice():
    """AdamW pulls weights to zero once more."""
    initialise = AdamW.__init__

    def twice(self, *arguments, **options):
        initialise(self, *arguments, **options)
        self.decay = tuple(2 * decay for decay in self.decay)

    AdamW.__init__ = twice


def gradients_of_twice_the_size():
    """On one device as well; the norm is that of the right ones, and where a step is clipped all still agree."""
    step._scale = _scale_twice


def _scale_twice(factor, gradient):
    return gradient * (2.0 * factor)


def rows_of_the_next_rank():
    """The trainer's slices of a batch are shifted: what two devices load overlaps."""
    right = sharding.loaded_rows

    def shifted(config, rank):
        rows = right(config, rank)
        return rows if rank == 0 else slice(rows.start - 1, rows.stop - 1)

    sharding.loaded_rows = shifted


def masks_of_each_rank():
    """Every device drops other elements, as a kernel does whose seeds have no effect."""
    initialise = Dropout.__init__
    Dropout.__init__ = lambda self, probability, shape, site, seed: initialise(
        self, probability, shape, site, seed + int(os.environ.get("RANK_ID", "0"))
    )


def dropout_in_an_evaluation():
    """The stages of a pipeline evaluate as they train; one device does not."""
    set_train = TrainStep.set_train

    def training(self, mode=True):
        set_train(self, mode)
        for _, cell in self.cells_and_names():
            if isinstance(cell, Dropout):
                cell.set_train(True)
        return self

    TrainStep.set_train = training


def missing_reduction():
    """One weight's gradient stays as each replica computed it."""
    functions = FileCommunicator.functions

    def forgetful(self, collectives):
        skipped = next(c for c in collectives if c.op == "AllReduce" and c.fusion and len(c.shape) == 2)
        whole = self.function
        self.function = lambda c: (lambda value, *_: value) if c is skipped else whole(c)
        return functions(self, collectives)

    FileCommunicator.functions = forgetful


def order_of_constants_ignored():
    """What waits for a gradient that is already in its buffer waits for nothing."""
    control_edges.hold = lambda model, library: 0


def last_addition_not_waited_for():
    """The buffers' readers do not wait for the last backward pass: the edges of its additions are taken out."""
    hold = control_edges.hold

    def without(model, library):
        kinds = {primitive.name: primitive.op_type for primitive in model.primitives}
        made = {node.output[0]: node for node in model.graph.node if node.output}
        for node in reversed(model.graph.node):
            if kinds.get(node.op_type.removeprefix("REF::")) != "AddN":
                continue
            parts = list(made[node.input[0]].input)
            if all(kinds.get(made[part].op_type.removeprefix("REF::")) == "Depend" for part in parts):
                last = made[parts[-1]]
                last.input[1] = last.input[0]
        return hold(model, library)

    control_edges.hold = without


if __name__ == "__main__":
    for mistake in sys.argv[1].split("+"):
        globals()[mistake]()
    sys.exit(execution_program.main(sys.argv[2:]))
