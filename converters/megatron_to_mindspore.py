"""Convert a nested PyTorch file, or mp_rank_XX files, to a MindSpore checkpoint.

python converters/megatron_to_mindspore.py --load-ckpt-path IN --save-ckpt-path OUT
    [--target-tensor-model-parallel-size N] [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("mindspore", __doc__))
