#!/usr/bin/env bash
# MindSpore: on a CPU, L2Loss of a large tensor is too small by a tenth.
#
# `ops.L2Loss` returns half the sum of the squares; norms of gradients are made of it. For 40 million FP32 numbers the
# CPU's kernel adds the squares to one FP32 number, which rounds most of each square away once the sum is large. Nothing
# is said. Expected: what `ReduceSum` gives for the same squares, which is right to seven digits.
#
# Usage: bash findings/mindspore-l2loss-sum.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
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
values = np.random.default_rng(0).normal(size=40_000_000).astype(np.float32)
x = Tensor(values)
right = float(np.sum(values.astype(np.float64) ** 2) / 2)
errors = {}
for name, found in (("L2Loss", ops.L2Loss()(x)), ("ReduceSum", ops.ReduceSum()(x * x) / 2)):
    errors[name] = float(found.asnumpy()) / right - 1
    print(f"{name}: {float(found.asnumpy()):.1f}, {errors[name]:+.2e} of {right:.1f}")
sys.exit(not (-0.2 < errors["L2Loss"] < -0.01 and abs(errors["ReduceSum"]) < 1e-6))
PY
