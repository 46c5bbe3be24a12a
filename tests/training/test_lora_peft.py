"""Twenty steps of adapters against PEFT's: it begins them, both train, and it gets ours back."""

import mindspore as ms
import numpy as np
import pytest
from conftest import small_run
from test_lora import make, write_start
from test_trainer import Keep

from ms_codegeex.config.schedule import learning_rate
from ms_codegeex.formats.adapters import as_trained
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft import open_adapters
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.rounding import quantise
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.sources import open_source
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.runs.rank.saving import Checkpoints

pytest.importorskip("torch")

from twins import codegeex2_torch

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
RANK, ALPHA, STEPS = 2, 6, 20
SIZES = {
    "codegeex": {},
    "codegen": {"preset": "tiny", "rotary_dim": 4, "num_heads": 4},  # transformers' layout has four groups of heads
    "codegeex2": {"preset": "tiny", "num_kv_groups": 1, "rotary_dim": 4},
}
# PyTorch's module, and our layers in it
MODULES = {
    "codegeex": {
        "attention.query": ["attention.query"],
        "attention.key": ["attention.key"],
        "attention.value": ["attention.value"],
        "attention.dense": ["attention.output"],
        "dense_h_to_4h": ["feed_forward.up"],
        "dense_4h_to_h": ["feed_forward.down"],
    },
    "codegen": {
        "qkv_proj": ["attention.query", "attention.key", "attention.value"],
        "out_proj": ["attention.output"],
        "fc_in": ["feed_forward.up"],
        "fc_out": ["feed_forward.down"],
    },
    "codegeex2": {
        "query_key_value": ["attention.query", "attention.key", "attention.value"],
        "dense": ["attention.output"],
        "dense_h_to_4h": ["feed_forward.gate", "feed_forward.up"],
        "dense_4h_to_h": ["feed_forward.down"],
    },
}


@pytest.fixture(scope="module")
def bases(dataset, tmp_path_factory):
    """Family -> a run's values, and the model directory they start from; made once."""
    root, made = tmp_path_factory.mktemp("peft"), {}

    def base(family):
        if family not in made:
            values = small_run(dataset, root / family / "run")
            values["model"] |= {"family": family, **SIZES[family]}
            values["data"]["reset_at_eos"] = False
            values["training"].update(steps=STEPS, clip_norm=0.0)
            write_start(values, root / family)
            convert(root / family, "hf", root / f"{family}-hf", progress=False)
            made[family] = values, root / f"{family}-hf"
        return made[family]

    return base


def pytorch_model(family, directory):
    if family == "codegeex2":  # transformers has no class for it
        twin = codegeex2_torch.CodeGeeX2(codegeex2_torch.Sizes.of(open_source(directory).config))
        tensors = SafetensorsFile(directory / "model.safetensors").tensors
        twin.load_state_dict({name: torch.from_numpy(tensor.float32().copy()) for name, tensor in tensors.items()})
        return twin
    auto, options = transformers.AutoModelForCausalLM, {"attn_implementation": "eager", "trust_remote_code": True}
    return auto.from_pretrained(directory, **options)


def peft_losses(model, trainer):
    """Of `STEPS` steps of torch's AdamW on the trainer's batches."""
    trained, losses = [p for p in model.parameters() if p.requires_grad], []
    optimizer = torch.optim.AdamW(trained, lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(STEPS):
        batch = trainer.data.training_batch(4 * step, 4)
        inputs, labels = (torch.from_numpy(a.astype(np.int64)) for a in (batch.inputs, batch.labels))
        mask, logits = torch.from_numpy(batch.loss_mask), model(inputs)
        logits = getattr(logits, "logits", logits)
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        loss = (nll.view(mask.shape) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = float(learning_rate(step, trainer.config.schedule))
        optimizer.step()
        losses.append(loss.item())
    return losses


CASES = [
    ("codegen", ["qkv_proj"], False),
    ("codegen", list(MODULES["codegen"]), True),
    ("codegeex", list(MODULES["codegeex"]), False),
    ("codegeex2", list(MODULES["codegeex2"]), False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "modules", "rslora"), CASES, ids=["fused", "rslora", "codegeex", "codegeex2"])
def test_twenty_steps_have_the_losses_of_peft(bases, family, modules, rslora, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    values, base = bases(family)
    torch.manual_seed(5)
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules, lora_dropout=0.0, use_rslora=rslora)
    model = peft.get_peft_model(pytorch_model(family, base), settings).train()
    model.save_pretrained(tmp_path / "begin")

    adapters = open_adapters(tmp_path / "begin", open_source(base))
    targets = sorted(layer for module in modules for layer in MODULES[family][module])
    assert set(adapters.targets) - {"top_query_layer.attention.query"} >= set(targets)
    lora = {"rank": RANK, "alpha": adapters.alpha, "targets": targets, "weights": str(tmp_path / "begin")}
    values = {**values, "lora": lora, "model": {**values["model"], "weights": str(base)}}
    trainer = make(values, keep := Keep(), Checkpoints(tmp_path / "tuned" / "checkpoints", 0, 1))
    expected = peft_losses(model, trainer)
    trainer.run()
    assert expected[-1] < expected[0] - 0.05
    np.testing.assert_allclose([record.loss for record in keep.records], expected, rtol=1e-5)

    write_peft(open_source(tmp_path / "tuned"), tmp_path / "end")
    found = SafetensorsFile(tmp_path / "end" / "adapter_model.safetensors").tensors
    twins = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == twins.keys()
    for name, twin in twins.items():
        np.testing.assert_allclose(found[name].float32(), twin.detach().numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


class LossSum(ms.nn.Cell):
    """The loss sum alone of a network, for its gradients."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, inputs, labels, mask, samples):
        return self.network(inputs, labels, mask, samples)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "frozen"),
    [(family, held) for family in SIZES for held in ("fp16", "int8", "int4") if (family, held) != ("codegeex", "int8")],
)
def test_gradients_on_rounded_weights_are_those_of_a_float64_twin(bases, family, frozen, tmp_path, monkeypatch):
    """The twin's matrices are rounded as `frozen` says, its tables to FP16. Its attention may be FP32, as the
    original's. CodeGen has the compiled operators, if there is a compiler, the others MindSpore's."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    values, base = bases(family)
    torch.manual_seed(6)
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(MODULES[family]), init_lora_weights=False)
    twin = peft.get_peft_model(pytorch_model(family, base), settings).train()
    twin.save_pretrained(tmp_path / "begin")
    for name, parameter in twin.named_parameters():
        if "lora_" in name or parameter.dim() != 2:
            continue
        if frozen.startswith("int") and "base_layer" in name:
            wide = quantise(parameter.data.numpy(), int(frozen[3:])).float32()
            parameter.data = torch.from_numpy(wide)
        else:
            parameter.data = parameter.data.half().float()
    twin.double()
    source = open_source(base)
    begun = open_adapters(tmp_path / "begin", source)
    targets, lora = [layer for each in MODULES[family].values() for layer in each], {"rank": RANK, "alpha": ALPHA}
    lora |= {"targets": targets, "weights": str(tmp_path / "begin"), "frozen": frozen}
    library = library_path() if family == "codegen" else None
    model = {**values["model"], "weights": str(base)}
    training = {**values["training"], "loss_chunk": 50, "recompute": "full"}
    trainer = make({**values, "model": model, "lora": lora, "training": training}, library=library)
    batch, network = trainer.data.training_batch(0, 4), LossSum(trainer.built.network).set_train()
    weights = ms.ParameterTuple(network.trainable_params())
    arrays = (batch.inputs, batch.labels, batch.loss_mask, np.arange(4, dtype=np.int32))
    found = ms.ops.GradOperation(get_by_list=True)(network, weights)(*map(ms.Tensor, arrays))
    inputs, labels = (torch.from_numpy(array.astype(np.int64)) for array in arrays[:2])
    logits = twin(inputs)
    logits = getattr(logits, "logits", logits).flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="none")
    (nll * torch.from_numpy(arrays[2]).flatten()).sum().backward()
    for parameter in twin.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.grad
    twin.save_pretrained(tmp_path / "gradients")
    expected = as_trained(open_adapters(tmp_path / "gradients", source), source.family.table, "gradients")
    assert {p.name for p in weights} == set(expected) == set(begun.tensors) & set(expected)
    for parameter, gradient in zip(weights, found, strict=True):
        want = expected[parameter.name].array().astype(np.float64)
        error = np.abs(gradient.asnumpy() - want).max() / np.abs(want).max()
        assert error < 1e-5, (parameter.name, error)
