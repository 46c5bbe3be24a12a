"""Which fused kernels a run uses, by device and by key."""

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import ASCEND_910B
from ms_codegeex.config.chosen_hardware import FUSIONS, chosen_kernels, documents_of_a_row
from ms_codegeex.config.loading import load_config
from ms_codegeex.planning.cost_model import shape_of

RUN = ("model.preset=base", "training.steps=1", "training.precision=fp16", "training.dropout=0", "devices=1")
ON_910B = ("device=ascend", "parallel.hardware=ascend910b")
REST = {"graph_kernel", "norm", "optimizer"}
ON_GPU = {"norm", "optimizer"}


def chosen(*overrides):
    return chosen_kernels(load_config(None, [*RUN, *overrides]))


@pytest.mark.parametrize(
    "overrides,expected",
    [
        (["device=cpu"], {"optimizer"}),
        (["device=cpu", "parallel.hardware=ascend910b"], {"optimizer"}),
        (["device=gpu", "parallel.hardware=a100"], ON_GPU),
        (["device=gpu"], ON_GPU),
        (["device=gpu", "parallel.hardware=ascend910b"], ON_GPU),  # its fused attention is Ascend's
        (["device=gpu", "model.family=codegeex2", "model.preset=6b"], {"optimizer"}),  # so is RMSNorm's kernel
        (["device=ascend"], REST),
        (["device=ascend", "parallel.hardware=a100"], REST),
        (["device=ascend", "model.family=codegeex2", "model.preset=6b"], REST),
        (ON_910B, {*REST, "attention"}),
        ([*ON_910B, "training.dropout=0.1"], {*REST, "attention"}),
        ([*ON_910B, "training.dropout=0.1", "data.seq_length=1020"], REST),  # its mask has bytes
        ([*ON_910B, "training.precision=fp32"], REST),
        ([*ON_910B, "model.num_heads=32"], REST),  # heads of 24
        ([*ON_910B, "model.num_heads=1"], REST),  # a head of 768
        ([*ON_910B, "model.family=codegen", "model.preset=350m-nl"], REST),  # its scores are FP32
        ([*ON_910B, "model.family=codegen", "model.preset=350m-nl", "model.scores_fp32=false"], {*REST, "attention"}),
        ([*ON_910B, "model.family=codegeex2", "model.preset=6b"], {*REST, "attention"}),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_defaults_by_device(overrides, expected):
    assert chosen(*overrides) == expected


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("device", ["cpu", "ascend"])
def test_a_key_overrides_the_default_of_its_kernel_alone(name, device):
    place = ON_910B if device == "ascend" else ("device=cpu",)
    default = chosen(*place)
    assert chosen(*place, f"parallel.fusion.{name}=false") == default - {name}
    if (name, device) != ("attention", "cpu"):
        assert chosen(*place, f"parallel.fusion.{name}=true") == default | {name}


RMS = ("model.family=codegeex2", "model.preset=6b")
DROPS = "training.dropout=0.1"
ENDS = "only fused attention takes the ends of documents, and this run composes attention"
REFUSED = [  # the key, which is set to true, the others, and the message
    ("attention", ["device=cpu"], "there is no such kernel for device: cpu"),
    ("attention", ["device=gpu", "parallel.hardware=ascend910b"], "there is no such kernel for device: gpu"),
    ("attention", ["device=ascend", "parallel.hardware=ascend910"], "hardware: ascend910 has no such kernel"),
    ("attention", [*ON_910B, DROPS, "data.seq_length=1020"], "make data.seq_length: 1020 a multiple of 8"),
    ("attention", [*ON_910B, "training.precision=fp32"], "set training.precision to fp16 or bf16"),
    ("attention", [*ON_910B, "model.num_heads=32"], "heads of 24 are not .* 16 up to 512; change model.num_heads"),
    ("documents", ["device=cpu"], f"{ENDS}; leave the key out"),
    ("documents", ["device=ascend"], f"{ENDS}; leave the key out"),
    ("documents", [*ON_910B, "parallel.fusion.attention=false"], f"{ENDS}; leave the key out"),
    ("documents", [*ON_910B, DROPS], f"{ENDS}: by the .* it drops nothing; set training.attention_dropout to 0, or"),
    ("norm", ["device=cpu", *RMS], "RMSNorm's kernel exists on Ascend only"),
    ("norm", ["device=gpu", *RMS], "RMSNorm's kernel exists on Ascend only"),
    # no run may need the same mask twice
    ("dropout", ["device=ascend", DROPS, "devices=2"], "copies of an activation.*leave the key out"),
    ("dropout", ["device=gpu", DROPS, "devices=2"], "copies of an activation.*leave the key out"),
    ("dropout", ["device=ascend", DROPS, "training.recompute=full"], "training.recompute: full has to drop the same"),
    ("dropout", ["device=cpu", DROPS, "training.recompute=selective"], "training.recompute: selective has to"),
]


@pytest.mark.parametrize(
    ("name", "overrides", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_kernel_that_cannot_be_had_is_refused_by_key(name, overrides, message):
    with pytest.raises(UserError, match=f"^parallel.fusion.{name}: .*{message}") as error:
        chosen(*overrides, f"parallel.fusion.{name}=true")
    assert "\n" not in str(error.value)
    assert name not in chosen(*overrides)


def test_ends_of_documents_go_with_dropout_of_hidden_states_alone():
    rates = "training.dropout=0.1", "training.attention_dropout=0"
    assert "attention" in chosen(*ON_910B, *rates, "parallel.fusion.documents=true")


def test_ends_of_documents_are_as_many_as_a_call_may_have():
    def of_a_row(*overrides):
        return documents_of_a_row(load_config(None, [*RUN, *ON_910B, *overrides]))

    documents, batch = "parallel.fusion.documents=true", ["training.global_batch=8", "training.micro_batch=4"]
    assert of_a_row(*batch) == 0
    assert of_a_row(documents, *batch) == 256 and of_a_row(documents, *batch, "data.seq_length=64") == 64
    assert of_a_row(documents, *batch, "data.reset_at_eos=false") == 1


def test_a_single_device_that_forgets_nothing_may_use_the_dropout_kernel():
    kernel = "parallel.fusion.dropout=true"
    assert "dropout" in chosen("device=ascend", kernel, DROPS)
    assert "dropout" in chosen("device=ascend", "devices=2", kernel, "training.dropout=0")


@pytest.mark.parametrize("dropout", ["0", "0.1"])
def test_the_planner_costs_what_a_run_there_would_choose(dropout):
    config = load_config(None, [*RUN, *ON_910B, f"training.dropout={dropout}"])
    assert shape_of(config, ASCEND_910B).fused == chosen_kernels(config)
