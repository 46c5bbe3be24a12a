"""The rehearsal's program with a kernel of attention over documents that a CPU has, for
test_documents_partitioned.py: what is documented of layout TND, from elementary operators, in FP32."""

import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_codegeex.config import chosen_hardware, rules
from ms_codegeex.extras.cluster.rehearsal import execution_program
from ms_codegeex.models.causal import Build
from ms_codegeex.models.documents import DocumentAttention
from ms_codegeex.models.layers import AttentionCore, CausalMask, Dropout
from ms_codegeex.parallel.strategies import Strategies


class Kernel(nn.Cell):
    """The tokens of each device are one sequence, whose documents end where the last input says."""

    def __init__(self, heads, tokens):
        super().__init__()
        self.heads, self.tokens, self.data = heads, tokens, 1
        self.core = AttentionCore(heads, ms.float32, ms.float32, Dropout(0.0, (1, 1), 0, 0))
        self.mask, self.places = CausalMask(tokens, 1, True), Tensor(np.arange(1, tokens + 1)[None, None], ms.int64)
        self.split_query, self.split_key, self.split_value = ops.Transpose(), ops.Transpose(), ops.Transpose()
        self.merge, self.ends_at, self.up = ops.Transpose(), ops.Equal(), ops.Cast()
        self.any, self.down = ops.ReduceMax(), ops.Cast()

    def shard(self, strategy):
        """as of an operator"""
        (dp, tp, _), (_, kv, _), _, *others = strategy
        assert others == [(1, 1), (dp,), (dp,)]
        self.data, strategies = dp, Strategies(data=dp, tensor=tp, groups=kv, vocabulary=1, rows=dp)
        strategies.attention(self.core, True)
        strategies.causal_mask(self.mask)
        self.split_query.shard(((dp, 1, tp, 1),))
        self.split_key.shard(((dp, 1, kv, 1),))
        self.split_value.shard(((dp, 1, kv, 1),))
        self.merge.shard(((dp, tp, 1, 1),))
        self.ends_at.shard(((dp, 1, 1), (1, 1, 1)))
        self.up.shard(((dp, 1, 1),))
        self.any.shard(((dp, 1, 1),))
        self.down.shard(((dp, 1),))

    def construct(self, query, key, value, real_shift, drop_mask, padding_mask, hidden, prefix, q_ends, kv_ends):
        parts, size, order = (self.data, self.tokens), self.heads.size, (0, 2, 1, 3)
        q = self.split_query(ops.reshape(query, (*parts, self.heads.count, size)), order)
        k = self.split_key(ops.reshape(key, (*parts, self.heads.groups, size)), order)
        v = self.split_value(ops.reshape(value, (*parts, self.heads.groups, size)), order)
        ends = self.ends_at(ops.reshape(kv_ends, (self.data, -1, 1)), self.places)
        mask, _ = self.mask(self.down(self.any(self.up(ends, ms.float32), 1), ms.int32))
        context = self.merge(self.core.attend(q, k, v, mask, q_ends), order)
        return real_shift, drop_mask, prefix, ops.reshape(context, (-1, self.heads.count, size))


def with_kernels(attention):
    def built(self, config, site):
        core = attention(self, config, site)
        if isinstance(core, DocumentAttention):
            del core.kernel
            core.kernel = Kernel(core.heads, self.micro_batch * self.seq_length)
        return core

    return built


if __name__ == "__main__":
    chosen_hardware.attention_obstacle = rules.attention_obstacle = lambda config: None  # in FP32 as well
    Build.attention = with_kernels(Build.attention)
    sys.exit(execution_program.main(sys.argv[1:]))
