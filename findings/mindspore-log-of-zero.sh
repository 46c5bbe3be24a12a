#!/usr/bin/env bash
# MindSpore: on a CPU, sums of logarithms of zero are not a number.
#
# Minus infinity is the logarithm of a probability of zero: what a mask forbids, a beam that has ended. logsumexp and
# logaddexp of nothing else give NaN where NumPy and PyTorch give minus infinity, and xlogy(0, 0), which the documentation
# says is 0, is NaN. One finite number among the others, and the results are right.
#
# Usage: bash findings/mindspore-log-of-zero.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
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
nothing, one = np.full(4, -np.inf, np.float32), np.float32([-np.inf, -np.inf, 0, -np.inf])
zero = Tensor(np.zeros(1, np.float32))
found = {
    "logsumexp of four": ops.logsumexp(Tensor(nothing), -1),
    "logaddexp of two": ops.logaddexp(Tensor(nothing[:1]), Tensor(nothing[:1])),
    "xlogy(0, 0)": ops.xlogy(zero, zero),
    "logsumexp with one zero": ops.logsumexp(Tensor(one), -1),
    "logaddexp with one zero": ops.logaddexp(Tensor(one[:1]), zero),
}
print("NumPy, logaddexp of four:", np.logaddexp.reduce(nothing))
values = [float(each.asnumpy().ravel()[0]) for each in found.values()]
for name, value in zip(found, values, strict=True):
    print(f"{name}: {value}")
sys.exit(not (np.isnan(values[:3]).all() and np.allclose(values[3:], 0)))
PY
