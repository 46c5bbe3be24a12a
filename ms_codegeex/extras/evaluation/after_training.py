"""The end of a run: bits per byte of the validation text, compared with simpler models, and continued Python samples.

A byte of text is the same in every tokenizer, unlike a token. Nats and bytes are summed over the
validation tokens that the loss counts. The first token of a row is context, as in training, so neither its nats nor its
bytes count. Tokens that end a document, and marks of infilling, have nats but no bytes. `gzip` compresses the whole
split in its order: in single rows it would find less repetition.
"""

from __future__ import annotations

import ast
import gzip
import itertools
import math
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ms_codegeex.base.host import available_cores
from ms_codegeex.data.datasets.batches import Batch, Sequences
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.languages import tag_text
from ms_codegeex.data.tokenizer import Tokenizer
from ms_codegeex.extras.evaluation.perplexity.ngram import KneserNey
from ms_codegeex.extras.evaluation.replies.python import PythonReader
from ms_codegeex.generation.blocks import block
from ms_codegeex.generation.sampling import Answer, SamplingSettings

if TYPE_CHECKING:
    from ms_codegeex.generation.engine import Generator  # imports MindSpore

NGRAM_ORDER = 5
MAX_TOKENS = 1 << 23  # simpler models learn from this many, the first ones; takes 5 CPU seconds and 0.7 GB
# The penalty was chosen on validation text (benchmarks/RESULTS.md, "The first command").
TEMPERATURE, MIN_P, PRESENCE_PENALTY = 0.5, 0.1, 0.6
MEANS = f"temperature {TEMPERATURE}, min-p {MIN_P}, presence penalty {PRESENCE_PENALTY}"
DRAWN = 6  # answers for each measured function, of which one is its sample
SAMPLES, SHOWN = 20, 3  # the share of samples that parse is measured; the first ones are shown
MAX_DOCUMENTS, MAX_DOCUMENT_TOKENS = 300, 50_000  # held-out documents that are searched for functions
MAX_CONTEXT = 512  # tokens of a prompt with its continuation
MEASURED_TOKENS, SHOWN_TOKENS = 256, 96  # largest number in a sample
SORTED_VOCABULARY = 8192  # MindSpore's own operators sort the vocabulary for each token; a larger one takes minutes
_DECODED_IDS = 1 << 18  # number of ids decoded at a time


@dataclass(frozen=True)
class BitsPerByte:
    """Bits per byte of `text_bytes` bytes of validation text; for `gzip`, of the whole split. `model` is None without a
    loss; `ngram` and `byte_frequency` learn from `tokens` ids, each sequence once, and are None without any."""

    model: float | None
    ngram: float | None
    byte_frequency: float | None
    gzip: float
    tokens: int
    text_bytes: int


def bits_per_byte(
    loss: float | None, validation: Batch, split: np.ndarray, seen: np.ndarray, tokenizer: Tokenizer, vocabulary: int
) -> BitsPerByte | None:
    """Return the figures for `validation`, on which the model has this `loss` in nats per token; None without any text.
    `split`: the ids of the split; `gzip` compresses at most `MAX_TOKENS` of them. `seen`: int32 [rows, tokens], the
    training data (`seen_rows`). `vocabulary`: number of ids that the n-gram considers possible, unless more occur."""
    counted = validation.loss_mask > 0
    rows = np.concatenate([validation.inputs, validation.labels[:, -1:]], 1)
    pieces = [*tokenizer.pieces]
    pieces[tokenizer.eos_id] = b""
    text, whole = (_text(ids, pieces) for ids in (validation.labels[counted], split[:MAX_TOKENS]))
    if not text or not whole:
        return None

    def bits(nats: float) -> float:
        return nats / math.log(2) / len(text)

    ngram = frequencies = None
    if seen.size:
        vocabulary = max(vocabulary, int(seen.max()) + 1, int(rows.max()) + 1)
        ngram = bits(-float(KneserNey(seen, NGRAM_ORDER, vocabulary).log_probabilities(rows)[counted].sum()))
        frequencies = bits(_byte_frequency_nats(np.frombuffer(text, np.uint8), seen, pieces))
    model = None if loss is None else bits(loss * int(counted.sum()))
    packed = 8 * len(gzip.compress(whole, 9)) / len(whole)
    return BitsPerByte(model, ngram, frequencies, packed, seen.size, len(text))


def _text(ids: np.ndarray, pieces: Sequence[bytes]) -> bytes:
    """Return the bytes of ids [n]. Ids beyond the tokenizer's have none."""
    parts = (ids[start : start + _DECODED_IDS].tolist() for start in range(0, len(ids), _DECODED_IDS))
    return b"".join(b"".join(pieces[number] for number in part if number < len(pieces)) for part in parts)


def _byte_frequency_nats(text: np.ndarray, seen: np.ndarray, pieces: Sequence[bytes]) -> float:
    """Return the nats of `text` (uint8) under the byte frequencies of the seen text, with one added to each count."""
    times = np.bincount(seen.reshape(-1), minlength=len(pieces))[: len(pieces)]
    owners = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    every = np.frombuffer(b"".join(pieces), np.uint8)
    counts = np.bincount(every, weights=times[owners], minlength=256) + 1
    return float(-np.log(counts / counts.sum())[text].sum())


def seen_rows(
    data: Sequences | Blend, samples: int, global_batch: int, left_out: Collection[int] = (), most: int = MAX_TOKENS
) -> np.ndarray:
    """Return the distinct sequences among the first `samples` samples of a run, int32 [rows, seq_length + 1], up to
    `most` tokens. `left_out`: the first sample of each batch that was not trained on."""
    corpora = data.corpora if isinstance(data, Blend) else [data]
    width = corpora[0].seq_length + 1
    numbers = np.arange(min(samples, max(1, most // width)))
    owners, times = data.locate(numbers) if isinstance(data, Blend) else (np.zeros_like(numbers), numbers)
    new = np.zeros(len(numbers), bool)
    for owner, corpus in enumerate(corpora):
        new[owners == owner] = corpus.first_time(times[owners == owner])
    new &= ~np.isin(numbers // global_batch * global_batch, list(left_out))
    parts = [np.zeros((0, width), np.int32)]
    for first in range(0, len(numbers), 1024):
        here = new[first : first + 1024]
        if here.any():
            batch = data.training_batch(first, len(here))
            parts.append(np.concatenate([batch.inputs, batch.labels[:, -1:]], 1)[here])
    return np.concatenate(parts)


@dataclass(frozen=True)
class Beginning:
    """Python to continue: `text`, and the statements `before` it in its file, each with the lines above it."""

    text: str
    before: Sequence[str] = ()


def held_out_functions(prefix: Path, tokenizer: Tokenizer, longest: int, seed: int) -> list[Beginning]:
    """Return signatures and docstrings of functions in held-out Python, in the form of HumanEval's prompts: at most
    `SAMPLES`, each from another document. `prefix`: that of the split's files. Not all datasets record languages, so a
    document is Python if it parses and has a function. Functions are skipped if signature and docstring have more than
    `longest` tokens, or the body more than twice as many, because a sample would not reach their end."""
    documents, generator, found = IndexedDataset(prefix), np.random.default_rng(seed), list[Beginning]()
    for number in generator.choice(len(documents), min(len(documents), MAX_DOCUMENTS), replace=False).tolist():
        ids = documents.document(number)
        if len(ids) > MAX_DOCUMENT_TOKENS or int(ids.max()) >= tokenizer.vocab_size:
            continue
        texts = tokenizer.file_texts([number for number in ids.tolist() if number != tokenizer.eos_id])
        for begun, body in (function for text in texts for function in _functions(text)):
            sizes = [len(tokenizer.encode_prompt(text)) for text in (begun.text, body)]
            if sizes[0] <= longest and sizes[1] <= 2 * longest:
                found.append(begun)
                break
        if len(found) == SAMPLES:
            break
    return found


def _functions(text: str) -> list[tuple[Beginning, str]]:
    tree, tag = PythonReader().parsed(text), tag_text("Python") + "\n"
    lines, found = text.splitlines(keepends=True), []
    ends = [0, *(each.end_lineno for each in tree.body)] if tree else []
    for number, each in enumerate(tree.body if tree else ()):
        if isinstance(each, ast.FunctionDef) and ast.get_docstring(each) is not None and len(each.body) > 1:
            last = each.body[1].lineno - 1
            begun, body = "".join(lines[each.lineno - 1 : last]), "".join(lines[last : each.end_lineno])
            if begun.startswith("def ") and PythonReader().parsed(begun):
                edges = itertools.pairwise([*ends[: number + 1], each.lineno - 1])
                before = ["".join(lines[start:stop]).removeprefix(tag) for start, stop in edges]
                found.append((Beginning(begun, tuple(filter(None, before))), body))
    return found


def continued(generator: Generator, prompts: Sequence[Beginning], limit: int, drawn: int, seed: int) -> list[str]:
    """Continue each text to the end of its block, by at most `limit` tokens. Of `drawn` answers, the likeliest that
    ends is taken, or the likeliest of all if none ends. All are computed at once. The model sees a tag line, the
    statements that precede the text, and the text. If that takes more than half of its context, the first statements
    are left out, then the text's first tokens."""
    tag, room = tag_text("Python"), generator.seq_length - generator.seq_length // 2

    def text(number: int, prompt: Beginning) -> str:
        kept = prompt.text
        for statement in reversed(prompt.before):
            if len(generator.tokenizer.encode_prompt(f"{tag}\n{statement}{kept}")) > generator.seq_length - room:
                break
            kept = statement + kept
        ids = generator.encode(f"{tag}\n{kept}", truncate_for=room)
        means = {"temperature": TEMPERATURE, "min_p": MIN_P, "presence_penalty": PRESENCE_PENALTY}
        settings = SamplingSettings(limit, **means, n=drawn, seed=seed + number * drawn)
        answers = generator.answers(ids, settings, block("Python", prompt.text))
        return prompt.text + max(answers, key=_merit).text

    # otherwise a pass would be compiled for each number of unfinished answers
    generator.engine.least = min(len(prompts), generator.slots)
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(text, range(len(prompts)), prompts))


def _merit(answer: Answer) -> tuple[bool, float]:
    """Whether the answer is a body that ends, and its log-probability."""
    return answer.finish != "length" and answer.text.strip() != "", sum(token.score for token in answer.tokens)


def parses(text: str, prompt: str) -> bool:
    """Return whether a sample parses and is longer than its prompt. If the token limit has cut it within a line, the
    last statement of the body, found by its indentation, is left out first."""
    lines, first = text.splitlines(keepends=True), len(prompt.splitlines())
    if not text.endswith("\n"):
        depths = {i: len(lines[i]) - len(lines[i].lstrip()) for i in range(first, len(lines)) if lines[i].strip()}
        del lines[max((i for i, depth in depths.items() if depth <= min(depths.values())), default=first) :]
    text = "".join(lines)
    return bool(text[len(prompt) :].strip()) and PythonReader().parsed(text) is not None


@dataclass(frozen=True)
class PythonSamples:
    """The samples to show, pairs of prompt and continuation, and the share that parses of `measured` functions; None
    without any. `means`: how they were sampled, in words."""

    shown: list[tuple[str, str]]
    parse_share: float | None
    measured: int
    means: str


def python_samples(model: Path, fixed: Sequence[str], prefix: Path | None, seed: int) -> PythonSamples:
    """Continue functions from the held-out split whose files have this `prefix`; the first `SHOWN` are shown. Continue
    the `fixed` prompts if `prefix` is None, the split has no functions, or continuing many would take long."""
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.loading import load_model
    from ms_codegeex.generation.targets import compiled_library

    loaded, begun = load_model(model), list[Beginning]()
    context = min(MAX_CONTEXT, loaded.config.max_position_embeddings)
    quick = loaded.config.vocab_size <= SORTED_VOCABULARY or compiled_library(available_cores())[0] is not None
    if prefix is not None and quick:
        begun = held_out_functions(prefix, loaded.tokenizer, context // 4, seed)
    wanted = [begun[number % len(begun)] for number in range(SAMPLES)] if begun else []
    prompts = wanted or [*map(Beginning, fixed)]
    limit, drawn = (MEASURED_TOKENS, DRAWN) if wanted else (SHOWN_TOKENS, 1)
    texts = continued(Generator(loaded, context, slots=len(wanted) or 1), prompts, limit, drawn, seed)
    pairs = [(prompt.text, text.removeprefix(prompt.text)) for prompt, text in zip(prompts, texts, strict=True)]
    if not wanted:
        return PythonSamples(pairs, None, 0, MEANS)
    share = sum(map(parses, texts, [each.text for each in wanted])) / len(wanted)
    means = f"the likeliest of {DRAWN} answers that end, {MEANS}"
    return PythonSamples(pairs[: min(SHOWN, len(begun))], share, len(wanted), means)
