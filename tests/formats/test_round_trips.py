"""Every family in every form, there and back: one table of cells, in which what cannot be is a reason.

Our reader has to give back every byte and every id. So has a reader of others: PyTorch, MindSpore, safetensors and
`gguf` the tensors that the form's layout says, transformers the logits.
"""

from dataclasses import replace

import numpy as np
import pytest
from engine_models import adapted, small_model

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.exchange.gguf_files.reading import open_gguf
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.files import RECORD
from ms_codegeex.formats.layout import to_foreign
from ms_codegeex.formats.peft import open_adapters
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.engine import Generator

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
LOGITS = {  # classes of transformers; CodeGeeX2's are the release's, which do not come with this package
    ("codegeex", "hf"): "AutoModelForCausalLM",
    ("codegen", "hf"): "AutoModelForCausalLM",
    ("codegen", "gptj"): "AutoModelForCausalLM",
}
TEXTS = (
    "def minimum(first, second):\n    return  x\t\t# \u4f60\u597d",
    "people [gMASK] <|endoftext|> sop",
    " ",
    "\n\n",
)


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    source = small_model(MODELS[request.param], place / "tokenizer")
    if request.param == "codegeex":
        load_tokenizer("codegeex").save(place / "tokenizer")
    return request.param, source, load_tokenizer(place / "tokenizer"), place


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
    name, source, tokenizer, _ = model
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
    expected = to_foreign(formats.entries(formats.layout(kind), source.config), source.tensors)
    found = read_by_others(reader, path)
    assert {*found} == {key if isinstance(key, tuple) else (key,) for key in expected}
    for key, tensor in expected.items():
        assert np.array_equal(found[key if isinstance(key, tuple) else (key,)], tensor.array()), key


@pytest.mark.parametrize("form", ["hf", "gptj", "megatron", "mindspore"])
def test_logits_after_a_round_trip(model, form, tmp_path):
    """To the form, back to a directory, and in our engine; where transformers has a class, its logits, too."""
    name, source, tokenizer, place = model
    if (name, form) in IMPOSSIBLE:
        pytest.skip(IMPOSSIBLE[name, form])
    ids = tokenizer.encode_prompt(TEXTS[0])
    if not (place / "direct").exists():
        convert(source, "hf", place / "direct", progress=False)
    expected = Generator(place / "direct").all_logits(ids)
    path = written(source, form, tmp_path)
    again = open_source(path, source.fields if form == "mindspore" else None)
    convert(replace(again, save_tokenizer=tokenizer.save), "hf", tmp_path / "back", progress=False)
    assert np.array_equal(Generator(tmp_path / "back").all_logits(ids), expected)
    if (name, form) in LOGITS:
        import torch
        import transformers

        theirs = getattr(transformers, LOGITS[name, form]).from_pretrained(path, trust_remote_code=True).eval()
        with torch.no_grad():
            logits = theirs(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_adapters_there_and_back(model, tmp_path):
    """In PEFT's layout: the numbers of the run, under names of the Hugging Face layout, whose modules may hold several
    of our layers."""
    from safetensors.numpy import load_file

    name, source, _, _ = model
    base, directory = adapted(MODELS[name], tmp_path)
    opened = open_source(base)
    run, peft = (open_adapters(path, opened) for path in (tmp_path / f"{MODELS[name]}-run", directory))
    assert (run.rank, run.alpha) == (4, 8.0) and {*peft.tensors} == {*run.tensors}
    tensors = load_file(directory / "adapter_model.safetensors")
    modules = {
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in tensors if "lora_A" in key
    }
    formats = FamilyFormats(source.family)
    entries = formats.entries(formats.layout("huggingface"), source.config)
    assert modules <= {str(entry.foreign).removesuffix(".weight") for entry in entries}
    products = [
        {
            layer: each.alpha / each.rank * each.tensors[f"{layer}.lora_b"].float32() @ each.tensors[key].float32()
            for key in each.tensors
            if key.endswith(".lora_a") and (layer := key.removesuffix(".lora_a"))
        }
        for each in (run, peft)
    ]
    for layer, product in products[0].items():
        np.testing.assert_allclose(products[1][layer], product, rtol=1e-5, atol=1e-6)
