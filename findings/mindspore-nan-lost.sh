#!/usr/bin/env bash
# MindSpore: on a CPU, several operators turn NaN into an ordinary number.
#
# The largest element of a tensor with a NaN is that of the others, `relu` makes it 0, `clamp` makes it the lower limit, and
# `topk` returns its other elements in an order that is not descending. A model that has diverged can so look sound, and a
# check by `max` does not see it. Expected: NaN, as from NumPy and PyTorch.
#
# Usage: bash findings/mindspore-nan-lost.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet mindspore==2.9.0 numpy==1.26.4 decorator==5.2.1
cd -- "$place"
GLOG_v=3 "$place/venv/bin/python" -W ignore - <<'PY'
import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

print(f"mindspore {ms.__version__}, numpy {np.__version__}")
values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
values[500] = np.nan
x = Tensor(values)
found = {
    "max": (x.max(), np.max(values)),
    "ReduceMax": (ops.ReduceMax()(x), np.max(values)),
    "maximum(x, 9) of the NaN": (ops.maximum(x, Tensor(np.float32(9)))[500], np.maximum(values, 9)[500]),
    "relu of the NaN": (ops.relu(x)[500], np.maximum(values, 0)[500]),
    "clamp(x, -1, 1) of the NaN": (ops.clamp(x, -1, 1)[500], np.clip(values, -1, 1)[500]),
}
lost = 0
for name, (its, right) in found.items():
    print(f"{name}: {its.asnumpy()}, NumPy: {right}")
    lost += np.isfinite(its.asnumpy()) and np.isnan(right)
top = ops.topk(x, 1000)[0].asnumpy()
wrong = int((np.diff(top[~np.isnan(top)]) > 0).sum())
print(f"topk(x, 1000): {wrong} elements are larger than the one before; isnan finds {int(ops.isnan(x).sum())} NaN")
sys.exit(not (lost == len(found) and wrong > 0))
PY
