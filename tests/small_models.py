"""Models of every family with a few thousand parameters and the released models' head layouts, to convert."""

import numpy as np

from ms_codegeex.formats.checkpoint import fingerprint
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.models.registry import family

GROUPED = {  # what two families have, whose heads share keys and values
    **{"vocab_size": 24, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_groups": 2},
    **{"intermediate_size": 20, "max_position_embeddings": 16, "norm_eps": 1e-6, "init_std": 0.02},
    **{"softmax_fp32": True, "eos_token_id": 3},
}
FIELDS = {
    "codegeex": {
        **{"vocab_size": 12, "hidden_size": 8, "num_layers": 2, "num_heads": 4, "intermediate_size": 16},
        **{"max_position_embeddings": 8, "layer_norm_eps": 1e-6, "init_std": 0.01, "softmax_fp32": True},
        "eos_token_id": 10,
    },
    "codegen": {
        **{"vocab_size": 24, "hidden_size": 64, "num_layers": 2, "num_heads": 16, "intermediate_size": 40},
        **{"rotary_dim": 2, "max_position_embeddings": 16, "layer_norm_eps": 1e-6, "init_std": 0.02},
        **{"scores_fp32": True, "eos_token_id": 5},
    },
    "codegeex2": GROUPED | {"rotary_dim": 4, "rope_ratio": 1.0, "rotary_dtype": "fp32"},
    "qwen2": GROUPED | {"rotary_base": 1e6, "tied_head": True},
}
FAMILIES = tuple(FIELDS)


def config(name):
    """The family's configuration of these sizes."""
    return family(name).config.build_config(None, FIELDS[name])


def formats(name):
    """The family's `FamilyFormats`."""
    return FamilyFormats(family(name))


def entries(name, layout, sizes=None, ranks=1):
    """Those of a layout, of `config(name)` or other sizes."""
    return formats(name).entries(formats(name).layout(layout), sizes or config(name), ranks)


def shapes(name):
    """Our parameters and their shapes."""
    return config(name).parameter_shapes()


def parameters(name, seed=3):
    """Random FP32 arrays; no two elements of the model are likely to be equal."""
    generator = np.random.default_rng(seed)
    return {key: generator.standard_normal(shape).astype(np.float32) for key, shape in shapes(name).items()}


def bfloat16(arrays):
    """The upper halves of FP32 arrays."""
    return {key: (array.view(np.uint32) >> 16).astype(np.uint16) for key, array in arrays.items()}


def save_run(root, name, arrays, dtype=None, **model):
    """A run directory with one checkpoint; `dtype` only for bfloat16 bits."""
    tensors = {key: Slice(array.shape, (0,) * array.ndim, array, dtype) for key, array in arrays.items()}
    state = {"config": {"model": {"family": name, "preset": None, **FIELDS[name], **model}}}
    write_checkpoint(root / "checkpoints", 4, tensors, state)
    return root


ARRAYS_OF_TYPES = {
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "float16": np.ones((3, 5), np.float16) / 3,
    "int64": np.array([1 << 40, -3]),
    "int32": np.arange(-3, 3, dtype=np.int32),
    "int16": np.array([-7], np.int16),
    "int8": np.array([[-128], [127]], np.int8),
    "uint8": np.arange(200, dtype=np.uint8),
    "bool": np.array([True, False]),
}

CHATGLM = {  # of the published configuration, what no size changes
    "model_type": "chatglm",
    "num_layers": 2,
    "kv_channels": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "apply_query_key_layer_scaling": True,
    "attention_softmax_in_fp32": True,
    "original_rope": True,
    "interleaved_qkv": False,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "tie_word_embeddings": False,
    "quantization_bit": 0,
    "pre_seq_len": None,
    "prefix_projection": False,
}


def save_adapters(root, name, base, rank=2, alpha=6.0, targets=("attention", "feed_forward"), seed=5, untied=False):
    """A run directory with random adapters for the model at `base`; `untied`: as earlier versions saved them, with a
    factor A for each layer."""
    tensors, generator = open_source(base).tensors, np.random.default_rng(seed)
    shapes = config(name).adapter_shapes(targets, rank)
    if untied:
        layers = config(name).adapted_layers(targets)
        shapes |= {f"{layer}.lora_a": (rank, columns) for layer, (_, columns) in layers.items()}
    arrays = {key: (0.1 * generator.standard_normal(shape)).astype(np.float32) for key, shape in shapes.items()}
    slices = {key: Slice(array.shape, (0, 0), array) for key, array in arrays.items()}
    model = {"family": name, "preset": None, **FIELDS[name], "weights": str(base)}
    settings = {"model": model, "lora": {"rank": rank, "alpha": alpha, "targets": list(targets)}}
    write_checkpoint(root / "checkpoints", 4, slices, {"config": settings, "base": fingerprint(tensors)})
    return root


def two_ranks(folder, tensors):
    """The files of two ranks of mindformers, which hold rows of matrices, and their description, not yet written."""
    from safetensors.numpy import save_file

    files, described = [{}, {}], {"state_dict_metadata": {}, "storage_data": {}}
    for name, value in tensors.items():
        parts = np.split(value, 2) if value.ndim == 2 else [value]
        chunks = []
        for rank, part in enumerate(parts):
            offset = [rank * len(part), *[0] * (value.ndim - 1)]
            chunks.append({"global_offset": offset, "local_shape": [*part.shape]})
            file = f"model-{rank:07}-0000002.safetensors"
            described["storage_data"][str((name, tuple(offset)))] = [{"file_name": file, "storage_rank": rank}]
            files[rank][name] = np.ascontiguousarray(part)
        described["state_dict_metadata"][name] = {"global_shape": [*value.shape], "chunk": chunks}
    folder.mkdir(parents=True)
    for rank, held in enumerate(files):
        save_file(held, folder / f"model-{rank:07}-0000002.safetensors", {"format": "ms"})
        save_file({"adam_m.x": np.zeros(2, "f4")}, folder / f"opt-{rank:07}-0000002.safetensors", {"format": "ms"})
    return described


def foreign(name, layout, arrays):
    """The arrays as tensors of the layout of that kind."""
    from ms_codegeex.formats.layout import to_foreign

    return to_foreign(entries(name, layout), {key: from_array(array) for key, array in arrays.items()})


def equal(source, expected):
    """Assert that a source holds exactly these arrays."""
    assert source.tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert source.tensors[name].array().tobytes() == array.tobytes(), name
