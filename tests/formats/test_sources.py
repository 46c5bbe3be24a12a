"""Models as the other side's own tools save them: PyTorch, NumPy and MindSpore files of every shape, by content."""

import json
import os
import shutil
from collections import OrderedDict

import numpy as np
import pytest
from small_models import FIELDS, equal, foreign, parameters

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
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
    with pytest.raises(UserError, match="does not say which tokenizer this codegeex model has; convert it to a model"):
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
        layers = {name: part(name, tensor, rank) for name, tensor in language["transformer"].items()}
        embedding = {**language["embedding"], "word_embeddings": {"weight": words}}
        return {
            "module": {
                "language_model": {
                    "embedding": embedding,
                    "topQueryEmbedding": {"top_query_embeddings": {"weight": positions}},
                    "transformer": layers,
                }
            }
        }

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path, trees: (path / "mp_rank_01_model_states.pt").unlink(), "no file of rank 1"),
        (lambda path, trees: torch.save(trees[1], path / "mp_rank_1_again.pt"), "rank 1 has 2 files"),
        (
            lambda path, trees: (path / "mp_rank_03_model_states.pt").unlink(),
            "3 does not divide 4, the number of heads; is one missing",
        ),
        (
            lambda path, trees: (
                transformer(trees[2])["layers.0.input_layernorm.bias"].add_(1),
                torch.save(trees[2], path / "mp_rank_02_model_states.pt"),
            ),
            "mp_rank_02.*blocks.0.attention_norm.bias differs",
        ),
        (
            lambda path, trees: (
                transformer(trees[3]).update({"final_layernorm.bias": torch.zeros(8).half()}),
                torch.save(trees[3], path / "mp_rank_03_model_states.pt"),
            ),
            r"mp_rank_03.*final_norm.bias is float16 \[8\]",
        ),
    ],
)
def test_rank_files_that_do_not_fit_are_named(tmp_path, change, message):
    arrays = parameters("codegeex")
    trees = ranks(megatron(arrays), 4)
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
    (tmp_path / "README").write_text("")
    source = open_source(tmp_path, KNOWN)
    equal(source, arrays)
    assert source.kind == "mindspore"


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, r"layernorm\.beta\.npy: not a sound"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), r"layernorm\.beta\.npy: has .* bytes"),
        (lambda path: path.write_bytes(b"hello"), r"layernorm\.beta\.npy: not a sound"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"(8,)", b"(" + b"9" * 40)), r"\.npy: not a sound"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"}", b"{")), r"layernorm\.beta\.npy: not a sound"),
        (lambda path: np.save(path, np.array([{}])), r"layernorm\.beta\.npy: not a sound.*Python objects"),
        (lambda path: np.save(path, np.zeros(8, complex)), r"layernorm\.beta\.npy: .*complex128"),
        (lambda path: np.save(path, np.zeros(8, np.int32)), r"backbone\.layernorm\.beta has dtype int32"),
        (lambda path: path.unlink(), r"missing tensor backbone\.layernorm\.beta"),
        (lambda path: path.rename(path.with_name("b.npy")), r"missing tensor backbone\.layernorm\.beta"),
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


def test_mindspores_own_files(tmp_path):
    ms = pytest.importorskip("mindspore")
    arrays = parameters("codegeex")
    named = {name: tensor.array() for name, tensor in foreign("codegeex", "mindspore", arrays).items()}
    state = {
        **{f"adam_m.{name}": array for name, array in named.items()},
        "global_step": np.array([5], np.int32),
        "scale_sense": np.array([2.0**30], np.float32),
    }

    def save(path, entries):
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.save_checkpoint([{"name": n, "data": ms.Tensor(a)} for n, a in entries.items()], str(path))
        os.chmod(path, 0o644)

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
    equal(open_source(tmp_path / "8p", KNOWN), arrays)
    (tmp_path / "8p" / "rank_2" / "code-13B2-50.ckpt").unlink()
    with pytest.raises(UserError, match="no file of rank 2"):
        open_source(tmp_path / "8p", KNOWN)


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
    from ms_codegeex.formats.mindspore_checkpoint import write_mindspore

    arrays, axes = parameters("codegeex"), [*ORIGINAL_CUTS.items()]
    tensors = foreign("codegeex", "mindspore", arrays)
    named = {
        name: (tensor.array(), next((axis for suffix, axis in axes if name.endswith(suffix)), None))
        for name, tensor in tensors.items()
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


@pytest.mark.parametrize("layer", [0, 1])
def test_the_first_tensor_of_a_layer_is_missing(tmp_path, layer):
    tree = megatron(parameters("codegeex"))
    del transformer(tree)[f"layers.{layer}.input_layernorm.weight"]
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt: missing tensor .* layers\.{layer}\.input_layernorm\.weight;"):
        open_source(tmp_path / "a.pt", KNOWN)


def test_a_tensor_in_a_list_is_unexpected(tmp_path):
    torch.save({**megatron(parameters("codegeex")), "more": [1, (torch.zeros(2),)]}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="unexpected tensor more -> 1 -> 0;"):
        open_source(tmp_path / "a.pt", KNOWN)


def test_a_recorded_number_of_layers_that_cannot_be(tmp_path):
    torch.save({**megatron(parameters("codegeex")), "config": {**KNOWN, "num_layers": 10**12}}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"asks for 1000000000000 layers, but only 53 tensors"):
        open_source(tmp_path / "a.pt")


def test_caches_of_prediction_in_a_folder_of_npy_are_left_out(tmp_path):
    arrays = parameters("codegeex")
    for name, tensor in foreign("codegeex", "mindspore", arrays).items():
        np.save(tmp_path / f"{name}.npy", tensor.array())
    np.save(tmp_path / "backbone.blocks.0.key_past.npy", np.zeros((1, 4, 2, 8), np.float16))
    source = open_source(tmp_path, KNOWN)
    equal(source, arrays)
    assert source.skipped == ("backbone.blocks.0.key_past",)


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
        with pytest.raises(UserError, match=r"no file of rank 1, though there is mp_rank_20231117"):
            open_source(tmp_path, KNOWN)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
