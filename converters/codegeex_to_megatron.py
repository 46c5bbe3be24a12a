"""Convert a run or checkpoint directory of any family to a nested PyTorch file.

python converters/codegeex_to_megatron.py --load-ckpt-path IN --save-ckpt-path OUT
    [--target-tensor-model-parallel-size N] [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("megatron", __doc__))
