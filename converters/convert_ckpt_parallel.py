"""Split a nested PyTorch file into one file per tensor-parallel rank (default: 2).

python converters/convert_ckpt_parallel.py --load-ckpt-path IN --save-ckpt-path OUT
    [--target-tensor-model-parallel-size N] [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("megatron", __doc__, ranks=2))
