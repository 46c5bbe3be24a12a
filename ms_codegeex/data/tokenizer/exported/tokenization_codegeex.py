"""CodeGeeX's tokenizer for transformers 4.48 to 5.x, with `trust_remote_code=True`; tokenizer.json holds all of it."""

import transformers

if not (4, 48) <= tuple(map(int, transformers.__version__.split(".")[:2])) < (6, 0):
    raise ImportError(
        f"CodeGeeX's tokenizer works with transformers 4.48 to 5.x, this is {transformers.__version__}; "
        'pip install "transformers>=4.48,<6"'
    )

from transformers import PreTrainedTokenizerFast


class CodeGeeXTokenizer(PreTrainedTokenizerFast):
    """GPT-2's byte-level BPE, in which runs of spaces are one token each."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012 (transformers reads it from the class)
