"""Convert a CodeGeeX run or checkpoint directory to a nested Megatron .pt file.

python converters/codegeex_to_megatron.py --load-ckpt-path IN --save-ckpt-path OUT [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("megatron", __doc__))
