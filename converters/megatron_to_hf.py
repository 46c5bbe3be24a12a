"""Convert a nested PyTorch file, or mp_rank_XX files, to a Hugging Face model directory.

python converters/megatron_to_hf.py --load-ckpt-path IN --save-ckpt-path OUT [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("hf", __doc__))
