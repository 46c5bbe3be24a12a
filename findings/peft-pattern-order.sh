#!/usr/bin/env bash
# PEFT: an adapter changes its scale when it is saved and loaded again.
#
# Two keys of `alpha_pattern` (or `rank_pattern`) match one module. The first key that matches counts. In memory that is
# the first one in the order in which they were given; `save_pretrained` sorts the keys, so in the saved adapter it is
# the first one of the alphabet. Nothing is said. Expected: the same scale before and after.
#
# Usage: bash findings/peft-pattern-order.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 peft==0.21.2 transformers==4.57.1 numpy==1.26.4
cd -- "$place"
HF_HUB_OFFLINE=1 "$place/venv/bin/python" -W ignore - <<'PY'
import json
import sys

import peft
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv_proj = torch.nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.qkv_proj(x)


pattern = {"qkv_proj": 64, ".*proj": 8}  # both match; divided by the rank 2: 32 and 4
config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["qkv_proj"], alpha_pattern=pattern)
model = peft.get_peft_model(Net(), config)
model.save_pretrained("adapter")
again = peft.PeftModel.from_pretrained(Net(), "adapter")
before, after = (each.base_model.model.qkv_proj.scaling["default"] for each in (model, again))
print(f"peft {peft.__version__}, torch {torch.__version__}")
print(f"scale of qkv_proj in memory: {before}")
print(f"alpha_pattern as saved: {json.dumps(json.load(open('adapter/adapter_config.json'))['alpha_pattern'])}")
print(f"scale of qkv_proj after loading: {after}")
sys.exit((before, after) != (32.0, 4.0))
PY
