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


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["device=cpu"], "there is no such kernel for device: cpu"),
        (["device=gpu", "parallel.hardware=ascend910b"], "there is no such kernel for device: gpu"),
        (["device=ascend", "parallel.hardware=ascend910"], "parallel.hardware: ascend910 has no such kernel"),
        ([*ON_910B, "training.dropout=0.1", "data.seq_length=1020"], "make data.seq_length: 1020 a multiple of 8"),
        ([*ON_910B, "training.precision=fp32"], "set training.precision to fp16 or bf16"),
        ([*ON_910B, "model.num_heads=32"], "heads of 24 are not a multiple of 16 up to 512; change model.num_heads"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_fused_attention_that_cannot_be_had_is_refused_by_key(overrides, message):
    with pytest.raises(UserError, match=f"^parallel.fusion.attention: .*{message}") as error:
        chosen(*overrides, "parallel.fusion.attention=true")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides,why",
    [
        (["device=cpu"], ";"),
        (["device=ascend"], ";"),
        ([*ON_910B, "parallel.fusion.attention=false"], ";"),
        (
            [*ON_910B, "training.dropout=0.1"],
            ": by the ends of documents it drops nothing; set training.attention_dropout to 0, or",
        ),
    ],
    ids=["cpu", "ascend 910", "off", "dropout"],
)
def test_ends_of_documents_need_fused_attention(overrides, why):
    words = f"^parallel.fusion.documents: .* this run composes attention{why} leave the key out$"
    with pytest.raises(UserError, match=words):
        chosen(*overrides, "parallel.fusion.documents=true")


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


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_kernel_of_rms_norm_is_refused_off_an_ascend(device):
    two = [f"device={device}", "model.family=codegeex2", "model.preset=6b", "parallel.fusion.norm=true"]
    with pytest.raises(UserError, match=r"^parallel.fusion.norm: RMSNorm's kernel exists on Ascend only"):
        chosen(*two)
    assert "norm" in chosen("device=ascend", *two[1:])


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["device=ascend", "devices=2"], "copies of an activation"),
        (["device=gpu", "devices=2"], "copies of an activation"),
        (["device=ascend", "training.recompute=full"], "training.recompute: full has to drop the same elements again"),
        (["device=cpu", "training.recompute=selective"], "training.recompute: selective has to"),
    ],
    ids=["copies on ascend", "copies on gpu", "full recomputation", "selective recomputation"],
)
def test_no_run_may_need_the_same_mask_of_the_dropout_kernel_twice(overrides, message):
    kernel = ["parallel.fusion.dropout=true", "training.dropout=0.1"]
    with pytest.raises(UserError, match=f"^parallel.fusion.dropout: .*{message}.*leave the key out"):
        chosen(*overrides, *kernel)
    assert "dropout" not in chosen(*overrides, "training.dropout=0.1")
    assert "dropout" in chosen(*overrides, kernel[0], "training.dropout=0")


def test_a_single_device_that_forgets_nothing_may_use_the_dropout_kernel():
    assert "dropout" in chosen("device=ascend", "parallel.fusion.dropout=true", "training.dropout=0.1")


@pytest.mark.parametrize("dropout", ["0", "0.1"])
def test_the_planner_costs_what_a_run_there_would_choose(dropout):
    config = load_config(None, [*RUN, *ON_910B, f"training.dropout={dropout}"])
    assert shape_of(config, ASCEND_910B).fused == chosen_kernels(config)
