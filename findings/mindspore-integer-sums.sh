#!/usr/bin/env bash
# MindSpore: on a CPU, sums of integers are computed in floating point.
#
# `ops.ReduceSum` of int64 numbers rounds them to FP64, so counts above 2^53 lose their last digits. A sum of int32 numbers
# that is too large for them is the smallest int32, not the sum modulo 2^32 that NumPy and PyTorch give. `ops.cumsum` is
# exact. Expected: exact sums.
#
# Usage: bash findings/mindspore-integer-sums.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
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
different = []
for values in (np.int64([2**53 + 1, 2]), np.int64([2**62 + 1, 0]), np.int32([2**30] * 3)):
    its = ops.ReduceSum()(Tensor(values)).asnumpy().item()
    right, last = np.sum(values, dtype=values.dtype).item(), ops.cumsum(Tensor(values), 0)[-1].asnumpy().item()
    different.append(its != right)
    print(f"{values.dtype} {values.tolist()}: ReduceSum {its}, NumPy {right}, cumsum {last}")
sys.exit(not all(different))
PY
