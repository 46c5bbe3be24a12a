"""Every family in every form, there and back: one table of cells, in which what cannot be is a reason.

Our reader has to give back every byte and every id. So has a reader of others: PyTorch, MindSpore, safetensors and
`gguf` the tensors that the form's layout says; `test_engines_run.py` has the logits.
"""

import numpy as np
import pytest
from engine_models import small_model

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.exchange.gguf_files.reading import open_gguf
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.files import RECORD
from ms_codegeex.formats.layout import to_foreign
from ms_codegeex.formats.sources import open_source

pytestmark = pytest.mark.slow
MODELS = {"codegeex": "codegeex", "codegen": "codegen-64", "codegeex2": "codegeex2"}
FORMS = {  # what is written, the kind of its layout, and the reader of others
    "hf": ("huggingface", "safetensors"),
    "gptj": ("gptj", "safetensors"),  # what vLLM and SGLang take a CodeGen as; of CodeGeeX2 it is hf
    "megatron": ("megatron", "torch"),
    "mindspore": ("mindspore", "mindspore"),
    "gguf": (None, "gguf"),
}
IMPOSSIBLE = {  # the beginning of the reason
    ("codegeex", "gptj"): "--to gptj: no model of codegeex is one",
    ("codegeex2", "gptj"): "--to gptj: no model of codegeex2 is one",
    ("codegeex", "gguf"): "--to gguf: codegeex cannot become GGUF: llama.cpp has no architecture with its top query",
}
CODE = "def minimum(first, second):\n    return  x\t\t# \u4f60\u597d"
TEXTS = (CODE, "people [gMASK] <|endoftext|> sop", " ", "\n\n")


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    source = small_model(MODELS[request.param], place / "tokenizer")
    if request.param == "codegeex":
        load_tokenizer("codegeex").save(place / "tokenizer")
    return request.param, source, load_tokenizer(place / "tokenizer")


def written(source, form, place):
    target = place / {"megatron": "m.pt", "mindspore": "m.ckpt"}.get(form, form)
    convert(source, form, target, progress=False)
    return next(target.glob("*.gguf")) if form == "gguf" else target


def flat(tree, path=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, name))
        else:
            yield (*path, name), value


def read_by_others(reader, path):
    """Names, as paths, and arrays."""
    if reader == "safetensors":
        from safetensors.numpy import load_file

        return {(name,): array for name, array in load_file(path / "model.safetensors").items()}
    if reader == "torch":
        import torch

        tree = torch.load(path, weights_only=True)
        ours = ("config", RECORD)  # next to the tensors, which other programs look up by their names
        return {name: value.numpy() for name, value in flat({k: v for k, v in tree.items() if k not in ours})}
    import mindspore as ms

    return {(name,): parameter.asnumpy() for name, parameter in ms.load_checkpoint(str(path)).items()}


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(model, form, tmp_path):
    name, source, tokenizer = model
    if (name, form) in IMPOSSIBLE:
        with pytest.raises(UserError) as error:
            written(source, form, tmp_path)
        assert str(error.value).startswith(IMPOSSIBLE[name, form])
        return
    path = written(source, form, tmp_path)
    # ours: every byte; a file without a configuration is told what it does not record
    known = source.fields if form == "mindspore" else None
    again = open_gguf(path) if form == "gguf" else open_source(path, known)
    assert again.family.name == name and again.tensors.keys() == source.tensors.keys()
    assert form == "gguf" or again.fields == source.fields
    for key, tensor in source.tensors.items():
        assert np.array_equal(again.tensors[key].array(), tensor.array()), key
    if form in ("hf", "gptj", "gguf"):
        again.save_tokenizer(tmp_path)
        theirs = load_tokenizer(tmp_path)
        assert [theirs.encode_prompt(text) for text in TEXTS] == [tokenizer.encode_prompt(text) for text in TEXTS]
    # theirs: the tensors of the layout
    kind, reader = FORMS[form]
    if reader == "gguf":
        from gguf import GGUFReader

        found = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
        assert np.array_equal(found["token_embd.weight"], source.tensors["embedding.word.weight"].array())
        assert np.array_equal(found["output.weight"], source.tensors["head.weight"].array())
        return
    formats = FamilyFormats(source.family)
    foreign = to_foreign(formats.entries(formats.layout(kind), source.config), source.tensors)
    expected = {key if isinstance(key, tuple) else (key,): tensor for key, tensor in foreign.items()}
    found = read_by_others(reader, path)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert np.array_equal(found[key], tensor.array()), key
