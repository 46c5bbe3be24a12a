"""How a message is read, as a user reads it, and the commands that it leads to are run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remedies_shapes import Call, Situation, failing

VALUE = r"[^\s`;()]*[^\s`;(),.?:]"  # of an option or a key
AFTER = r"(?!(?:and|for|with|to|if|in)\b)"  # words that are not values of the option before them
OPTION = re.compile(rf"(?<![\w-])(--[a-z][a-z-]*)(?![a-z-]| (?:more|another)\b)(?: {AFTER}({VALUE}))?")
SETTING = re.compile(rf"(?<![\w.-])([a-z_]+(?:\.\w+)*)=({VALUE})")
LEAVE = re.compile(r"(?:leave|without)(?: out)? (?:it out|the key out|the option out|(--[\w-]+|[a-z_.]+)(?: out)?)")
NAMED = re.compile(rf"(?:did you mean|expected one of|choose one of|known are|out of range; give) '?({VALUE})")


def without(words: list[str], name: str) -> list[str]:
    """The words without an option and its values, or without a key."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--") or SETTING.fullmatch(word):
            groups.append([])
        groups[-1].append(word)
    return [word for group in groups for word in group if group[0].partition("=")[0] != name]


def given(words: list[str], name: str, value: str) -> list[str]:
    """The words with this option or key, once; "" for an option without a value."""
    return [*without(words, name), *_pair(name, value)]


def _pair(name: str, value: str) -> list[str]:
    return [name, *filter(None, [value])] if name.startswith("--") else [f"{name}={value}"]


def filled(word: str, known: Mapping[str, str]) -> str:
    """A word of a message with what the user puts into its place."""
    name, equals, value = word.rpartition("=")
    assert not re.fullmatch(r"[A-Z|…]+", value) or value in known, f"what is {value}?"
    return f"{name}{equals}{known.get(value, value)}"


def as_said(words: list[str], said: str, message: str, known: Mapping[str, str]) -> list[str]:
    """The words as one alternative of a message, `said`, changes them."""
    subject, new = re.split(r"[: ]", message)[0], words
    while gone := LEAVE.search(said):
        new, said = without(new, gone[1] or subject), said.replace(gone[0], "", 1)
    pairs = [*OPTION.findall(said), *SETTING.findall(re.sub(OPTION, "", said))]
    for name in dict(pairs):
        new = without(new, name)
    new = [*new, *(word for name, value in pairs for word in _pair(name, filled(value, known)))]
    if to := re.search(rf"\bset it to ({VALUE})", said):
        new = given(new, subject, to[1])
    if "unknown key" in message and (right := NAMED.search(said)):
        section = subject.rpartition(".")[0]
        new = [word.replace(f"{subject}=", f"{section}.{right[1].strip(chr(39))}=") for word in new]
    elif new == words and (right := NAMED.search(message)):
        wrong = re.search(r"'([^']+)'", message)
        if wrong and wrong[1] in words:
            new = [right[1] if word == wrong[1] else word for word in words]
        else:
            new = given(new, subject, right[1].strip("'"))
    if "give DIR instead" in said:  # of what the message names
        place = message.partition(": ")[0]
        new = given(words, "--model", known["DIR"]) if place not in words else new
        new = [known["DIR"] if word == place else word for word in new]
    if re.search(r"another (?:--)?output|choose another(?: directory)?$|--output another", said):
        new = given(new, "--output" if "--output" in words else "output", known["OTHER"])
    return new


def ways_out(words: list[str], message: str, known: Mapping[str, str]) -> Iterator[list[list[str]]]:
    """The commands that each alternative of a message leads to, in order. `known`: what the user puts in the places of
    N, DIR and others."""
    for said in re.split(r",? or (?!less|more|fewer)", message.rpartition("; ")[2]):
        commands = re.findall(r"`ms-codegeex (\w+ [^`]+)`", said)
        before = [[filled(word, known) for word in shlex.split(command)] for command in commands]
        new = as_said(words, re.sub(r"`[^`]*`", "", said), message, known)
        if new != words:
            yield [*before, new]
        elif before:
            yield before if before[0][0] in ("finetune", words[0]) else [*before, words]


def told(line: str, count: int = 1, known: Mapping[str, str] | None = None) -> Situation:
    """A command that fails, whose message is read as a user reads it: it has so many ways out, and each succeeds.
    `{at}/o` is an output, another one in each; `known`: what a user puts in the places of N, DIR and others."""

    def situation(at: Path) -> Iterator[Call]:
        words = shlex.split(line.format(at=at))
        places = {name: value.format(at=at) for name, value in (known or {}).items()} | {"OTHER": f"{at}/other"}
        message = yield failing(shlex.join(words), 1 if words[0] == "evaluate" else 2)
        ways = [*ways_out(words, message, places)]
        assert len(ways) == count, f"{message}: {ways}"
        for number, commands in enumerate(ways):
            for words in commands:
                yield failing(shlex.join(f"{word}{number}" if word.endswith("/o") else word for word in words))

    return situation


def now(*arguments: Any) -> Situation:
    """The same, also in the default tests."""
    situation = told(*arguments)
    QUICK.add(situation)
    return situation


QUICK: set[Situation] = set()
PREPARE_PAIRS = "prepare --task completion --seq-length 64 --tokenizer codegen-mono --output {at}/o"
PREPARE_TEXTS = "prepare --tokenizer codegen-mono --output {at}/o --input"
LEARN_TOKENS = "tokenizer train --family codegen --input tree"
TRAIN_RUN = "train --config run.yaml output={at}/o"
TRAIN_SERVERS = f"{TRAIN_RUN} --dry-run device=ascend devices=16 training.global_batch=16"
ALL_MEET = "--nodes 2 --node-rank 0 --master-addr 10.0.0.11:8118"
RESUME_RUN = "train --config run.yaml training.steps=4 --resume auto"
TRAIN_CODEGEN = "train --config codegen_tiny training.steps=1 data.seq_length=64 output={at}/o"
FINETUNE_PAIRS = "finetune --model model --data pairs.jsonl training.steps=1 output={at}/o"
FITTING = "model.hidden_size=16 model.intermediate_size=16 model.num_layers=1 model.num_heads=4 model.rotary_dim=4 "
FITTING += "model.vocab_size=50400 model.max_position_embeddings=128 model.layer_norm_eps=1e-6"
TRAIN_WEIGHTS = f"{TRAIN_CODEGEN} data.train=corpus model.weights=model"
SERVE_MODEL = "serve --model model"
REFER = "evaluate humaneval --sandbox best-effort --output {at}/o"
MADE = {"corpus": "{at}/o-corpus"}
CONVERTED = {"N": "4", "NAME|DIR": "codegen-mono", "DIR": "{at}/o-hf"}
