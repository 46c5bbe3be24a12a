#!/usr/bin/env bash
# MindSpore: on a CPU, expm1 and log1p of small numbers are those of exp(x) - 1 and log(1 + x).
#
# Both exist for small arguments: 1e-6 is 5 % off, and below 6e-8 both are zero. Log probabilities near 0, such as those of a
# model that is sure, and ratios of policies near 1 are such numbers. Expected: x itself, to a few units of FP32.
#
# Usage: bash findings/mindspore-expm1-log1p.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
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
given = np.float32([1e-1, 1e-3, 1e-5, 1e-6, 1e-7, 1e-8])
changed = []
for name in ("expm1", "log1p"):
    right = getattr(np, name)(given)
    found = getattr(ops, name)(Tensor(given)).asnumpy()
    errors = np.abs(found / right - 1)
    for row in zip(given, right, found, errors, strict=True):
        print(name + "({:.0e}): right {:.6e}, found {:.6e}, error {:.1e}".format(*row))
    changed.append(not (errors[0] < 1e-5 and errors[3] > 0.04 and found[-1] == 0))
sys.exit(any(changed))
PY
