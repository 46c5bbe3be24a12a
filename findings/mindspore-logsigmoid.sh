#!/usr/bin/env bash
# MindSpore: on a CPU, logsigmoid is -inf below -88, and its gradient is not a number.
#
# `ops.logsigmoid` and `nn.LogSigmoid` compute the logarithm of a sigmoid that has become zero. In FP16 this begins at -12.
# Losses on pairs of answers (DPO and its like) are made of it, so one pair that the model is sure about ends a run.
# Expected: the argument itself, as -softplus(-x) gives, and a gradient of 1.
#
# Usage: bash findings/mindspore-logsigmoid.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
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
from mindspore import Tensor, nn, ops

print(f"mindspore {ms.__version__}, numpy {np.__version__}")
values = np.float32([-20, -80, -90, -100])
right = np.minimum(values, 0) - np.log1p(np.exp(-np.abs(values.astype(np.float64))))
x = Tensor(values)
found = {
    "ops.logsigmoid": ops.logsigmoid(x).asnumpy(),
    "nn.LogSigmoid": nn.LogSigmoid()(x).asnumpy(),
    "gradient of ops.logsigmoid": ms.grad(lambda each: ops.logsigmoid(each).sum())(x).asnumpy(),
    "ops.logsigmoid in FP16, of -8 and -12": ops.logsigmoid(Tensor(np.float16([-8, -12]))).asnumpy(),
    "-ops.softplus(-x)": -ops.softplus(-x).asnumpy(),
}
print(f"of {values}, right: {right}")
for name, numbers in found.items():
    print(f"{name}: {numbers}")
first, cell, gradient, half, other = found.values()
lost = np.isinf(first[2:]).all() and np.isinf(cell[2:]).all() and np.isnan(gradient[2:]).all() and np.isinf(half[1])
sys.exit(not (lost and np.allclose(first[:2], right[:2]) and np.allclose(other, right)))
PY
