"""What reading batches costs: the wait of a training step, and start-up for a billion samples.

    python benchmarks/loader.py                  # about two minutes
    python benchmarks/loader.py --peer 1e9       # the peer shuffles a billion numbers too: 4 GB, minutes
    python benchmarks/loader.py --quick          # few steps, a small peer: to see that it works

Wait: the share of the steps' time in which a step of a real run (preset tiny, 16 sequences of 256 tokens, a blend of
two corpora in the page cache) waits for its batch, without the first two steps. `data.workers=0` reads a batch when its
step begins.

Start-up: from the end of the imports to the first batch in the middle of 10^9 samples, each in a separate process:
`repeated` is a corpus of 10^4 sequences, `huge` one of 10^9 (a sparse file of 256 GB), `blend` 0.7 of the latter and
0.3 of the former. The peer shuffles an array of the samples' numbers, as Megatron-LM does at its start. Memory is
the peak resident size minus that before.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import options, print_header, spread

from ms_codegeex.base.files import write_json
from ms_codegeex.config.blend import parse_blend
from ms_codegeex.data.datasets.batches import PackedSequences, stream_seed
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.indexed import IndexedWriter

VOCABULARY, EOS = 50_400, 50_256
LENGTH = 128  # of the sequences of the start-up
SAMPLES = 10**9
CASES = ("repeated", "huge", "blend", "peer")
WAIT_BOUND, SECONDS_BOUND, MEMORY_BOUND = 1.0, 1.0, 50e6  # percent, seconds, bytes


def write_corpus(directory: Path, tokens: int, seed: int) -> Path:
    """Random ids in documents of about 500; training and validation."""
    generator = np.random.default_rng(seed)
    directory.mkdir()
    for split, count in (("train", tokens), ("validation", tokens // 10)):
        with IndexedWriter(directory / split) as writer:
            for start in range(0, count, 500):
                writer.add(np.append(generator.integers(0, EOS, min(499, count - start)), EOS))
    write_json(directory / "dataset.json", {"vocab_size": VOCABULARY, "eos_id": EOS})
    return directory


def write_huge(directory: Path, sequences: int) -> Path:
    """As many sequences of LENGTH in a sparse file, in documents of a billion tokens."""
    directory.mkdir()
    sizes = np.full(-(-(sequences * LENGTH + 1) // 10**9), 10**9)
    pointers = 2 * (np.cumsum(sizes) - sizes)
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, len(sizes), len(sizes) + 1)
    parts = (sizes.astype("<i4"), pointers.astype("<i8"), np.arange(len(sizes) + 1, dtype="<i8"))
    (directory / "train.idx").write_bytes(header + b"".join(part.tobytes() for part in parts))
    with open(directory / "train.bin", "wb") as stream:
        stream.truncate(2 * int(sizes.sum()))
    write_json(directory / "dataset.json", {"vocab_size": VOCABULARY, "eos_id": EOS})
    return directory


# -- start-up, in a separate process ---------------------------------------------------------------------------------


def highest_size() -> int:
    """The largest resident size of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


def start(case: str, directory: Path, samples: int) -> None:
    """One start-up; prints its seconds and bytes as JSON."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the current size
    before, began = highest_size(), time.perf_counter()
    if case == "peer":
        numbers = np.arange(samples, dtype=np.uint32)
        np.random.RandomState(1234).shuffle(numbers)
        first = numbers[samples // 2 : samples // 2 + 16]
    else:
        names = ("huge", "repeated") if case == "blend" else (case,)
        corpora = {
            name: PackedSequences(directory / name, "train", LENGTH, stream_seed(1234, i))
            for i, name in enumerate(names)
        }
        blended = Blend(parse_blend({"huge": 0.7, "repeated": 0.3}), corpora, 16) if case == "blend" else None
        first = (blended or corpora[case]).training_batch(samples // 2, 16).samples
    seconds = time.perf_counter() - began
    assert len(first) == 16
    print(json.dumps({"seconds": seconds, "bytes": highest_size() - before}))


def started(case: str, directory: Path, samples: int) -> dict[str, float]:
    """`start` in a separate process."""
    command = [sys.executable, __file__, "--case", case, "--directory", str(directory), "--samples", str(samples)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_start(directory: Path, peer_samples: int, rounds: int, quick: bool) -> bool:
    """Print seconds and memory of every case; return whether ours stay within their bounds."""
    write_corpus(directory / "repeated", 10**4 * LENGTH + 1, 0)
    write_huge(directory / "huge", SAMPLES)
    sizes = {case: peer_samples if case == "peer" else SAMPLES for case in CASES}
    results: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for number in range(rounds):
        for case in CASES[number % 4 :] + CASES[: number % 4]:
            results[case].append(started(case, directory, sizes[case]))
    print("\nstart-up to the first batch")
    kept = True
    for case in CASES:
        seconds, peaks = ([result[key] for result in results[case]] for key in ("seconds", "bytes"))
        megabytes = [peak / 1e6 for peak in peaks]
        print(f"  {case:<9} {sizes[case]:>13,} samples: {spread(seconds)} s, {spread(megabytes)} MB")
        if case != "peer":
            kept &= max(peaks) <= MEMORY_BOUND and (quick or max(seconds) <= SECONDS_BOUND)
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(results["huge"], results["peer"], strict=True)]
    print(
        f"  huge / peer in seconds, whose number of samples is {peer_samples / SAMPLES:g} of ours: {spread(ratios)}\n"
        f"  bounds for ours: {SECONDS_BOUND:g} s, {MEMORY_BOUND / 1e6:g} MB"
    )
    return kept


# -- the wait of a step ------------------------------------------------------------------------------------------------


def train(directory: Path, workers: int, steps: int, quick: bool) -> tuple[float, float, float]:
    """Run briefly; percent of the time in which steps waited, seconds of a step, seconds to read a batch alone."""
    import mindspore as ms

    from ms_codegeex.config.rules import build_run_config
    from ms_codegeex.data.datasets.opening import training_data, validation_data
    from ms_codegeex.training.observers import Callback
    from ms_codegeex.training.start import RankPlace, RunData, RunStart
    from ms_codegeex.training.trainer import Trainer

    class Keep(Callback):
        def __init__(self) -> None:
            self.records = []

        def step(self, trainer, record) -> None:
            self.records.append(record)

    small = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64} if quick else {}
    config = build_run_config(
        {
            "model": {"preset": "tiny", **small},
            "data": {
                "blend": {str(directory / "a"): 0.7, str(directory / "b"): 0.3},
                "seq_length": 32 if quick else 256,
                "workers": workers,
            },
            "training": {"steps": steps + 2, "global_batch": 4 if quick else 16, "evaluate_samples": 1},
        }
    )
    ms.set_context(mode=ms.GRAPH_MODE)
    data, keep = training_data(config), Keep()
    trainer = Trainer(config, RunData(data, validation_data(config)), RunStart(), RankPlace(), [keep])
    trainer.evaluation.loss = lambda data=None, shuffled=False: (
        0.0
    )  # only steps are timed, and its graph takes long to compile
    trainer.run()
    records = keep.records[2:]
    seconds = sum(record.step_seconds for record in records)
    waited = sum(record.step_seconds * record.data_wait_percent for record in records)
    began = time.perf_counter()
    for record in records:
        data.training_batch(record.step * config.training.global_batch, config.training.global_batch)
    return waited / seconds, seconds / len(records), (time.perf_counter() - began) / len(records)


def measure_wait(directory: Path, steps: int, quick: bool) -> bool:
    """Print the wait with and without reading ahead; return whether the default stays within its bound."""
    for seed, name in enumerate("ab"):
        write_corpus(directory / name, 10**5 if quick else 10**7, seed)
    print(f"\nwait for data in a training run of {steps} steps")
    kept = True
    for workers in (1, 0):
        percent, step, alone = train(directory, workers, steps, quick)
        print(
            f"  data.workers={workers}: {percent:.3f} % of the time; a step takes {1e3 * step:.3g} ms, reading its "
            f"batch alone {1e3 * alone:.3g} ms"
        )
        if workers:
            kept = quick or percent < WAIT_BOUND
    print(f"  bound for data.workers=1: {WAIT_BOUND:g} %")
    return kept


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--peer", type=float, default=1e8, metavar="N", help="samples the peer shuffles (default: 1e8)")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5, help="of the start-up")
    parser.add_argument("--quick", action="store_true", help="few steps, one round; bounds on time do not count")
    parser.add_argument("--directory", type=Path, help="where to write (default: TMPDIR); the file system needs holes")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        start(arguments.case, arguments.directory, arguments.samples)
        return 0
    print_header("numpy", "mindspore")
    peer = 10**6 if arguments.quick else int(arguments.peer)
    steps, rounds = (4, 1) if arguments.quick else (arguments.steps, arguments.rounds)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        kept = measure_start(Path(name), peer, rounds, arguments.quick)
        kept &= measure_wait(Path(name), steps, arguments.quick)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
