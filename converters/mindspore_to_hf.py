"""Convert a MindSpore checkpoint, rank files or a folder of .npy to a Hugging Face model directory.

python converters/mindspore_to_hf.py --load-ckpt-path IN --save-ckpt-path OUT [--dtype fp16] [--verify]
"""

import sys

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    sys.exit(script("hf", __doc__))
