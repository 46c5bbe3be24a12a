"""CodeGeeX's tokenizer for transformers, loaded with `trust_remote_code=True`; tokenizer.json holds all of it."""

from transformers import PreTrainedTokenizerFast


class CodeGeeXTokenizer(PreTrainedTokenizerFast):
    """GPT-2's byte-level BPE, in which runs of spaces are one token each."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012 (transformers reads it from the class)
