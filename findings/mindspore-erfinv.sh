#!/usr/bin/env bash
# MindSpore: on a CPU, the inverse error function is wrong beyond 0.99 and does not grow beyond 2.44.
#
# Normal numbers made from uniform ones (sqrt(2) * erfinv(u), truncated normal weights, quantiles for NF4 and other tables)
# need its tails. Expected: the inverse of erf to a few units of FP32; erf itself is right.
#
# Usage: bash findings/mindspore-erfinv.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet mindspore==2.9.0 numpy==1.26.4 decorator==5.2.1
cd -- "$place"
GLOG_v=3 "$place/venv/bin/python" -W ignore - <<'PY'
import sys
from statistics import NormalDist

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

print(f"mindspore {ms.__version__}, numpy {np.__version__}")
given = np.float32([0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999])
right = np.array([NormalDist().inv_cdf((1 + float(x)) / 2) / 2**0.5 for x in given])
found = ops.erfinv(Tensor(given)).asnumpy()
back = ops.erf(Tensor(right.astype(np.float32))).asnumpy()
errors = np.abs(found / right - 1)
for row in zip(given, right, found, errors, strict=True):
    print("erfinv({:.6g}): right {:.5f}, found {:.5f}, error {:.1e}".format(*row))
print("erf of the right values:", back)
sys.exit(not ((errors[:2] < 1e-5).all() and (errors[3:] > 0.02).all() and found.max() < 2.44 and np.allclose(back, given)))
PY
