"""Each family as mindformers' `PretrainedConfig` and `PreTrainedModel`, derived from the family's own dataclass."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
from mindformers.models import PretrainedConfig, PreTrainedModel
from mindspore import Tensor, ops

from ms_codegeex.base.errors import UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.config.model import model_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.batches import PackedSequences
from ms_codegeex.extras.exchange.mindformers_bridge.dataset import current_seed
from ms_codegeex.extras.exchange.mindformers_bridge.settings import check, known
from ms_codegeex.extras.exchange.mindformers_bridge.wrapper import data_parallel_devices
from ms_codegeex.models.registry import family
from ms_codegeex.training.build import build_network
from ms_codegeex.training.first_values import initial_weight

# What else a model is built from: keys of a run's configuration (docs/configuration.md) and their sections
BUILD_KEYS = {
    **dict.fromkeys(("seq_length", "reset_at_eos"), "data"),
    **dict.fromkeys(("precision", "dropout", "loss_chunk"), "training"),
}


@contextmanager
def _translated() -> Iterator[None]:
    """A `UserError` has the keys of mindformers' YAML in its message."""
    try:
        yield
    except UserError as error:
        words = re.sub(r"\b(?:model|data|training)\.(?=[a-z])", "model.model_config.", str(error))
        raise UserError(words) from None


class FamilyConfig(PretrainedConfig):
    """The fields of one family's dataclass and `BUILD_KEYS`. `preset` fills in what is not given. Defaults are those of
    `ms-codegeex train`. `UserError` for unknown keys, wrong types and sizes that do not fit."""

    family = ""

    def __init__(self, preset: str | float | None = None, **values: Any):
        fields = self.size_fields()
        check({"model": {"model_config": values}})
        others = {*PretrainedConfig().__dict__, *known("model.model_config"), *BUILD_KEYS}
        sizes = {key: value for key, value in values.items() if key in fields or key not in others}
        with _translated():  # an unknown key is among the sizes here, and is refused with a suggestion
            resolved = model_config({"family": self.family, "preset": preset, **sizes}).sizes
        super().__init__(**{key: value for key, value in values.items() if key not in (*fields, *BUILD_KEYS)})
        for key, value in {**dataclasses.asdict(resolved), **{key: values.get(key) for key in BUILD_KEYS}}.items():
            setattr(self, key, value)
        self.run_config()

    @classmethod
    def size_fields(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(own_config(cls.family))]

    def run_config(self) -> RunConfig:
        """The validated configuration of a run of this model on this device. `batch_size` is known once the Trainer has
        set it."""
        sizes = {key: getattr(self, key) for key in self.size_fields()}
        batch = getattr(self, "batch_size", None) or self._dataset().get("batch_size")
        sections: dict[str, dict[str, Any]] = {"data": {}, "training": {"steps": 1, "global_batch": batch or 1}}
        for key, section in BUILD_KEYS.items():
            if getattr(self, key) is not None:
                sections[section][key] = getattr(self, key)
        if not batch:  # the chunked loss is compiled for one batch size
            sections["training"]["loss_chunk"] = 0
        device = ms.get_context("device_target").lower()
        values = {"model": {"family": self.family, **sizes}, "device": device, "seed": current_seed(), **sections}
        with _translated():
            return build_run_config(values)

    def _dataset(self) -> dict[str, Any]:
        return getattr(self, "dataset_config", None) or {}

    def check_dataset(self) -> None:
        """`UserError` if the dataset of a `PackedSequences` loader was tokenised for another model."""
        loader = self._dataset().get("data_loader") or {}
        directory = loader.get("dataset_dir")
        if loader.get("type") != "PackedSequences" or not directory:
            return
        data = PackedSequences(Path(directory), loader.get("split") or "train", self.run_config().seq_length, 0)
        with _translated():
            data.check_model(self.vocab_size, self.eos_token_id)


class FamilyModel(PreTrainedModel):
    """The network of `ms-codegeex train` with the interface of mindformers: token ids in, mean loss out. Parameter
    names and, for the same seed, initial weights are those of `ms-codegeex train`."""

    def __init__(self, config: FamilyConfig):
        super().__init__(config, auto_prefix=False)
        config.check_dataset()
        run = config.run_config()
        self.network_of_sums = build_network(run)
        self.seq_length, self.eos_token_id = run.seq_length, config.eos_token_id
        self.needs_samples = run.training.dropout > 0 or run.training.attention_rate > 0
        self.world = data_parallel_devices()
        self.reduce = ops.AllReduce() if self.world > 1 else None
        sizes = run.model.sizes
        for parameter in self.trainable_params():
            if not parameter.has_init:  # otherwise mindformers has deferred the allocation, and will load a checkpoint
                std = sizes.initial_std(parameter.name)
                parameter.set_data(Tensor(initial_weight(parameter.name, tuple(parameter.shape), std, run.seed)))

    def construct(self, input_ids: Tensor, samples: Tensor | None = None) -> Tensor:
        """ids int32 [batch, seq_length + 1], sample numbers int32 [batch] -> FP32 scalar, nats per token that counts.
        Position i predicts token i + 1. The token after an eos starts another document and does not count."""
        if input_ids.shape[1] != self.seq_length + 1:
            raise ValueError("input_ids: a row must have model.model_config.seq_length + 1 tokens")
        if samples is None:
            if self.needs_samples:
                raise ValueError("model.model_config.dropout: needs the dataset's column 'samples' as its seed")
            samples = ops.zeros((input_ids.shape[0],), ms.int32)
        inputs, labels = input_ids[:, :-1], input_ids[:, 1:]
        mask = ops.cast(ops.not_equal(inputs, self.eos_token_id), ms.float32)
        sums = self.network_of_sums(inputs, labels, mask, samples)
        count = sums[1]
        if self.world > 1:  # so that the mean of the devices' losses is the loss of the whole batch
            count = self.reduce(ops.stop_gradient(count)) / self.world
        return sums[0] / ops.maximum(count, Tensor(1.0 / self.world, ms.float32))


def own_config(name: str) -> type:
    return type(family(name).config.build_config(None, {}))


def family_classes(name: str) -> tuple[type[FamilyConfig], type[FamilyModel]]:
    """Configuration and model class of a family: for `codegeex`, `CodeGeeXConfig` and `CodeGeeXForCausalLM`."""
    title = own_config(name).__name__.removesuffix("Config")
    common = {"__module__": __name__}
    config = type(f"{title}Config", (FamilyConfig,), {**common, "family": name, "model_type": name})
    return config, type(f"{title}ForCausalLM", (FamilyModel,), {**common, "config_class": config})
