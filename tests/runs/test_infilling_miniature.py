"""A miniature on the standard library's code: training to fill in costs little of what a model learns about continuing,
and the infilled middle becomes likelier. docs/infilling.md has its figures."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import command, small_run, write_config

from ms_codegeex.base.reading import read_json
from ms_codegeex.data.infilling.sentinels import ORDERS, Sentinels
from ms_codegeex.extras.corpus.tally import Tally
from ms_codegeex.extras.evaluation.infilling import INFILL, PREFIX, Asker, choose_spans, chosen_texts
from ms_codegeex.extras.evaluation.perplexity.corpus import corpus_documents
from ms_codegeex.extras.evaluation.perplexity.scoring import Score

MODE, CONTEXT, STEPS, SPANS, SEEDS = "spm", 96, 600, 120, (1,)
COST, MARGIN = 0.07, 0.05  # nats per token: what continuing may cost (0.049 measured); half of what infilling gains
PACKAGES = ("json", "email", "http", "urllib", "logging", "unittest", "xml", "concurrent", "asyncio", "importlib")
MODULES = """argparse ast bdb calendar cmd codecs configparser contextlib copy csv dataclasses datetime decimal
difflib dis doctest enum fractions ftplib functools gettext heapq imaplib inspect ipaddress locale
mailbox nntplib optparse os pathlib pdb pickle platform plistlib poplib posixpath pprint pstats pydoc
queue random re shelve shlex shutil smtplib socket socketserver ssl statistics string subprocess tarfile
telnetlib tempfile textwrap threading timeit tokenize trace traceback turtle types typing uuid warnings
wave weakref zipfile"""


def values(root, rate, seed):
    values = {**small_run(root / "data", root / f"rate{rate}-seed{seed}"), "seed": seed}
    values["model"] |= {"family": "codegeex2", "vocab_size": 1088, "hidden_size": 64, "num_layers": 2}
    values["model"] |= {"num_kv_groups": 2, "intermediate_size": 176, "max_position_embeddings": CONTEXT}
    values["model"] |= {"eos_token_id": 2, "init_std": 0.05}
    values["data"] |= {"seq_length": CONTEXT, "infill": {"rate": rate, "mode": MODE}}
    values["training"] |= {"steps": STEPS, "global_batch": 16, "evaluate_samples": 256}
    schedule = {"learning_rate": 6e-3, "end_learning_rate": 6e-4, "warmup_steps": 20, "decay_steps": STEPS}
    values["training"]["schedule"] = schedule
    values["logging"]["every"] = 100
    return values


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory with a dataset of the standard library's code and a tokenizer that was trained on it."""
    root, library = tmp_path_factory.mktemp("miniature"), Path(os.__file__).parent
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "test*")
        shutil.copytree(library / package, root / "src" / package, ignore=ignored)
    for module in filter(lambda name: (library / f"{name}.py").is_file(), MODULES.split()):
        shutil.copy(library / f"{module}.py", root / "src")
    words = ("--tokenizer", "tok", "--validation-share", "0.1")
    for line in (
        ("tokenizer", "train", "--input", "src", "--output", "tok", "--vocab-size", "1024"),
        ("prepare", "--input", "src", "--output", "data", *words),
    ):
        done = command(*line, cwd=root)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def runs(root):
    """The directories of the runs by rate and seed."""

    def train(key):
        given = values(root, *key)
        config = write_config(root / f"rate{key[0]}-seed{key[1]}.yaml", given)
        done = command("train", "--config", config, environment={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return Path(given["output"])

    keys = [(rate, seed) for seed in SEEDS for rate in (0.0, 0.5)]
    with ThreadPoolExecutor(2) as threads:
        return dict(zip(keys, threads.map(train, keys), strict=True))


def middle_losses(run, data):
    """Nats per token of held-out random middles by the way of asking; a model without sentinels gets some."""
    from ms_codegeex.generation.engine import Generator

    generator = Generator(run, threads=1)
    if generator.sentinels is None:
        generator.sentinels = Sentinels(*generator.tokenizer.sentinels, order=ORDERS[MODE])
        generator._marks = generator.sentinels.ids
    asker = Asker(generator)
    documents = corpus_documents(generator, [data], Tally())
    texts = chosen_texts(map(asker.tokenizer.decode, documents), SPANS, 0)
    by_number, sums = {text.number: text for text in texts}, {way: Score(0.0, 0) for way in asker.ways}
    for span in choose_spans(texts, "random", SPANS, 0):
        prefix, middle, suffix = by_number[span.document].parts(span)
        ids = asker.tokenizer.encode_inside(middle)
        if len(ids) <= CONTEXT // 2:
            for way in sums:
                sums[way] += asker.loss(asker.prompt(way, prefix, suffix, CONTEXT - len(ids)), ids)
    return {way: score.nats / score.tokens for way, score in sums.items()}


@pytest.mark.slow  # two runs of about 1.5 minutes on one core each
def test_continuing_costs_little_and_middles_become_likelier(runs, root):
    continuing = {key: read_json(run / "summary.json")["validation_loss"] for key, run in runs.items()}
    middles = {key: middle_losses(run, root / "data") for key, run in runs.items()}
    print({key: (continuing[key], *middles[key].values()) for key in runs})

    def mean(figures, rate):
        return sum(figures[rate, seed] for seed in SEEDS) / len(SEEDS)

    assert max(continuing.values()) < 3.7  # a table of token frequencies has 5.64
    assert mean(continuing, 0.5) - mean(continuing, 0.0) < COST
    asked = {key: found[INFILL] for key, found in middles.items()}
    by_prefix = {key: found[PREFIX] for key, found in middles.items()}
    for seed in SEEDS:  # asked in the same way
        assert asked[0.5, seed] < asked[0.0, seed] - MARGIN
    assert mean(asked, 0.5) < mean(by_prefix, 0.0)  # and better than what the others can do without a suffix
