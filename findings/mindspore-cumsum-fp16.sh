#!/usr/bin/env bash
# MindSpore: on a CPU, a cumulative sum in FP16 is kept in FP16, so it ends long before the numbers do.
#
# The sum of sorted probabilities decides which tokens top-p keeps. Over the words of a code model it stops at 0.6, and top-p
# 0.95 keeps all of them. The plain sum of the same numbers is right. Expected: a sum in FP32, rounded at the end.
#
# Usage: bash findings/mindspore-cumsum-fp16.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
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
drawn = np.random.default_rng(0).dirichlet(np.full(50_400, 0.05))
given = np.sort(drawn)[::-1].astype(np.float16)
right = np.cumsum(given, dtype=np.float64)
found = ops.cumsum(Tensor(given), 0).asnumpy()
total = float(ops.sum(Tensor(given)).asnumpy())
kept, meant = int((found < 0.95).sum()), int((right < 0.95).sum())
print(f"50,400 probabilities in FP16: right sum {right[-1]:.4f}, cumsum ends at {found[-1]:.4f}, sum {total:.4f}")
print(f"tokens before 0.95 is reached: right {meant}, found {kept}")
single = ops.cumsum(Tensor(given.astype(np.float32)), 0).asnumpy()
print(f"in FP32: ends at {single[-1]:.4f}, {int((single < 0.95).sum())} tokens")
sys.exit(not (found[-1] < 0.7 and kept == given.size and meant < 10_000 and abs(total - 1) < 0.01))
PY
