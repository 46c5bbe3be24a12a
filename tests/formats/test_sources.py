"""Models as the other side's own tools save them: PyTorch, NumPy and MindSpore files of every shape, by content."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from small_models import FIELDS, config, equal, foreign, formats, parameters

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.formats.mindspore_checkpoint import write_mindspore
from ms_codegeex.formats.safetensors_file import write_safetensors
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array

torch = pytest.importorskip("torch")

KNOWN = FIELDS["codegeex"]  # what a file without a configuration does not say


def nested(tensors):
    """Foreign tensors as the dictionaries of PyTorch tensors that `torch.save` gets."""
    tree = {}
    for name, tensor in tensors.items():
        node, path = tree, (name,) if isinstance(name, str) else name
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = torch.from_numpy(tensor.array().copy())
    return tree


def megatron(arrays):
    """CodeGeeX's nested dictionary."""
    return nested(foreign("codegeex", "megatron", arrays))


def transformer(tree):
    return tree["module"]["language_model"]["transformer"]


def fused(tree):
    """The variant of OneFlow and FasterTransformer, written out."""
    layers = transformer(tree)
    for kind in ("weight", "bias"):
        for i in range(FIELDS["codegeex"]["num_layers"]):
            parts = [layers.pop(f"layers.{i}.attention.{part}.{kind}") for part in ("query", "key", "value")]
            layers[f"layers.{i}.attention.query_key_value.{kind}"] = torch.cat(parts)
        parts = [layers.pop(f"topQueryLayer.attention.{part}.{kind}") for part in ("key", "value")]
        layers[f"topQueryLayer.attention.key_value.{kind}"] = torch.cat(parts)
    return tree


def test_a_nested_file_whole_fused_or_flat(tmp_path):
    arrays = parameters("codegeex")
    torch.save({**megatron(arrays), "iteration": 7}, tmp_path / "plain.pt")
    torch.save(fused(megatron(arrays)), tmp_path / "fused.pt")
    flat = {name: torch.from_numpy(t.array().copy()) for name, t in foreign("codegeex", "huggingface", arrays).items()}
    torch.save(OrderedDict(flat), tmp_path / "flat.pt")
    for file in ("plain.pt", "fused.pt", "flat.pt"):
        source = open_source(tmp_path / file, KNOWN)
        equal(source, arrays)
        assert source.family.name == "codegeex" and source.fields == FIELDS["codegeex"] and source.kind == "megatron"


def test_a_file_has_the_releases_tokenizer_only_if_its_end_token_is_the_releases(tmp_path):
    """A model with a tokenizer of its own would otherwise get another one's files."""
    arrays = parameters("codegeex") | {"embedding.word.weight": np.zeros((50400, 8), np.float32)}
    torch.save(megatron(arrays), tmp_path / "model.pt")
    sizes = KNOWN | {"vocab_size": 50400}
    released = open_source(tmp_path / "model.pt", sizes | {"eos_token_id": 50256})
    assert released.tokenizer().name == "codegeex" and released.save_tokenizer is not None
    other = open_source(tmp_path / "model.pt", sizes | {"eos_token_id": 1005})
    assert other.save_tokenizer is None
    with pytest.raises(UserError, match="does not say which tokenizer this codegeex model has; `ms-codegeex convert"):
        other.tokenizer()


SPLIT = (  # the release's splitter: what is cut along which dimension
    ("attention.dense.weight", 1),
    ("dense_4h_to_h.weight", 1),
    *((f"attention.{part}.{kind}", 0) for part in ("query", "key", "value") for kind in ("weight", "bias")),
    *((f"dense_h_to_4h.{kind}", 0) for kind in ("weight", "bias")),
)


def ranks(tree, count):
    """The dictionaries that the release's splitter would write, written out."""

    def part(name, tensor, rank):
        axis = next((axis for suffix, axis in SPLIT if name.endswith(suffix)), None)
        return tensor.clone() if axis is None else tensor.chunk(count, axis)[rank].clone()

    def one(rank):
        language = tree["module"]["language_model"]
        words = language["embedding"]["word_embeddings"]["weight"].chunk(count, 0)[rank].clone()
        positions = language["topQueryEmbedding"]["top_query_embeddings"]["weight"].chunk(count, 0)[rank].clone()
        own = {
            "embedding": {**language["embedding"], "word_embeddings": {"weight": words}},
            "topQueryEmbedding": {"top_query_embeddings": {"weight": positions}},
            "transformer": {name: part(name, tensor, rank) for name, tensor in language["transformer"].items()},
        }
        return {"module": {"language_model": own}}

    return [one(rank) for rank in range(count)]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("in_folders", [False, True])
def test_tensor_parallel_files_are_merged(tmp_path, count, in_folders):
    arrays = parameters("codegeex")
    for rank, tree in enumerate(ranks(megatron(arrays), count)):
        file = f"mp_rank_{rank:02d}/model_optim_rng.pt" if in_folders else f"mp_rank_{rank:02d}_model_states.pt"
        (tmp_path / file).parent.mkdir(exist_ok=True)
        torch.save(tree, tmp_path / file)
    equal(open_source(tmp_path, KNOWN), arrays)


def changed(rank, name, change):
    """The file of a rank, in which a tensor is another one."""

    def save(path, trees):
        transformer(trees[rank]).update({name: change(transformer(trees[rank])[name])})
        torch.save(trees[rank], path / f"mp_rank_{rank:02d}_model_states.pt")

    return save


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path, _: (path / "mp_rank_01_model_states.pt").unlink(), "no file of rank 1"),
        (lambda path, trees: torch.save(trees[1], path / "mp_rank_1_again.pt"), "rank 1 has 2 files"),
        (lambda path, _: (path / "mp_rank_03_model_states.pt").unlink(), "3 does not divide 4, the number of heads"),
        (changed(2, "layers.0.input_layernorm.bias", torch.neg), "mp_rank_02.*blocks.0.attention_norm.bias differs"),
        (changed(3, "final_layernorm.bias", torch.Tensor.half), r"mp_rank_03.*final_norm.bias is float16 \[8\]"),
    ],
)
def test_rank_files_that_do_not_fit_are_named(tmp_path, change, message):
    trees = ranks(megatron(parameters("codegeex")), 4)
    for rank, tree in enumerate(trees):
        torch.save(tree, tmp_path / f"mp_rank_{rank:02d}_model_states.pt")
    change(tmp_path, trees)
    with pytest.raises(UserError, match=message):
        for tensor in open_source(tmp_path, KNOWN).tensors.values():
            tensor.array()


def test_a_folder_of_npy(tmp_path):
    arrays = parameters("codegeex")
    for name, tensor in foreign("codegeex", "mindspore", arrays).items():
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(tensor.array()))
    np.save(tmp_path / "backbone.blocks.0.key_past.npy", np.zeros((1, 4, 2, 8), np.float16))  # a cache of prediction
    (tmp_path / "._README.npy").write_text("")
    source = open_source(tmp_path, KNOWN)
    equal(source, arrays)
    assert source.kind == "mindspore" and source.skipped == ("backbone.blocks.0.key_past",)


def bytes_of(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


BETA = r"layernorm\.beta\.npy:"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bytes_of(lambda data: data[:-4]), f"{BETA} not a sound"),
        (bytes_of(lambda data: data + b"more"), f"{BETA} has .* bytes"),
        (bytes_of(lambda data: b"hello"), f"{BETA} not a sound"),
        (bytes_of(lambda data: data.replace(b"(8,)", b"(" + b"9" * 40)), f"{BETA} not a sound"),
        (bytes_of(lambda data: data.replace(b"}", b"{")), f"{BETA} not a sound"),
        (lambda path: np.save(path, np.array([{}])), f"{BETA} not a sound.*Python objects"),
        (lambda path: np.save(path, np.zeros(8, complex)), f"{BETA} .*complex128"),
        (lambda path: np.save(path, np.zeros(8, np.int32)), r"backbone\.layernorm\.beta has dtype int32"),
        (lambda path: path.unlink(), r"missing tensor backbone\.layernorm\.beta"),
    ],
)
def test_a_bad_npy_is_named(tmp_path, change, message):
    for name, tensor in foreign("codegeex", "mindspore", parameters("codegeex")).items():
        np.save(tmp_path / f"{name}.npy", tensor.array())
    change(tmp_path / "backbone.layernorm.beta.npy")
    with pytest.raises(UserError, match=message):
        open_source(tmp_path, KNOWN)


ORIGINAL_CUTS = {  # tensor parallelism of the original's [in, out] and [out, in] matrices
    **{f"attention.dense{k}.{kind}": 0 for k in (1, 2, 3) for kind in ("weight", "bias")},
    **{"attention.projection.weight": 0, "output.mapping.weight": 1, "output.mapping.bias": 0},
    **{"output.projection.weight": 0, "word_embedding.embedding_table": 0},
}


def of_release():
    """The arrays of a small CodeGeeX with MindSpore's names."""
    tensors = foreign("codegeex", "mindspore", parameters("codegeex"))
    return {name: tensor.array() for name, tensor in tensors.items()}


def save(path, entries, **options):
    """A file that MindSpore itself writes."""
    ms = pytest.importorskip("mindspore")
    path.parent.mkdir(parents=True, exist_ok=True)
    given = [{"name": n, "data": ms.Parameter(ms.Tensor(a), name=n)} for n, a in entries.items()]
    ms.save_checkpoint(given, str(path), format=path.suffix[1:], **options)
    os.chmod(path, 0o644)
    return path


def test_mindspores_own_files(tmp_path):
    arrays, named = parameters("codegeex"), of_release()
    state = {f"adam_m.{name}": array for name, array in named.items()} | {"global_step": np.array([5], np.int32)}
    state["scale_sense"] = np.array([2.0**30], np.float32)
    save(tmp_path / "code-13B0-50.ckpt", named | state)
    source = open_source(tmp_path / "code-13B0-50.ckpt", KNOWN)
    equal(source, arrays)
    assert set(source.skipped) == set(state) and source.kind == "mindspore"

    for rank in range(4):

        def slice_of(name, array, rank=rank):
            axis = next((axis for suffix, axis in ORIGINAL_CUTS.items() if name.endswith(suffix)), None)
            return array if axis is None else np.split(array, 4, axis)[rank]

        part = {name: np.ascontiguousarray(slice_of(name, array)) for name, array in named.items()}
        save(tmp_path / "8p" / f"rank_{rank}" / f"code-13B{rank}-50.ckpt", part)
        save(tmp_path / "other" / f"rank_{rank}" / f"net_rank_{rank}-50_1.safetensors", part)
    equal(open_source(tmp_path / "8p", KNOWN), arrays)
    equal(open_source(tmp_path / "other", KNOWN), arrays)
    (tmp_path / "8p" / "rank_2" / "code-13B2-50.ckpt").unlink()
    with pytest.raises(UserError, match="no file of rank 2"):
        open_source(tmp_path / "8p", KNOWN)


def test_what_mindspore_adds_to_weights_is_left_out(tmp_path):
    ms = pytest.importorskip("mindspore")
    arrays, named = parameters("codegeex"), of_release()
    added = {"lr": 0.1, "done": True, "step": 3, "scale": ms.Tensor([2.0]), "generator": ms.Generator()}
    added |= {"rates": ms.Tensor([0.1, 0.2])}
    moments = {f"{kind}.{name}": array for name, array in named.items() for kind in ("stat", "mean_grad", "adam_m")}
    for suffix, more in (("ckpt", {"note": "a text"}), ("safetensors", {})):
        said, path = [], save(tmp_path / f"a.{suffix}", named | moments, append_dict=added | more, crc_check=True)
        source = open_source(path, KNOWN, say=said.append)
        equal(source, arrays)
        assert set(source.skipped) == {*added, *more, *moments}
        count = len(moments) + len(added) + len(more) - 1
        assert len(said) == 1 and re.search(rf"left out, not a parameter: .* and {count} more$", said[0])
        content = path.read_bytes()
        place = content.index(min(named.items())[1].tobytes())
        (tmp_path / f"damaged.{suffix}").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        *_, sound = open_source(tmp_path / f"damaged.{suffix}", KNOWN).tensors.values()
        with pytest.raises(UserError, match=r"damaged(, or edited in place)? \(checksum"):
            sound.array()
        for number in (0, 1):  # as MindSpore removes redundancy, each file has other parameters
            part = {name: array for k, (name, array) in enumerate(named.items()) if k % 2 == number}
            save(tmp_path / suffix / f"rank_{number}" / f"net-1_2.{suffix}", part, append_dict={"lr": 0.1})
        equal(open_source(tmp_path / suffix, KNOWN), arrays)
    lost = ms.load_checkpoint(str(save(tmp_path / "b.safetensors", named)), format="safetensors")
    ms.save_checkpoint(list(lost.values()), str(tmp_path / "lost.safetensors"), format="safetensors")
    with pytest.raises(UserError, match=r"53 tensors have lost their names, .* Parameter#\d+; save the"):
        open_source(tmp_path / "lost.safetensors", KNOWN)
    ms.save_checkpoint(lost, str(tmp_path / "again.safetensors"), format="safetensors")  # what the error says
    equal(open_source(tmp_path / "again.safetensors", KNOWN), arrays)
    for name, content in (("x_safetensors", "b.safetensors"), ("y.ckpt", "b.safetensors"), ("z.safetensors", "a.ckpt")):
        shutil.copy(tmp_path / content, tmp_path / name)
        equal(open_source(tmp_path / name, KNOWN), arrays)
    ms.save_checkpoint(lost, str(tmp_path / "key.ckpt"), enc_key=b"0123456789abcdef")
    with pytest.raises(UserError, match="is encrypted"):
        open_source(tmp_path / "key.ckpt", KNOWN)


@pytest.mark.parametrize("flat", [True, False])
def test_the_parts_that_mindspore_unifies(tmp_path, flat):
    """As `mindspore.unified_safetensors` of 2.9 names them, and its older versions."""
    tensors = foreign("codegeex", "mindspore", parameters("codegeex"))
    listed = {name: f"part{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for part in ("part0.safetensors", "part1.safetensors"):
        write_safetensors(tmp_path / part, {name: tensors[name] for name in tensors if listed[name] == part})
    write_safetensors(tmp_path / "hyper_param.safetensors", {"lr": from_array(np.array([0.1], np.float32))})
    content = listed if flat else {"metadata": {"total_size": 1}, "weight_map": listed}
    (tmp_path / "param_name_map.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "part1.safetensors", tmp_path / "param_name_map.json"):
        equal(open_source(path, KNOWN), parameters("codegeex"))
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part1\.safetensors: missing, but param_name_map\.json lists it"):
        open_source(tmp_path, KNOWN)


def strategy(named, whole):
    """MindSpore's own description of 2 data x 2 tensor parallel devices with 2 optimizer shards."""
    layouts = {}
    for name, (array, axis) in named.items():
        shards = 0 if name.endswith(whole) else 2
        layouts[name] = {
            "dev_matrix": [2, 2],
            "tensor_map": [0 if k == axis else -1 for k in range(array.ndim)],
            "opt_weight_shard_step": 2 if shards else 0,
            "opt_weight_shard_size": shards,
            "tensor_shape": list(array.shape),
        }
    return {"parallel_strategy_item": {"op": {"stage": 0}}, "parallel_layout_item": layouts}


WHOLE = ("embedding_table", "gamma", "beta", "bias")  # what the release keeps out of the optimizer shards


def test_optimizer_shards_and_a_strategy_file(tmp_path):
    arrays, axes = parameters("codegeex"), [*ORIGINAL_CUTS.items()]
    named = {
        name: (array, next((axis for suffix, axis in axes if name.endswith(suffix)), None))
        for name, array in of_release().items()
    }
    for rank in range(4):
        replica, model = divmod(rank, 2)
        part = {}
        for name, (array, axis) in named.items():
            piece = array if axis is None else np.split(array, 2, axis)[model]
            part[name] = from_array(piece if name.endswith(WHOLE) else np.split(piece, 2)[replica])
        part["adam_m.backbone.layernorm.beta"] = from_array(np.zeros(8, np.float32))
        write_mindspore(tmp_path / f"rank_{rank}" / f"code-13B{rank}-50.ckpt", part)
    (tmp_path / "strategy.json").write_text(json.dumps(strategy(named, WHOLE)))
    equal(open_source(tmp_path, KNOWN), arrays)
    given = [f"--set={key}={value}" for key, value in KNOWN.items()]
    output = tmp_path / "ours"
    assert main(["checkpoint", "reshard", str(tmp_path), "--output", str(output), "--tensor=2", *given]) == 0
    equal(open_source(output), arrays)
    shutil.rmtree(output)
    (tmp_path / "rank_3" / "code-13B3-50.ckpt").unlink()
    with pytest.raises(UserError, match="rank 3"):
        open_source(tmp_path, KNOWN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: transformer(t).pop("layers.1.input_layernorm.weight"), r"missing .* layers\.1\.input_l.*ht \("),
        (lambda tree: tree.update(more=[1, (torch.zeros(2),)]), r"unexpected tensor more -> 1 -> 0 \("),
        (lambda t: t.update(config={**KNOWN, "num_layers": 10**12}), "asks for 1000000000000 layers, but only 53 ten"),
    ],
)
def test_a_tree_that_is_not_the_models(tmp_path, change, message):
    tree = megatron(parameters("codegeex"))
    change(tree)
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt: .*{message}"):
        open_source(tmp_path / "a.pt", {} if "config" in tree else KNOWN)


def test_a_link_of_a_rank_that_leads_nowhere(tmp_path):
    (tmp_path / "mp_rank_00_model_states.pt").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"mp_rank_00_model_states\.pt: is a link to nothing"):
        open_source(tmp_path)


def test_a_number_in_a_files_name_takes_no_memory(tmp_path):
    """Such as a date."""
    import tracemalloc

    for rank in ("00", "20231117"):
        (tmp_path / f"mp_rank_{rank}_model_states.pt").write_bytes(b"PK")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"no file of rank 1, though there is one of 20231117"):
            open_source(tmp_path, KNOWN)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


FLAT = "transformer.h.0."
OLD = {"x": torch.ones(1)}  # weights and training state that are not to be read


def write(directory, files):
    """Tensors as the suffix says, texts, and what a function of the path makes."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        elif isinstance(content, str):
            path.write_text(content)
        elif path.suffix == ".safetensors":
            pytest.importorskip("safetensors.torch").save_file(content, path)
        else:
            torch.save(content, path)


def shards(name, weights, index=None):
    """Two files, and an index that lists them."""
    names, files = sorted(weights), [name.format(number) for number in (1, 2)]
    listed = {key: files[number % 2] for number, key in enumerate(names)}
    parts = {file: {key: weights[key] for key in names if listed[key] == file} for file in files}
    return parts | ({index: json.dumps({"metadata": {}, "weight_map": listed})} if index else {})


def wrapped(weights, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def lightning(weights):
    state = {"optimizer_states": [{"m": torch.ones(1)}], "callbacks": {"x": torch.ones(1)}, "loops": {}, "epoch": 1}
    return {"state_dict": wrapped(weights, "model."), **state}


def fsdp(weights):
    inside = f"{FLAT}_fsdp_wrapped_module._checkpoint_wrapped_module."
    return {name.replace(FLAT, inside): tensor for name, tensor in weights.items()}


def of_mindspore(weights):
    return lambda path: write_mindspore(path, {name: from_array(x.numpy()) for name, x in weights.items()})


MOMENTS = {"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": [{"params": [0]}]}  # as PyTorch's optimizers
VERSIONS = "lightning_logs/version_"
BEST = '{"best_model_checkpoint": "/elsewhere/checkpoint-50"}'
KINDS = {  # the files of a folder, that of the weights first; "config.json" is there if the name begins so
    "config.json, shards without an index": lambda w: shards("model-0000{}-of-00002.safetensors", w),
    "config.json, pickled shards": lambda w: shards("pytorch_model-0000{}-of-00002.bin", w),
    "config.json, a variant": lambda w: {"model.fp16.safetensors": w},
    "config.json, a variant in shards": lambda w: shards(
        "model.fp16-0000{}-of-00002.safetensors", w, "model.safetensors.index.fp16.json"
    ),
    "config.json, an older pickle": lambda w: {"model.safetensors": w, "pytorch_model.bin": OLD},
    "config.json, buffers": lambda w: {"model.safetensors": w | {f"{FLAT}attn.masked_bias": torch.ones(1)}},
    "config.json, compiled": lambda w: {"model.safetensors": wrapped(w, "_orig_mod.")},
    "shards alone": lambda w: shards("pytorch_model-0000{}-of-00002.bin", w, "pytorch_model.bin.index.json"),
    "Trainer": lambda w: {"checkpoint-500/pytorch_model.bin": w, "checkpoint-50/pytorch_model.bin": OLD},
    "Accelerate": lambda w: {
        "checkpoints/checkpoint_10/model.safetensors": w,
        "checkpoints/checkpoint_10/optimizer.bin": OLD,
        "checkpoints/checkpoint_9/model.safetensors": OLD,
    },
    "Lightning": lambda w: {
        f"{VERSIONS}2/checkpoints/epoch=1-step=20.ckpt": lightning(w),
        f"{VERSIONS}2/checkpoints/epoch=0-step=9.ckpt": OLD,
        f"{VERSIONS}1/a.ckpt": OLD,
    },
    "Lightning with DeepSpeed": lambda w: {
        "last.ckpt/checkpoint/mp_rank_00_model_states.pt": {"module": wrapped(w, "_forward_module.model.")},
        "last.ckpt/latest": "checkpoint",
    },
    "DeepSpeed": lambda w: {
        "global_step40/mp_rank_00_model_states.pt": {"module": w},
        "global_step40/zero_pp_rank_0_mp_rank_00_optim_states.pt": OLD,
        "global_step9/x.pt": OLD,
        "latest": "global_step40\n",
    },
    "Megatron, distributed optimizer": lambda w: {
        "iter_0000100/mp_rank_00/model_optim_rng.pt": {"model": w, "args": argparse.Namespace(a=1)},
        "iter_0000100/mp_rank_00/distrib_optim.pt": OLD,
        "iter_0000100/mp_rank_00_000/optim.pt": OLD,
        "latest_checkpointed_iteration.txt": "100",
    },
    "Megatron without its file": lambda w: {"iter_100/mp_rank_00/a.pt": {"model": w}, "iter_20/mp_rank_00/a.pt": OLD},
    "FSDP": lambda w: {"pytorch_model_fsdp.bin": fsdp(w)},
    "a trainer of one's own": lambda w: {
        "a.pt": {"model_state_dict": wrapped(w, "module._orig_mod."), "optimizer_state_dict": OLD, "ema": w}
    },
    "PEFT's names": lambda w: {"a.safetensors": wrapped(w, "base_model.model.")},
    "any name in front": lambda w: {"a.safetensors": wrapped(w, "actor.llm.")},
    "Composer": lambda w: {"ep1-rank0.pt": {"state": {"model": w, "optimizers": {"x": MOMENTS}}}},
    "an optimizer under another name": lambda w: {"a.pth.tar": {"net": w, "last": [MOMENTS]}},
    "what is hidden": lambda w: {"x/a.pt": w, "x/._a.pt": OLD, ".cache/b/c": OLD, "__MACOSX/_": OLD},
    "mindformers": lambda w: {"checkpoint_network/rank_0/a.safetensors": w, "checkpoint/a.pt": OLD, "log/a": OLD},
    "config.json, MindSpore with PyTorch's names": lambda w: {"a.ckpt": of_mindspore(w)},
    "averages alone": lambda w: {"a.pth": {"ema": w, "loss": torch.tensor(1.0), "optimizer": {}}},
    "averages too": lambda w: {"a.pth": {"net": w, "model_ema": w, "loss": torch.tensor(1.0)}},
    "config.json, a file of another name": lambda w: {"pytorch_model_fsdp.bin": w},
    "the best": lambda w: {"checkpoint-best/pytorch_model.bin": w, "logs/log": ""},
    "the result next to steps": lambda w: {"final_checkpoint/pytorch_model.bin": w, "checkpoint-50/a.bin": OLD},
    "the best step of a Trainer": lambda w: {
        "checkpoint-50/pytorch_model.bin": w,
        "checkpoint-60/pytorch_model.bin": OLD,
        "checkpoint-60/trainer_state.json": BEST,
    },
    "a folder in a folder": lambda w: {"x/y/a.pt": w},
}


@pytest.fixture(scope="module")
def codegen():
    arrays = parameters("codegen")
    tensors = foreign("codegen", "huggingface", arrays)
    return arrays, {name: torch.from_numpy(tensor.array().copy()) for name, tensor in tensors.items()}


CONFIG = {"config.json": json.dumps(formats("codegen").to_json(config("codegen")))}


@pytest.mark.parametrize("kind", KINDS)
def test_what_other_programs_write_is_read(tmp_path, codegen, capfd, kind):
    directory, files = tmp_path / "m", KINDS[kind](codegen[1])
    place = (weights := Path(next(iter(files)))).parent
    place = str(place.parent if weights.parent.name in ("mp_rank_00", "rank_0") else place)
    write(directory, files | (CONFIG if kind.startswith("config.json") else {}))
    source = open_source(directory, {} if kind.startswith("config.json") else FIELDS["codegen"])
    equal(source, codegen[0])
    folder = source.path if source.path.is_dir() else source.path.parent
    assert folder == directory / place
    said, used = capfd.readouterr().err, {file for each in source.inputs for file in each.files.values()}
    assert all(file.is_file() for file in used)
    suffixes = (".pt", ".bin", ".safetensors", ".ckpt")
    over = [file for file in directory.rglob("*") if file.is_file() and file not in used and file.suffix in suffixes]
    state = [file for file in over if "optim" in file.name]
    beside = [file for file in state if any(file.parent == each.parent for each in used)]  # not in a folder without any
    assert (f"state of a training run ({len(beside)}): " in said) == bool(beside), said
    assert ("passed over" in said, f"the weights are in {place}" in said) == (over != state, place != "."), said


@pytest.mark.parametrize("numbered", ["in each stage", "through all"])
def test_the_stages_of_a_pipeline_are_joined(tmp_path, numbered):
    tensors = foreign("codegeex", "megatron", parameters("codegeex"))
    for stage in (0, 1):
        mine = {}
        for name, tensor in tensors.items():
            block = re.match(r"layers\.(\d)\.(.*)", name[-1])
            if int(block[1]) == stage if block else ("embedding" in name) == (stage == 0):
                number = 0 if numbered == "in each stage" else stage
                mine[(*name[:-1], f"layers.{number}.{block[2]}") if block else name] = tensor
        tree = nested(mine)
        if stage:
            tree["module"]["word_embeddings_for_head"] = {"weight": torch.zeros(2, 2)}
        write(tmp_path, {f"mp_rank_00_00{stage}/model_optim_rng.pt": tree})
    equal(open_source(tmp_path, KNOWN), parameters("codegeex"))
    (tmp_path / "mp_rank_00_000/model_optim_rng.pt").unlink()
    with pytest.raises(UserError, match="no file of pipeline stage 0, though there is one of 1"):
        open_source(tmp_path, KNOWN)


def empty(*names):
    return lambda w: dict.fromkeys(names, OLD)


def quantised(name, **options):
    return lambda w: {"a.safetensors": w | {f"{FLAT}attn.{name}": torch.ones(2, 2, **options)}}


def a_shard_is_missing(weights):
    return dict([*shards("model-0000{}-of-00002.safetensors", weights).items()][:1])


def without_head(weights):
    return CONFIG | {"model.safetensors": {n.removeprefix("transformer."): weights[n] for n in weights if n[0] == "t"}}


LFS = "version https://git-lfs.github.com/spec/v1"
REFUSED = {  # the files, and what is named; a remedy that was tried
    "two variants": (
        lambda w: {f"model.{kind}.safetensors": w for kind in ("fp16", "bf16")},
        r"holds the variants bf16, fp16; name a file, as .*/model\.bf16\.safetensors",
    ),
    "a shard is missing": (a_shard_is_missing, "1 of 2 shards are there, and no index"),
    "several files": (empty("a.pt", "b.pt"), r"such as a\.pt, b\.pt; give one of them"),
    "epochs of a model whose name ends with a number": (
        empty("codegeex2-1_10.ckpt", "codegeex2-2_20.ckpt"),
        r"such as codegeex2-1_10\.ckpt, codegeex2-2_20\.ckpt; give one of them",
    ),
    "two files of a rank": (empty("mp_rank_00/a.pt", "mp_rank_00/b.pt"), "mp_rank_00: rank 0 has 2 files"),
    "FSDP in shards, of Accelerate": (
        empty("sampler.bin", "scheduler.bin", "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"),
        r"pytorch_model_fsdp_0: is a distributed checkpoint",
    ),
    "ZeRO 3": (empty("zero_pp_rank_0_mp_rank_00_model_states.pt"), "sharded by ZeRO 3"),
    "DeepSpeed's pipeline": (empty("layer_00-model_00-model_states.pt"), "the layers of a DeepSpeed pipeline"),
    "no such step": (lambda w: {"latest": "b", "a/x.pt": OLD}, r"names 'b', .*; give one that is, such as .*a$"),
    "outside": (lambda w: {"latest": "../.."}, "names '../..', which is not beside it"),
    "a long name": (lambda w: {"latest": "a" * 10**6}, "is larger than 256 bytes"),
    "a link": (lambda w: {"latest": "a", "a": lambda at: at.symlink_to("/etc")}, "a: is a link to /etc, outside"),
    "a circle": (lambda w: {"a": lambda at: at.symlink_to(".")}, "a: is a link to .*, outside"),
    "deep": (lambda w: {"a/b/c/d/e/f/g/h/i/j": Path.mkdir}, "nothing of these is there"),
    "ZeRO 3, of Trainer": (
        lambda w: {"pytorch_model.bin": {name: torch.empty(0) for name in w}},
        r"is empty, as ZeRO 3 leaves it; .* zero_to_fp32\.py",
    ),
    "verl": (empty("model_world_size_2_rank_0.pt"), r"FSDP sharded .*verl\.model_merger merge --backend fsdp"),
    "FSDP's flat parameters": (
        lambda w: {"a.safetensors": {"_fsdp_wrapped_module._flat_param": torch.ones(8)}},
        "1 tensors hold the weights of many layers in a row, such as .*; save the model with FullStateDictConfig",
    ),
    "GPTQ": (quantised("qkv_proj.qweight"), "qweight belongs to quantised weights; give the model before"),
    "MLX": (quantised("biases", dtype=torch.uint32), "biases belongs to quantised weights; give the model before"),
    "no head": (without_head, "missing tensor lm_head"),
    "CTranslate2": (
        lambda w: {"model.bin": "\6\0\0\0\x17\0TransformerDecoderSpec"},
        "is a model of CTranslate2; give the one that it was made from",
    ),
    "llama.cpp before GGUF": (lambda w: {"model.bin": "tjgg\3"}, "is a model of llama.cpp before GGUF"),
    "vLLM": (empty("model-rank-0-part-0.safetensors"), "in the order of vLLM's own layers"),
    "FP8": (
        lambda w: {"a.safetensors": {name: x.to(torch.float8_e4m3fn) for name, x in w.items()}},
        "has the type F8_E4M3 of quantised weights",
    ),
    "NeMo": (lambda w: {"a.nemo": "x"}, r"holds an archive \(a\.nemo\).* \(tar -xf .*a\.nemo\)"),
    "Keras": (lambda w: {"tf_model.h5": "x"}, r"a file of another program \(tf_model\.h5\)"),
    "a web page": (lambda w: {"a.safetensors": "<!DOCTYPE html>"}, "is a web page"),
    "nothing": (lambda w: {"a.bin": ""}, r"a\.bin: is empty"),
    "results next to steps": (
        empty("checkpoint-5/a.pt", "best/a.pt", "merged/a.pt"),
        "next to them best, merged; give one of them, or --checkpoint last, best or a step",
    ),
    "several folders": (empty("best/a.pt", "last/a.pt"), "the folders best, last; give one of them"),
    "no weights": (lambda w: {"config.json": "{}"}, r"no weights are there \(config\.json\)"),
    "Git LFS": (lambda w: {"a.pt": LFS}, "is a pointer of Git LFS"),
    "adapters": (lambda w: {"adapter_config.json": "{}"}, "holds adapters, .* ms-codegeex adapter merge"),
    "two prefixes": (lambda w: {"a.pt": wrapped(w, "a.") | wrapped(w, "b.")}, "are the same tensor but for a prefix"),
    "Megatron's distributed format": (empty("common.pt"), "--ckpt-format torch"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_named(tmp_path, codegen, kind):
    files, message = REFUSED[kind]
    write(tmp_path / "m", files(codegen[1]))
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path / "m", FIELDS["codegen"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["zero_pp_rank_0_mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_optim_states.pt"])
def test_a_file_that_holds_no_whole_weights_is_named(tmp_path, name):
    write(tmp_path, {name: OLD})
    with pytest.raises(UserError, match=r"sharded by ZeRO 3|another file of training state, not of weights"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_file_from_before_pytorch_1_6_is_read_after_the_command_that_is_named(tmp_path, codegen, protocol):
    torch.save(codegen[1], tmp_path / "old.bin", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    before = (tmp_path / "old.bin").read_bytes()
    with pytest.raises(UserError, match=r"before 1\.6; save it anew") as error:
        open_source(tmp_path / "old.bin", FIELDS["codegen"])
    python = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", str(error.value).rpartition("the old one: ")[2]], check=True, env=python)
    assert (tmp_path / "old.bin.old").read_bytes() == before
    equal(open_source(tmp_path / "old.bin", FIELDS["codegen"]), codegen[0])


def test_a_distributed_checkpoint_is_read_after_the_command_that_is_named(tmp_path, codegen, monkeypatch):
    from torch.distributed.checkpoint import format_utils
    from torch.distributed.checkpoint import save as save_parts

    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="assuming the intent is to save in a single process"):
        save_parts({"model": wrapped(codegen[1], "module.")}, checkpoint_id="parts")
    command = r"make one file of it: python -m torch\.distributed\.checkpoint\.format_utils dcp_to_torch parts model"
    for place in ("parts", "parts/__0_0.distcp"):
        with pytest.raises(UserError, match=command):
            open_source(Path(place))
    format_utils.dcp_to_torch_save("parts", "model.pt")
    equal(open_source(Path("model.pt"), FIELDS["codegen"]), codegen[0])
