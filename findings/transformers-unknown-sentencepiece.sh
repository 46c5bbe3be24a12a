#!/usr/bin/env bash
# transformers: a tokenizer.model of an unknown class is read as another tokenizer, without a word.
#
# A directory holds a SentencePiece model and a tokenizer_config.json whose `tokenizer_class` transformers does not know
# and for which there is no `auto_map`. Version 4 refuses it. Version 5 falls back to a class that converts the model by
# itself, and whose ids are not those that the sentencepiece package gives for the same file. Expected: an error, or the
# same ids.
#
# Usage: bash findings/transformers-unknown-sentencepiece.sh    # installs into a temporary folder; exit 1 if the behaviour has changed
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet transformers==5.23.0 sentencepiece==0.2.2 protobuf==7.36.2
cd -- "$place"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$place/venv/bin/python" -W ignore - <<'PY'
import io
import json
import pathlib
import sys

import sentencepiece
import transformers

lines = ["def minimum(first, second):", "    if first < second:", "        return first", "Using a network is simple"]
model = io.BytesIO()
settings = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "hard_vocab_limit": False}
settings |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "vocab_size": 340, "minloglevel": 2}
sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines * 3), model_writer=model, **settings)
place = pathlib.Path("tokenizer")
place.mkdir()
(place / "tokenizer.model").write_bytes(model.getvalue())
(place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
(place / "config.json").write_text(json.dumps({"model_type": "chatglm"}))

expected = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
print(f"transformers {transformers.__version__}, sentencepiece {sentencepiece.__version__}")
loaded = transformers.AutoTokenizer.from_pretrained("tokenizer")
print(f"class: {type(loaded).__name__}")
different = 0
for text in ("def f(x):", "    if first", "first\n\n    second", "  a  b", "\t\tx", " simple"):
    theirs, its = loaded(text).input_ids, expected.encode(text)
    different += theirs != its
    print(f"{text!r}: {theirs} {'==' if theirs == its else '!='} {its}")
print(f"{different} of 6 texts have other ids than the model's own library gives")
sys.exit(different == 0)
PY
