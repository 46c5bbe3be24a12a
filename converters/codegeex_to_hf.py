"""Convert a run or checkpoint directory of any family to a Hugging Face model directory.

python converters/codegeex_to_hf.py --load-ckpt-path IN --save-ckpt-path OUT [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("hf", __doc__))
