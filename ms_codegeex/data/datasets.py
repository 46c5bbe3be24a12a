"""From a run's configuration, or a directory, to what is read in training: the one place that knows the kinds."""

from __future__ import annotations

from pathlib import Path

from ms_codegeex.data.batches import PackedSequences, Sequences, read_info
from ms_codegeex.data.packing import KIND, FineTuningRows
from ms_codegeex.errors import UserError


def open_sequences(directory: Path, split: str, seq_length: int, seed: int, *, reset_at_eos: bool = True) -> Sequences:
    """One split of a dataset directory, as its dataset.json asks for.

    Raises:
        UserError: the dataset is missing, damaged, too short, of examples longer than `seq_length`, or of examples that
            would see each other because `reset_at_eos` is false.
    """
    kind = read_info(Path(directory)).get("kind")
    if kind is None:
        return PackedSequences(directory, split, seq_length, seed)
    if kind != KIND:
        raise UserError(
            f'{directory}/dataset.json: kind "{kind}", known is "{KIND}"; the dataset is of a newer version or '
            "damaged, prepare it again"
        )
    if not reset_at_eos:
        raise UserError(
            f"data.reset_at_eos: false, but {directory} holds examples of fine-tuning, which share rows and must not "
            "see each other; set it to true"
        )
    return FineTuningRows(directory, split, seq_length, seed)
