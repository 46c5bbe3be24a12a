"""Datasets opened, checked and hashed, from a run's configuration or a directory; knows all their kinds."""

from __future__ import annotations

import json
import re
import shlex
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.config.blend import LONGEST_PERIOD, parse_blend
from ms_codegeex.data.datasets.batches import ENDS_INSIDE, KIND, PackedSequences, Sequences, read_info, stream_seed
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.indexed import AGAIN, IndexedDataset, open_tokens
from ms_codegeex.data.datasets.layout import TABLES
from ms_codegeex.data.datasets.packing import FineTuningRows
from ms_codegeex.data.infilling.transform import Infilling, chosen
from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY, other_token, recorded_tokenizer

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.config.sections import DataConfig, InfillConfig

# A sequence that begins anywhere begins in the middle of a statement, a string or a table, and its tokens do not say in
# which. "Fewer Truncations Improve Language Modeling" (Ding et al., ICML 2024) found that this harms, among other
# things, the synthesis of programs. The sequences that repeat themselves most are left out: from tables, a small model
# learns to repeat itself. Rae et al. (2021, "Scaling Language Models", A.1.1) filter by repeated n-grams too.
#
# A line: at most one step of indentation, decorators of one line, and a keyword that begins functions in some language.
FUNCTION = re.compile(
    rb"\n(?P<indent>(?: {4}|\t)?)(?=[@a-z])(?:@[^\n]*\n(?P=indent))*"
    rb"(?:(?:export|default|async|pub(?:\([a-z]+\))?|private|public|static) +)*"
    rb"(?:def|fn|fun|func|function)\*? +(?:[\w$.:]+ *)?[(<\[]"
)
MIN_DISTANCE = 5 / 8  # between two beginnings, in sequences: neighbours may share the rest
SHARE_LEFT_OUT = 1 / 4  # the most repetitive sequences
NGRAM, _ROWS = 4, 1024  # tokens of an n-gram, and sequences in which they are counted at a time
_PIECE, _AROUND = 1 << 16, 64  # tokens that are read as text at a time, and those around them that complete lines
RATE = 500e6  # bytes a second: slow for a disk, and a third of what XXH3 took on two shared cores
WHOLE = int(10 * RATE)  # a dataset of at most this many bytes is hashed completely, at every start
SAMPLED_BLOCKS, BLOCK_BYTES = 64, 1 << 16  # in each file of a larger dataset
READ_BYTES = 8 << 20
CONTENT, SAMPLED = "xxh3:", "xxh3-samples:"  # how a hash begins
MIN_SHARE_WITH_FUNCTIONS = 1 / 2  # tokens in documents in which a sequence begins; below it, all are continuous


def open_sequences(
    directory: Path,
    split: str,
    seq_length: int,
    seed: int,
    *,
    reset_at_eos: bool = True,
    loss_after_eos: bool = False,
    infill: InfillConfig | None = None,
    functions_from: int | None = None,
) -> Sequences:
    """One split of a dataset directory, of the kind that its dataset.json names. `infill`: how texts are rearranged for
    infilling; without a rate, as in dataset.json; None: not at all. From sample `functions_from` on, sequences begin at
    functions if there are enough (`MIN_SHARE_WITH_FUNCTIONS`). `UserError` if the dataset is missing, damaged or too
    short, or if it does not go with these settings."""
    info = read_info(Path(directory))
    kind, infilling = info.get("kind"), _infilling(Path(directory), info, infill, seed)
    if kind is None:
        if functions_from is not None and infilling is not None and infilling.level == "document":
            moved = f"texts of {directory} are rearranged as whole documents, so that functions are elsewhere"
            raise UserError(f"data.functions_from: {moved}; leave it out")
        starts = None if functions_from is None else _function_starts(Path(directory), split, info, seq_length)
        begun = {"starts": starts, "starts_from": functions_from or 0}
        return PackedSequences(directory, split, seq_length, seed, infilling, loss_after_eos=loss_after_eos, **begun)
    examples = f"but {directory} holds examples of fine-tuning"
    ends_inside = info.get(ENDS_INSIDE) is True
    if reset_at_eos and ends_inside:
        examples += " whose turns end with the end token, after which the model must see the turns before"
        raise UserError(f"data.reset_at_eos: true, {examples}; set it to false")
    if not reset_at_eos and not ends_inside:
        examples += ", which share rows and must not see each other"
        raise UserError(f"data.reset_at_eos: false, {examples}; set it to true")
    if loss_after_eos:
        raise UserError(f"data.loss_after_eos: true, {examples}, whose mask says what counts; set it to false")
    return FineTuningRows(directory, split, seq_length, seed, infilling)


def _function_starts(directory: Path, split: str, info: Mapping[str, Any], seq_length: int) -> np.ndarray | None:
    """The tokens at which sequences with functions begin; None if the documents with any are less than half of the
    split, as other documents would not be read."""
    record, prefix = info.get("tokenizer"), directory / split
    if not isinstance(record, dict):
        return None
    tokenizer = recorded_tokenizer(record, directory / TOKENIZER_DIRECTORY, directory)
    starts = function_starts(open_tokens(prefix), list(tokenizer.pieces), info["eos_id"], seq_length)
    sizes = np.asarray(IndexedDataset(prefix).sizes, np.int64)
    documents = np.unique(np.searchsorted(np.cumsum(sizes), starts, side="right"))
    return starts if len(starts) and sizes[documents].sum() >= MIN_SHARE_WITH_FUNCTIONS * sizes.sum() else None


def function_starts(tokens: np.ndarray, pieces: Sequence[bytes], eos: int, seq_length: int) -> np.ndarray:
    """The tokens at which sequences of `seq_length` + 1 begin: int64 [sequences], in order. Each begins a line with a
    function or method, or is the next one within its indentation; the most repetitive sequences are left out. `tokens`:
    ids of the split, documents ended by `eos`. `pieces`: the bytes of each id. Reads millions of tokens a second."""
    texts = np.array([*pieces, *[b""] * max(1, eos + 2 - len(pieces))], object)  # the last one of all other ids
    texts[eos] = b"\n"  # the next document begins a line
    sizes = np.array([len(text) for text in texts])
    found = array("q")
    apart, last = max(1, int(MIN_DISTANCE * seq_length)), len(tokens) - seq_length - 1
    for first in range(0, len(tokens), _PIECE):
        begin, before = max(0, first - _AROUND), b"" if first else b"\n"
        ids = np.clip(tokens[begin : first + _PIECE + _AROUND], 0, len(texts) - 1)
        offsets = len(before) + np.concatenate(([0], np.cumsum(sizes[ids])))
        for match in FUNCTION.finditer(before + b"".join(texts[ids].tolist())):
            start = begin + (here := int(np.searchsorted(offsets, match.start("indent"))))
            whole = first <= start < first + _PIECE and offsets[here] <= match.end("indent")
            if whole and start <= last and (not found or start - found[-1] >= apart):
                found.append(start)
    starts = np.array(found, np.int64)
    shares = repeated_shares(tokens, starts, seq_length + 1)
    return starts[shares <= np.quantile(shares, 1 - SHARE_LEFT_OUT)] if found else starts


def repeated_shares(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """For each sequence of `length` tokens, the share of its n-grams, by their hashes, that occur in it before."""
    if length < NGRAM:
        return np.zeros(len(starts))
    shares = [np.zeros(0)]
    for first in range(0, len(starts), _ROWS):
        rows = tokens[starts[first : first + _ROWS, None] + np.arange(length)].astype(np.uint64)
        ngrams = np.lib.stride_tricks.sliding_window_view(rows, NGRAM, 1)
        hashes = np.zeros(ngrams.shape[:2], np.uint64)
        for place in range(NGRAM):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + ngrams[:, :, place]
        hashes.sort(1)
        shares.append((hashes[:, 1:] == hashes[:, :-1]).sum(1) / hashes.shape[1])
    return np.concatenate(shares)


def _infilling(directory: Path, info: Mapping[str, Any], config: InfillConfig | None, seed: int) -> Infilling | None:
    settings = chosen(config, info, f"{directory}/dataset.json")
    if settings is None:
        return None
    record = info.get("tokenizer")
    if not isinstance(record, dict):
        unknown = f"{directory} does not say which tokenizer made it, and texts are cut at characters"
        raise UserError(f"data.infill: {unknown}; {AGAIN}, or set data.infill.rate=0")
    return Infilling(settings, recorded_tokenizer(record, directory / TOKENIZER_DIRECTORY, directory), seed)


def absolute(data: DataConfig) -> DataConfig:
    """`data` with absolute paths; `UserError` if a directory to train on is not a dataset, or is named twice."""

    directories = data.directories
    spelled: dict[Path, str] = {}  # different spellings of a path name one corpus

    def checked(name: str, key: str) -> str:
        directory = Path(name).absolute()
        if not (directory / "dataset.json").is_file():
            other = ", or use --corpus PATH with data.train=null" if key == "data.train" else ""
            remedy = f"make one with `ms-codegeex prepare --input PATH --output DIR`{other}"
            if key == "data.validation" and directory.exists():
                remedy = f"make one with `{held_out_like(name, directories)}` and give --validation DIR"
            raise UserError(f"{key}: {directory} is not a dataset directory (no dataset.json); {remedy}")
        return spelled.setdefault(directory.resolve(), str(directory))

    def resolved(weights: Mapping[str, Any]) -> dict[str, Any]:
        result = {checked(name, "data.blend"): weight for name, weight in weights.items()}
        if len(result) < len(weights):
            raise UserError(f"data.blend: two of {', '.join(weights)} are the same directory; add up their weights")
        return result

    train, blend = data.train, data.blend
    if train is not None:
        train = checked(train, "data.train")
    elif isinstance(blend, Mapping):
        blend = resolved(blend)
    elif blend is not None:
        blend = [{**stage, "weights": resolved(stage["weights"])} for stage in blend]
    validation = data.validation and checked(data.validation, "data.validation")
    held_out = {name: str(Path(directory).absolute()) for name, directory in data.held_out.items()}
    return replace(data, train=train, blend=blend, validation=validation, held_out=held_out)


def held_out_like(name: str, directories: Sequence[str]) -> str:
    """The command that makes a dataset to evaluate on from the path `name`, as the first of these datasets was made."""
    words = ["ms-codegeex prepare --input", name, "--validation-share 0 --output DIR"]
    for directory in map(Path, directories[:1]):
        info, own = read_info(directory), directory / TOKENIZER_DIRECTORY
        settings, record = info.get("settings") or {}, info.get("tokenizer") or {}
        if own.is_dir() or record.get("name"):
            words.append(f"--tokenizer {own if own.is_dir() else record['name']}")
        if info.get("kind") == KIND:
            words.append(f"--task {info['task']} --seq-length {info['seq_length']}")
        if settings.get("tags", "codegeex") != "codegeex":
            words.append(f"--tags {shlex.quote(settings['tags'])}")
    return " ".join(words)


def reaches(config: RunConfig, step: int) -> bool:
    """Whether the run may continue after `step` steps; with `training.tokens`, that is not known before."""
    return config.training.tokens is not None or step < config.steps


def _opened(config: RunConfig, directory: str, split: str, seed: int, learnt: bool = False) -> Sequences:
    data = config.data
    settings: dict[str, Any] = {"reset_at_eos": data.reset_at_eos, "loss_after_eos": data.loss_after_eos}
    if learnt:
        first, settings["infill"] = data.functions_from, data.infill
        if first is not None and reaches(config, first):  # otherwise the corpus need not be read for it
            settings["functions_from"] = first * config.training.global_batch
    return open_sequences(Path(directory), split, config.seq_length, seed, **settings)


def training_data(config: RunConfig) -> Sequences | Blend:
    """The training data of a run; `UserError` if a dataset is missing or damaged, or two of them do not match."""
    data = config.data
    seeds = {name: stream_seed(config.seed, number) for number, name in enumerate(data.directories)}
    corpora = {name: _opened(config, name, "train", seed, learnt=True) for name, seed in seeds.items()}
    if data.blend is None:
        return corpora[str(data.train)]
    return Blend(parse_blend(data.blend), corpora, config.training.global_batch)


def lacks_validation(config: RunConfig) -> str:
    """The dataset that a run is evaluated on, if none is named and its validation split is empty, as with `prepare
    --validation-share 0`; otherwise an empty text."""
    directory = _last_corpus(config)
    return directory if config.data.validation is None and evaluated_split(directory) == "train" else ""


def evaluated_split(directory: str | Path) -> str:
    """The split of a dataset that is evaluated on: `validation`, or `train` if that is empty."""
    splits = read_info(Path(directory)).get("splits")
    validation = splits.get("validation") if isinstance(splits, dict) else None
    return "train" if isinstance(validation, dict) and validation.get("documents") == 0 else "validation"


def _last_corpus(config: RunConfig) -> str:
    data = config.data
    return str(parse_blend(data.blend)[-1].corpora[0] if data.blend is not None else data.train)


def validation_data(config: RunConfig) -> Sequences:
    """The evaluation data of a run: `data.validation`, or else the validation split of `data.train` or, for a blend, of
    the first corpus of the last stage; if that is empty (`lacks_validation`), its training split."""
    if config.data.validation:
        return _named(config, config.data.validation, "data.validation")
    directory = _last_corpus(config)
    return _opened(config, directory, evaluated_split(directory), config.seed)


def held_out_data(config: RunConfig) -> dict[str, Sequences]:
    """The validation splits of `data.held_out` by name; `UserError` naming the key if one is missing or damaged."""
    return {name: _named(config, place, f"data.held_out.{name}") for name, place in config.data.held_out.items()}


def _named(config: RunConfig, directory: str, key: str) -> Sequences:
    with located(key):
        return _opened(config, directory, evaluated_split(directory), config.seed)


def check_meanings(evaluated: Mapping[str, Sequences], trained: Path) -> None:
    """`UserError` for a dataset, by its configuration key, whose ids have other meanings than those of the dataset
    `trained`. One tokenizer may have more tokens than the other; datasets that record no tokenizer are not compared."""
    record = read_info(trained).get("tokenizer")
    for key, data in evaluated.items():
        theirs = data.info.get("tokenizer")
        if not record or not theirs or record.get("fingerprint") == theirs.get("fingerprint"):
            continue
        theirs = recorded_tokenizer(data.info["tokenizer"], data.directory / TOKENIZER_DIRECTORY, data.directory)
        odd = other_token(recorded_tokenizer(record, trained / TOKENIZER_DIRECTORY, trained), theirs)
        if odd is not None:
            differs = f"token {odd} of {data.directory} is another one in {trained}"
            raise UserError(f"{key}: {differs}; prepare both with the same tokenizer")


def rounded_weights(data: DataConfig) -> str | None:
    """A note for the user if weights of a blend had to be rounded."""
    rounded = [stage for stage in parse_blend(data.blend) if stage.rounded] if data.blend is not None else []
    if not rounded:
        return None
    steps = ", ".join(str(stage.from_step) for stage in rounded)
    return f"data.blend: the weights from step {steps} on are rounded to multiples of one in {LONGEST_PERIOD:,}"


def note_on_functions(config: RunConfig, training: Sequences | Blend) -> str | None:
    """For the user: what `data.functions_from` means for the corpus; None if the run does not reach that step."""
    first = config.data.functions_from
    if first is None or not reaches(config, first):
        return None
    if not isinstance(training, PackedSequences):
        result = "has examples of fine-tuning, which begin where they do"
    elif training.starts is None:
        result = "is read continuously: half of it has no functions, or it does not say which tokenizer made it"
    else:
        length = training.seq_length
        tokens = np.minimum(np.diff(training.starts), length).sum() + length  # counts a token of several sequences once
        share = f"{tokens / len(training.tokens):.0%}"
        result = f"is read in sequences that begin at functions after {first:,} steps; these hold {share} of its tokens"
    return f"data.functions_from: {training.directory} {result}"


def content_hashes(data: DataConfig) -> dict[str, str]:
    return {name: content_hash(Path(name)) for name in data.directories}


def content_hash(directory: Path) -> str:
    """Hash of a dataset's training split, which may have been replaced: `xxh3:…` of every byte, or of a split with more
    than `WHOLE` bytes `xxh3-samples:…` of the files' sizes and times, the hashes in dataset.json, and `SAMPLED_BLOCKS`
    blocks of each file, so that not every change is seen. `UserError` if it cannot be read."""
    info, digest = read_info(directory), xxhash.xxh3_128()
    if "infill" in info:
        digest.update(f"{json.dumps(info['infill'], sort_keys=True)}\n".encode())
    files = _train_files(directory, info)
    try:
        sizes = {path: path.stat().st_size for path in files}
        whole = sum(sizes.values()) <= WHOLE
        for path, recorded in files.items():
            digest.update(f"{path.name} {sizes[path]}\n".encode())
            if not whole:
                digest.update(f"{path.stat().st_mtime_ns} {recorded}\n".encode())
            for part in _blocks(path, sizes[path], whole):
                digest.update(part)
    except OSError as error:
        what = f"not readable ({error.strerror})"
        raise UserError(f"{error.filename or directory}: {what}; {AGAIN}") from None
    return f"{CONTENT if whole else SAMPLED}{digest.hexdigest()}"


def _train_files(directory: Path, info: Mapping[str, Any]) -> dict[Path, str | None]:
    recorded = info.get("files")
    entries = recorded if isinstance(recorded, dict) else {}
    names = {name for name in entries if name.startswith("train.")} | {"train.bin", "train.idx"}
    files = {name: entries.get(name) for name in sorted(names - set(TABLES))}
    return {directory / name: entry.get("sha256") if isinstance(entry, dict) else None for name, entry in files.items()}


def _blocks(path: Path, size: int, whole: bool) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        if whole:
            yield from iter(lambda: stream.read(READ_BYTES), b"")
            return
        for number in range(SAMPLED_BLOCKS):
            stream.seek(max(0, size - BLOCK_BYTES) * number // (SAMPLED_BLOCKS - 1))
            yield stream.read(BLOCK_BYTES)
