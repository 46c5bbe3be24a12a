"""Merge the mp_rank_XX files of all tensor-parallel ranks into one nested PyTorch file.

python converters/merge_ckpt_parallel.py --load-ckpt-path IN --save-ckpt-path OUT
    [--save-name FILE] [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("megatron", __doc__))
