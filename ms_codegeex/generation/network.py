"""Runs a family's network for the engine with MindSpore's own operators: passes of rows through its graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_codegeex.generation.choice import COLUMNS
from ms_codegeex.generation.composite import CompositeCells, CompositeChoice
from ms_codegeex.generation.device_shares import DeviceExchange
from ms_codegeex.generation.loading import Adapter
from ms_codegeex.generation.matrices import Weights
from ms_codegeex.generation.rows import Rows, SlotSizes
from ms_codegeex.models.causal import Build
from ms_codegeex.models.flat import FlatBuild

MAX_SLOTS_PER_ROW = 8  # with more slots per row, a pass of single rows is not spread over all slots


class Passage(nn.Cell):
    """Runs rows through a model's blocks. Each number of rows has its own graph, independent of the output wanted."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, rows: Tensor) -> Tensor:
        """int32 [3, s, c] -> hidden states FP32 [s*c, H]"""
        return self.model(rows, rows)


class OutputReader(nn.Cell):
    """Turns hidden states into logits, or into the next tokens if it has a `choice`. Each combination of rows, edits
    and likeliest tokens has its own graph; these graphs are small because they contain no layers of the model."""

    def __init__(self, head: nn.Cell, choice: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.head, self.choice = head, choice

    def construct(self, hidden: Tensor, settings: Tensor, edits: Tensor, places: Tensor) -> Tensor:
        """FP32 [n, H] and the tensors of `Rows` -> [n, 1 + k, 2]; without `choice`, logits [n, V]"""
        logits = self.head(hidden)
        return logits if self.choice is None else self.choice(logits, settings, edits, places)


class LocalNetwork:
    """A network in this process: a complete model or one device's share of it. `modules` is the family's `model.py`.
    Rows refer to `adapters` by number, counted from 1."""

    def __init__(
        self,
        modules: Any,
        config: Any,
        weights: Weights,
        sizes: SlotSizes,
        meeting: DeviceExchange | None = None,
        adapters: Sequence[Adapter] = (),
        slower: str = "",
    ):
        self.sizes, self.vocab_size, self.compiled, self.slower = sizes, config.vocab_size, False, slower
        self._flat = sizes.flat or ms.get_context("device_target") == "GPU"
        layers, kernels = (FlatBuild, () if config.rms_norm else ("norm",)) if self._flat else (Build, ())
        with ms.nn.utils.no_init_parameters():  # all values come from `weights`
            network = modules.Logits(config, layers(seq_length=sizes.capacity, reset_at_eos=False, kernels=kernels))
        model = network.model
        self._cells = CompositeCells(model, weights, sizes, meeting, adapters)
        self._saved: dict[int, list[np.ndarray]] = {}
        self._hidden: Callable[[], np.ndarray] = lambda: np.zeros((0, config.hidden_size), np.float32)
        # separate graphs: drawing sorts the vocabulary, which greedy choices do not need
        kinds = [(draws, edits) for draws in (False, True) for edits in (False, True)]
        self._model, self._choices = model, {kind: CompositeChoice(*kind) for kind in kinds}
        if meeting is not None and meeting.share.rank:  # only the first device's choices are read
            self._choices = dict.fromkeys(kinds)
        self._build()

    def _build(self) -> None:
        self._passage, head = Passage(self._model), self._cells.head
        self._readings = {choice: OutputReader(head, choice) for choice in (None, *self._choices.values())}
        for cell in (self._passage, *self._readings.values()):
            cell.set_train(False)

    def choose(self, rows: Rows) -> np.ndarray:
        draws = ((rows.settings[:, 0] > 0) & (rows.settings[:, COLUMNS.index("given")] < 0)).any()
        edits = (rows.edits[:, :, 0] >= 0).any()
        return self._run(self._readings[self._choices[bool(draws), bool(edits)]], rows)

    def score(self, rows: Rows) -> np.ndarray:
        return self._run(self._readings[None], rows)

    def _run(self, reading: OutputReader, rows: Rows) -> np.ndarray:
        try:
            return self._prompt(reading, rows) if rows.rows.shape[2] > 1 else self._single_rows(reading, rows)
        except Exception:
            self._build()  # after an operator failed, MindSpore's graph rejects every later input
            raise

    def _prompt(self, reading: OutputReader, rows: Rows) -> np.ndarray:
        self._cells.use_adapters(rows.adapters)
        hidden = self._passage(Tensor(rows.rows)).asnumpy()
        self._hidden = lambda: hidden
        return self._read(reading, Tensor(hidden[rows.wanted]), rows)

    def _single_rows(self, reading: OutputReader, rows: Rows) -> np.ndarray:
        passed, places = self._arranged(rows.rows)
        count, wanted = passed.shape[1], places[rows.wanted]
        self._cells.use_adapters(rows.adapters[first_indices(places, count)])
        hidden = self._passage(Tensor(passed))
        self._hidden = lambda: hidden.asnumpy()[places]
        if reading.choice is not None:  # devices other than the first get no settings
            indices = first_indices(wanted, count)
            rows = replace(rows, settings=rows.settings[indices], edits=rows.edits[indices])
        return self._read(reading, hidden, rows)[wanted]

    @staticmethod
    def _read(reading: OutputReader, hidden: Tensor, rows: Rows) -> np.ndarray:
        given = (Tensor(array, ms.float32) for array in (rows.settings, rows.edits))
        return reading(hidden, *given, Tensor(rows.places)).asnumpy()

    def hidden(self, begin: int, end: int) -> np.ndarray:
        return self._hidden()[begin:end]

    def _arranged(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count, slots = rows.shape[1], self.sizes.slots
        if count * (MAX_SLOTS_PER_ROW if self._flat else 1) < slots:
            return rows, np.arange(count)
        used = rows[2, :, 0] < self.sizes.capacity
        places = np.where(used, rows[1, :, 0], 0)
        arranged = np.zeros((3, slots, 1), np.int32)
        arranged[1, :, 0], arranged[2] = range(slots), self.sizes.capacity
        arranged[:, places[used]] = rows[:, used]
        return arranged, places

    def copy(self, source: int, target: int, length: int) -> None:
        self._cells.copy(source, target, length)

    def cache_bytes(self, length: int) -> int:
        return self._cells.cache_bytes(length)

    def save(self, number: int, slot: int, length: int) -> None:
        self._saved[number] = self._cells.read(slot, length)

    def restore(self, number: int, slot: int, length: int) -> None:
        self._cells.write(slot, self._saved[number], length)

    def forget(self, number: int) -> None:
        del self._saved[number]


def first_indices(values: np.ndarray, count: int) -> np.ndarray:
    """Return, for each number below `count`, its first index in `values` or 0 if it is absent, int32 [count]."""
    found = np.zeros(count, np.int32)
    found[values[::-1]] = np.arange(len(values))[::-1]
    return found
