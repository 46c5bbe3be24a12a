"""A family's network as the engine runs it: passes of rows, with the compiled operators or MindSpore's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.generation.choice import COLUMNS
from ms_codegeex.generation.kernels.library import Library
from ms_codegeex.generation.loading import Adapter
from ms_codegeex.generation.matrices import Weights
from ms_codegeex.generation.rows import Rows, SlotSizes
from ms_codegeex.generation.shares import Meeting, SharedWeights
from ms_codegeex.kernels.compiling import find_library
from ms_codegeex.kernels.levels import AUTO
from ms_codegeex.models.causal import Build


class Network(Protocol):
    """The interface of a network to the engine. `slower`: why it does without the compiled operators; or empty."""

    sizes: SlotSizes
    vocab_size: int
    compiled: bool
    slower: str

    def choose(self, rows: Rows) -> np.ndarray:
        """Choose the tokens after the wanted rows: [n, 1 + k, 2], as `choice.unpack` reads them."""

    def score(self, rows: Rows) -> np.ndarray:
        """Compute the logits of the wanted rows, FP32 [n, V]."""

    def hidden(self, begin: int, end: int) -> np.ndarray:
        """The last hidden states of rows `begin` to `end` of the last pass, which give their logits, FP32 [n, H]."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the keys and values of a slot's first `length` positions to another slot."""

    def cache_bytes(self, length: int) -> int:
        """The size of the keys and values of `length` positions, as `save` keeps them."""

    def save(self, number: int, slot: int, length: int) -> None:
        """Keep a copy of the keys and values of a slot's first `length` positions in host memory."""

    def restore(self, number: int, slot: int, length: int) -> None:
        """Write the first `length` positions of what was saved by this number to a slot."""

    def forget(self, number: int) -> None:
        """Free what was saved by this number."""


class Passage(nn.Cell):
    """Rows through a model's blocks. Each number of rows has a graph, which serves every way to read the result."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, rows: Tensor) -> Tensor:
        """int32 [3, s, c] -> hidden states FP32 [s*c, H]"""
        return self.model(rows, rows)


class Reading(nn.Cell):
    """Hidden states to logits, or to the tokens that follow. Its graphs are small, whatever the number of layers: each
    number of rows, of edits and of likeliest tokens has one."""

    def __init__(self, head: nn.Cell, choice: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.head, self.choice = head, choice

    def construct(self, hidden: Tensor, settings: Tensor, edits: Tensor, places: Tensor) -> Tensor:
        """FP32 [n, H] and the tensors of `Rows` -> [n, 1 + k, 2]; without a choice, logits [n, V]"""
        logits = self.head(hidden)
        return logits if self.choice is None else self.choice(logits, settings, edits, places)


class LocalNetwork:
    """A network in this process: a complete model or one device's share of it. `modules` is the family's `model.py`;
    rows give the number of one of `adapters`, starting from 1."""

    def __init__(
        self,
        modules: Any,
        config: Any,
        weights: Weights,
        sizes: SlotSizes,
        meeting: Meeting | None = None,
        adapters: Sequence[Adapter] = (),
    ):
        self.sizes, self.vocab_size = sizes, config.vocab_size
        with ms.nn.utils.no_init_parameters():  # every weight is given by `weights`
            network = modules.Logits(config, Build(seq_length=sizes.capacity, reset_at_eos=False))
        model, (library, self.slower) = network.model, compiled_library(sizes.threads, sizes.cpu_level)
        self.compiled = library is not None
        _check(weights, self.compiled, sizes)
        if meeting is not None:
            weights = SharedWeights(weights, meeting.share)
            adapters = [adapter.part(weights) for adapter in adapters]
        if library is not None:
            from ms_codegeex.generation.kernels.cells import KernelCells, KernelChoice

            cells, choice = KernelCells(library, model, weights, sizes, meeting, adapters), KernelChoice(library)
        else:
            from ms_codegeex.generation.composite import CompositeCells, CompositeChoice

            cells, choice = CompositeCells(model, weights, sizes, meeting, adapters), CompositeChoice(draws=True)
        self._cells = cells
        self._saved: dict[int, list[np.ndarray]] = {}
        self._hidden = np.zeros((0, config.hidden_size), np.float32)
        self._numbers = ms.float64 if self.compiled else ms.float32
        self._model, self._choices = model, (choice, choice)
        if meeting is not None and meeting.share.rank:  # only the first device's choices are read
            self._choices = None, None
        elif not self.compiled:  # drawing sorts the vocabulary, which greedy choices do not need
            self._choices = CompositeChoice(draws=False), choice
        self._build()

    def _build(self) -> None:
        """Make the cells of which MindSpore compiles graphs."""
        self._passage, head = Passage(self._model), self._cells.head
        self._readings = {choice: Reading(head, choice) for choice in (None, *self._choices)}
        for cell in (self._passage, *self._readings.values()):
            cell.set_train(False)

    def choose(self, rows: Rows) -> np.ndarray:
        """As in `Network`."""
        draws = ((rows.settings[:, 0] > 0) & (rows.settings[:, COLUMNS.index("given")] < 0)).any()
        return self._run(self._readings[self._choices[int(draws)]], rows)

    def score(self, rows: Rows) -> np.ndarray:
        """As in `Network`."""
        return self._run(self._readings[None], rows)

    def _run(self, reading: nn.Cell, rows: Rows) -> np.ndarray:
        self._cells.use_adapters(rows.adapters)
        try:
            self._hidden = self._passage(Tensor(rows.rows)).asnumpy()
            numbers = (Tensor(array, self._numbers) for array in (rows.settings, rows.edits))
            return reading(Tensor(self._hidden[rows.wanted]), *numbers, Tensor(rows.places)).asnumpy()
        except Exception:
            self._build()  # a graph in which an operator failed refuses every later input
            raise

    def hidden(self, begin: int, end: int) -> np.ndarray:
        """As in `Network`."""
        return self._hidden[begin:end]

    def copy(self, source: int, target: int, length: int) -> None:
        """As in `Network`."""
        self._cells.copy(source, target, length)

    def cache_bytes(self, length: int) -> int:
        """As in `Network`."""
        return self._cells.cache_bytes(length)

    def save(self, number: int, slot: int, length: int) -> None:
        """As in `Network`."""
        self._saved[number] = self._cells.read(slot, length)

    def restore(self, number: int, slot: int, length: int) -> None:
        """As in `Network`."""
        self._cells.write(slot, self._saved[number], length)

    def forget(self, number: int) -> None:
        """As in `Network`."""
        del self._saved[number]


def _check(weights: Weights, compiled: bool, sizes: SlotSizes) -> None:
    if sizes.cache_bits not in (32, 16):
        raise UserError(f"cache bits: {sizes.cache_bits}; choose 32 or 16")
    if sizes.activation_bits == 8 and weights.bits not in (8, 4):
        raise UserError("--fast: the model has no 8-bit or 4-bit weights; give one made by 'ms-codegeex quantize'")
    if not compiled and sizes.activation_bits == 8:
        raise UserError("--fast: needs the operators that a C++ compiler makes for CPUs; install g++ or 'ziglang'")


def warn_if_slower(network: Network) -> None:
    """One line on standard error for a network without the operators that it should have."""
    if network.slower:
        print_error(f"warning: MindSpore's own operators decode, which takes several times as long: {network.slower}")


def compiled_library(threads: int, level: str = AUTO) -> tuple[Library | None, str]:
    """The compiled operators; or None, with the reason if they were asked for and cannot be had. `UserError` if a
    `level` is given nevertheless."""
    if threads < 1 or ms.get_context("device_target") != "CPU":
        library, reason, said = None, "", "--threads 0, or a device that is not a CPU"
    else:
        path, reason = find_library(level)
        try:
            library = None if path is None else Library(path, threads)
        except OSError as error:  # such as a cache on a noexec mount, or a library from another machine
            library, reason = None, str(error)
        said = reason
    if library is None and level != AUTO:
        raise UserError(f"--cpu-level: {level}, but MindSpore's own operators compute ({said}); leave it out")
    return library, reason
