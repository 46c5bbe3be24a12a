#!/usr/bin/env bash
# MindSpore: `Cell.recompute(parallel_optimizer_comm_recompute=True)` changes nothing, so gathered weights stay in memory.
#
# The docstring says that the argument chooses whether the AllGathers of optimizer sharding are recomputed. The cell's
# parameters keep their mark at False; a warning says that "zero3" replaces it, but names no function. It is
# `optimizer_level="level3"` of `set_auto_parallel_context` or `AutoParallel.hsdp`. Marks that are set on the parameters
# themselves are kept. Expected: the parameters are marked, or an error.
#
# Usage: bash findings/mindspore-recompute-gathers.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet mindspore==2.9.0 numpy==1.26.4 decorator==5.2.1
cd -- "$place"
GLOG_v=3 "$place/venv/bin/python" -W ignore - <<'PY'
import sys

import mindspore as ms
from mindspore import nn

print(f"mindspore {ms.__version__}")
documented = "allgathers introduced by optimizer shard are recomputed" in " ".join(nn.Cell.recompute.__doc__.split())
cell = nn.Dense(4, 4)
cell.recompute(parallel_optimizer_comm_recompute=True)
asked = [parameter.parallel_optimizer_comm_recompute for parameter in cell.trainable_params()]
for parameter in cell.trainable_params():
    parameter.parallel_optimizer_comm_recompute = True
marked = [parameter.parallel_optimizer_comm_recompute for parameter in cell.trainable_params()]
print(f"documented: {documented}; marks after recompute(parallel_optimizer_comm_recompute=True): {asked}")
print(f"marks after they are set on the parameters: {marked}")
sys.exit(not (documented and not any(asked) and all(marked)))
PY
