"""Make a dataset directory of fine-tuning examples: rows of prompt, answer and end token, with a mask for the loss.

Next to `{split}.bin/.idx`, `{split}.mask` has one byte, uint8, per token of the `.bin`: 1 for the answer's tokens and
its end token, 0 for the prompt. No row is longer than `seq_length`.

Prompt and answer are tokenised separately, because the model's prompts are tokenised alone too. If they were tokenised
together, ids could span the border, which never occurs when the model answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.config.sections import InfillConfig
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.datasets.batches import ENDS_INSIDE, KIND
from ms_codegeex.data.datasets.layout import check_output, file_records
from ms_codegeex.data.description import Chat, bound, chat_json, chat_of, read_description
from ms_codegeex.data.infilling.transform import infill_record
from ms_codegeex.data.jinja_templates import chatml
from ms_codegeex.data.languages import check_scheme
from ms_codegeex.data.tokenizer import TOKENIZER_NAMES, Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder, text_decoder
from ms_codegeex.extras.corpus.events import Event
from ms_codegeex.extras.corpus.finetuning.examples import BadRecord, Example, reader
from ms_codegeex.extras.corpus.layouts import table
from ms_codegeex.extras.corpus.reading import SPECIAL, Unit, rejected, units_of
from ms_codegeex.extras.corpus.settings import ON_ERROR, check_choices, check_share, set_validation
from ms_codegeex.extras.corpus.sources import Root, described_roots, search, user_roots
from ms_codegeex.extras.corpus.tally import Tally
from ms_codegeex.extras.corpus.workers import ProgressBar
from ms_codegeex.extras.corpus.writing import DatasetWriter, write_description, write_report
from ms_codegeex.extras.shared.records import ENDINGS, BadInput, ReturnKeeper, read_records
from ms_codegeex.extras.shared.remote import RemotePath

TASKS = ("completion", "chat", "translation")
MAX_LINE_BYTES = 64 << 20  # longer lines are not held in memory
_MAX_PROMPTS = 64 << 20  # bytes of all prompts of a record, each of which contains the previous one
_EXCERPT = 200  # characters
REPEATED = "is in --validation too"
# In other projects' tokenizers these are single tokens. Here, those in a text are never special.
_SPECIAL = re.compile(
    r"<[|\uff5c][\w ./-]{1,40}[|\uff5c]>|</?s>|<(?:pad|unk|bos|eos|eod|sop|eop|EOT|fim[_-]\w+|(?:start|end)_of_turn)>"
    r"|\[(?:/?INST|[gs]?MASK)\]|<</?SYS>>"
)

Places = Sequence[Path | str]
Row = tuple[np.ndarray, np.ndarray, bool]
"""Ids of prompt, answer and end, int64 `[size]`, their mask, uint8 `[size]`, and whether the prompt was truncated."""


@dataclass(frozen=True)
class FinetuneSettings:
    """The settings that decide the content of a fine-tuning dataset, apart from its input. `seed`, `tags`, `on_error`
    and `infill` are those of `PrepareSettings`; `tokenizer` is a name or a directory. A row has at most `seq_length`
    tokens. A longer example is dropped (`overlong="drop"`), or the start of its prompt is cut off, never the answer. A
    hash of the texts chooses `validation_share` of the examples, unless `validation` names files for validation;
    training examples that repeat those are dropped. `template`, for conversations, is a name in
    `conversations.TEMPLATES` or `auto`: the model's own format `chat`, in JSON as in its description, else the format
    in the tokenizer's directory, else that of its family."""

    task: str
    seq_length: int
    tokenizer: str = "codegeex"
    overlong: str = "truncate"
    validation_share: float = 0.05
    seed: int = 0
    template: str = "auto"
    tags: str = "codegeex"
    on_error: str = "skip"
    infill: InfillConfig | None = None
    chat: Any = None
    validation: tuple[Path | str, ...] = ()

    def __post_init__(self) -> None:
        set_validation(self)
        check_scheme(self.tags)
        check_choices(self, task=TASKS, template=("auto", *TEMPLATES), on_error=ON_ERROR, overlong=("truncate", "drop"))
        check_share(self.validation_share)
        if self.tokenizer not in TOKENIZER_NAMES and Path(self.tokenizer).is_dir():
            object.__setattr__(self, "tokenizer", str(Path(self.tokenizer).expanduser().resolve()))
        if self.seq_length < 2:
            raise UserError(f"seq_length {self.seq_length}: expected 2 tokens or more, for example 2048")
        if self.infill is not None and self.task != "completion":
            raise UserError("infill: only completions and corpora have a middle; leave out --infill-rate")

    def record(self) -> dict[str, Any]:
        optional = ("infill", "chat", "validation")
        return {name: value for name, value in asdict(self).items() if value or name not in optional}

    def format(self, tokenizer: Tokenizer) -> Chat:
        """Return the format of conversations that `template` chooses."""
        if self.template != "auto":
            return TEMPLATES[self.template]
        if self.chat is not None:
            return chat_of(self.chat)
        own = None if self.tokenizer in TOKENIZER_NAMES else read_description(Path(self.tokenizer)).chat
        usual = chatml() if tokenizer.name == "qwen2" else TEMPLATES.get(tokenizer.name, TEMPLATES["plain"])
        return own or usual


class RowEncoder:
    """Encodes examples as rows of ids, with one tokenizer and one maximum length."""

    def __init__(self, settings: FinetuneSettings, tokenizer: Tokenizer | None = None) -> None:
        self.tokenizer = tokenizer or load_tokenizer(settings.tokenizer)
        self.seq_length, self.truncate = settings.seq_length, settings.overlong == "truncate"
        self._fast = CorpusEncoder(self.tokenizer)
        self.ends_inside = False  # whether a prompt had the end token, which ends turns in some templates

    def answer_ids(self, answer: str) -> list[int]:
        return self._fast.encode_inside(answer.encode()).tolist()

    def learnt_ids(self, example: Example) -> list[int]:
        ids = [*self.answer_ids(example.answer), *(self.tokenizer.encode_marks(example.end) if example.end else ())]
        return ids if ids[-1:] == [self.tokenizer.eos_id] else [*ids, self.tokenizer.eos_id]

    def rows(self, examples: Sequence[Example]) -> Iterator[Row | str]:
        """Yield the row of each of a record's examples, or the reason to drop it. Each prompt begins with the previous
        one, unless a model's own template wrote it, so the ids up to the last place where the text may be divided are
        reused. Without such a place, prompts are encoded as a whole until they have `_MAX_PROMPTS` bytes."""
        settled, encoded, ids = 0, 0, list[int]()
        for example in examples:
            if not settled and encoded > _MAX_PROMPTS:
                yield "conversation too long to encode as a whole"
                continue
            encoded += example.size
            if example.marked:
                prompt = self.tokenizer.encode_prompt(example.text[: example.size].decode())
                self.ends_inside |= self.tokenizer.eos_id in prompt
            else:
                place = self._fast.last_break(example.text, settled, example.size)
                ids = [*ids, *self._ids(example.text, settled, place)][-self.seq_length :]
                settled = place
                prompt = [*self.tokenizer.prefix, *ids, *self._ids(example.text, settled, example.size)]
            answer = self.learnt_ids(example)
            room, minimum = self.seq_length - len(answer), len(self.tokenizer.prefix) + 1
            truncated = len(prompt) > room
            if truncated and (not self.truncate or room < minimum):
                yield "answer longer than seq_length" if self.truncate else "longer than seq_length"
                continue
            kept = self.tokenizer.truncate_prompt(prompt, room)
            mask = np.repeat(np.array([0, 1], np.uint8), [len(kept), len(answer)])
            yield np.array([*kept, *answer]), mask, truncated

    def _ids(self, text: bytes, start: int, end: int) -> list[int]:
        encode = self._fast.encode_inside if start else self._fast.encode
        return encode(text[start:end])[-self.seq_length :].tolist()


def _special(examples: Sequence[Example]) -> Iterator[tuple[str, str]]:
    own = "" if examples[-1].marked else examples[-1].text.decode()  # names that a template wrote are intended
    texts = [own, *(example.answer for example in examples)]
    for number, text in enumerate(texts):
        for found in _SPECIAL.finditer(text):
            if number and found.end() == len(text.rstrip()):
                yield "an answer ends in the name of a special token, which is learnt as text; remove it", found[0]
            else:
                yield SPECIAL, found[0]


class _RowMaker:
    """Turns records into rows, and calls `add` for each with the arguments of `DatasetWriter.add`."""

    def __init__(self, settings: FinetuneSettings, encoder: RowEncoder, add: Callable[..., object]) -> None:
        self.settings, self.encoder, self._add_row = settings, encoder, add
        self.tally, self.truncated, self.kept, self.longest = Tally(), 0, 0, 0
        self.found = {"files": 0, "documents": 0, "bytes": 0}
        self._held_out, self.rows, self.rows_held_out = set[bytes](), 0, 0
        self._before = 0  # lines in earlier units of the file
        self._decode = text_decoder(encoder.tokenizer)
        self.chat = settings.format(encoder.tokenizer) if settings.task == "chat" else None
        chat = bound(self.chat or TEMPLATES["plain"], encoder.tokenizer)
        self._read = reader(settings.task, chat, settings.tags)

    def read_all(self, inputs: Places, progress: bool) -> None:
        """Add every example of `settings.validation`, then of `inputs`. Raises `UserError` if there is none."""
        own = self.settings.validation
        units, others, found = _find(user_roots(inputs, own, None if own else self.settings.validation_share))
        self.found["files"] = found["files"]
        for item in others:
            if item.kind == "problems":
                self._bad(item.source, BadInput(item.reason, item.detail, item.bytes), records=False)
            else:
                self.tally.add(item)
        bar = ProgressBar(progress)
        with bar.alive():
            for _ in bar.track(units, map(self.read, units), "tokenising"):
                pass
        places = self.settings.validation
        if not self.kept:
            raise _nothing_left(inputs or places, self.tally, self.longest)
        if places and (not self.rows_held_out or (inputs and self.rows == self.rows_held_out)):
            which, remedy = ("--input", ": all is in --validation") if self.rows_held_out else ("--validation", "")
            raise UserError(f"{which}: no example is left of it{remedy}; give other files")

    def read(self, unit: Unit) -> None:
        """Add every example of a unit. Unusable records are counted, or raise `UserError` if `on_error` is `stop`."""
        (file,), part = unit.files, unit.part
        if part.span is None or not part.span[0]:
            self._before = 0
        records = ReturnKeeper(read_records(file.path, part, MAX_LINE_BYTES))
        for number, record, line in records:
            source = f"{file.identity}:{self._before + number}"
            self.found["documents"] += record.count if isinstance(record, BadInput) else 1
            self.found["bytes"] += record.bytes if isinstance(record, BadInput) else len(line)
            if isinstance(record, BadInput):
                self._bad(source, record)
                continue
            remarks = dict[str, str]()
            try:
                examples = self._read(record, remarks.setdefault)
            except BadRecord as bad:
                self._bad(source, BadInput(bad.reason, bad.detail, len(line), line))
                continue
            for remark, detail in {**remarks, **dict(reversed([*_special(examples)]))}.items():
                self.tally.add(Event(source, "noted", remark, detail))
            digest = self._digest(examples)
            if not unit.held_out and digest in self._held_out:
                event = Event(source, "dropped", REPEATED, bytes=len(line), excerpt=examples[-1].answer[:_EXCERPT])
                self.tally.add(event, records=True)
                continue
            rows = zip(examples, self.encoder.rows(examples), strict=True)
            lost = [self._add(example, row, source, digest) for example, row in rows]
            added, events = lost.count(None), [event for event in lost if event is not None]
            for event in events if added else events[:1]:  # a record that is kept loses only answers
                kept = {"kind": "noted", "reason": f"an answer was left out: {event.reason}"} if added else {}
                self.tally.add(event._replace(**kept), records=not added)
            self.kept += added > 0
            self.rows += added
            if unit.held_out and added:
                self._held_out.add(digest)
                self.rows_held_out += added
        self._before += records.value

    def _digest(self, examples: Sequence[Example]) -> bytes:
        digest, left = hashlib.sha256(f"{self.settings.seed}".encode()), _MAX_PROMPTS
        for example in examples:
            for text in (memoryview(example.text)[: example.size], example.answer.encode()):
                digest.update(b"\0")
                digest.update(text[:left])
                left = max(left - len(text), 0)
        return digest.digest()

    def _bad(self, source: str, broken: BadInput, records: bool = True) -> None:
        if self.settings.on_error == "stop":
            problem = f"{source}: {broken.reason} ({broken.detail})"
            raise UserError(f"{problem}; fix it, or leave such input out with --on-error skip")
        self.tally.add(rejected(source, broken), records)

    def _add(self, example: Example, row: Row | str, source: str, digest: bytes) -> Event | None:
        if isinstance(row, str):
            size = example.size + len(example.answer.encode())
            needed = len(self.encoder.learnt_ids(example)) + len(self.encoder.tokenizer.prefix) + 1
            self.longest = max(self.longest, needed)  # including the end token and one token of the prompt
            detail = f"its answer needs {needed} tokens" if self.encoder.truncate else ""
            return Event(source, "dropped", row, detail, size, excerpt=example.answer[:_EXCERPT])
        ids, mask, truncated = row
        if truncated:
            self.tally.add(Event(source, "noted", "a prompt lost its beginning, to fit seq_length"))
        self.truncated += truncated
        text = self._decode(ids[:-1].tolist())  # after truncation, so it can be checked later
        self._add_row(ids, mask, text, source, example.language, digest)
        return None


def prepare_finetune(
    inputs: Places, output: Path, settings: FinetuneSettings, progress: bool = False, replace: bool = False
) -> dict[str, Any]:
    """Write a fine-tuning dataset directory, completely or not at all, and return the content of its `dataset.json`,
    with `output` added. The content depends only on settings and input. `inputs` are files of records
    (`extras.shared.records.ENDINGS`) and directories with them; with `settings.validation` there need be none.
    `progress` shows a bar on standard error; `replace` allows replacing a dataset in `output`. Raises `UserError` for a
    missing path, no example, other files in `output`, or a bad record if `on_error` is `stop`."""
    check_output(output, replace)
    encoder = RowEncoder(settings)
    infill_record(settings.infill, encoder.tokenizer)
    with atomic_directory(output) as directory:
        with DatasetWriter(directory, encoder.tokenizer, masked=True) as writer:
            work = _RowMaker(settings, encoder, writer.add)
            work.read_all(inputs, progress)
            splits = writer.write(settings.validation_share, work.rows_held_out)
        extra = {"truncated": work.truncated, "redacted": {}}
        write_report(directory, writer.summary, work.found, work.tally, settings.record(), extra)
        description = _describe(directory, work, user_roots(inputs, settings.validation), splits)
    return {**description, "output": str(output)}


def example_sizes(inputs: Places, settings: FinetuneSettings) -> np.ndarray:
    """Return the number of tokens per row, at most `settings.seq_length`: int64 [n]. Raises like `prepare_finetune`."""
    sizes = list[int]()
    _RowMaker(settings, RowEncoder(settings), lambda ids, *_: sizes.append(len(ids))).read_all(inputs, progress=False)
    return np.array(sizes, np.int64)


def example_rows(
    inputs: Places, settings: FinetuneSettings, tokenizer: Tokenizer, tally: Tally
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids and mask of each example's row, as `prepare_finetune` writes them, but with this tokenizer in place of
    the one in `settings`. `tally` counts the records. Raises like `prepare_finetune`."""
    rows = list[tuple[np.ndarray, np.ndarray]]()
    maker = _RowMaker(settings, RowEncoder(settings, tokenizer), lambda ids, mask, *_: rows.append((ids, mask)))
    maker.tally = tally
    maker.read_all(inputs, progress=False)
    tally.kept = tally.records = maker.kept
    return rows


def _nothing_left(inputs: Places, tally: Tally, longest: int = 0) -> UserError:
    values = {"longest": longest, "endings": ", ".join(ENDINGS)}
    why = tally.nothing_left("docs/what-we-read.md lists what is read", "examples", **values)
    return UserError(f"{', '.join(map(str, inputs))}: no example is left: {why}")


def _find(roots: Sequence[Root]) -> tuple[list[Unit], list[Event], dict[str, int]]:
    given = {root.path for root in roots}
    if remote := next((path for path in given if isinstance(path, RemotePath)), None):
        raise UserError(f"{remote}: a URL is for corpora; give a path of this machine")
    return units_of(search(roots, (), lambda record: table().of(record) is not None))


def recognised_task(inputs: Places) -> str:
    """Return the task of the first record in `inputs` that has one. Raises `UserError` if no record does."""
    units, others, _ = _find(user_roots(inputs))
    tally, found, other = Tally(), "", ""
    for item in others:
        tally.add(item)
    for unit in units:
        (file,) = unit.files
        for number, record, _ in read_records(file.path, unit.part, MAX_LINE_BYTES):
            if isinstance(record, BadInput):
                tally.add(rejected(f"{file.identity}:{number}", record))
                continue
            layout = table().of(record)
            if layout is not None and layout.task in TASKS:
                return layout.task
            other = other or (layout.advice(record) if layout is not None else "")
            fields = f"the last has the fields {', '.join(record)[:200]}"
            found = f"no record is known; {fields}; docs/what-we-read.md lists what is read"
    if not found:
        raise _nothing_left(inputs, tally)
    raise UserError(f"{', '.join(map(str, inputs))}: {other or found}")


def _describe(directory: Path, work: _RowMaker, roots: Sequence[Root], splits: dict[str, Any]) -> dict[str, Any]:
    settings, tokenizer = work.settings, work.encoder.tokenizer
    first = {"kind": KIND, "task": settings.task, "seq_length": settings.seq_length}
    examples = sum(split["documents"] for split in splits.values())
    work.tally.records = work.kept
    tally = {**work.tally.summed(work.kept, work.found["documents"]), "examples": examples}
    further = {
        "sources": described_roots(roots),
        "split_by": "input" if settings.validation else "example",
        "splits": splits,
        "found": work.found,
        "truncated": work.truncated,
        "dropped": work.tally.described(),
        "tally": tally,
        "files": file_records(directory),
        **infill_record(settings.infill, tokenizer),
        **({} if work.chat is None else {"chat": chat_json(work.chat)}),
        **({ENDS_INSIDE: True} if work.encoder.ends_inside else {}),
        "settings": settings.record(),
    }
    return write_description(directory, tokenizer, settings.tokenizer, first, further)
