"""Products with quantised weights in each arithmetic: their CPU time, and what rounding activations does to a model.

    python benchmarks/products.py                                   # CPU time: CodeGen-350M's matrices, 1 and 8 rows
    python benchmarks/products.py --cpu-level avx2 --rows 1 8 64
    python benchmarks/products.py --model runs/codegeex_tiny        # quality, for 8 and 4 bits, on our own sources

The time is that of one thread, which other programs change less than wall time; the arithmetics alternate, and the
least of all rounds is printed with the median. For the quality, `exact` is the reference: the largest difference of a
logit and the root of the mean square, both over the logits' standard deviation; perplexity; the greedy answers whose
ids are all the same. `order` is `exact` with the sums of another CPU level.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import ROOT, options, print_header
from kernel_checks import Kernels

from ms_codegeex.formats.rounding import quantise
from ms_codegeex.generation.matrices import pack
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.kernels.levels import AUTO, LEVELS, cpu_level, possible_levels

LAYER, LAYERS, HEAD = ((3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096)), 20, (51200, 1024)  # of CodeGen-350M
ARITHMETICS = {"exact": 32, "default": 16, "fast": 8}


def measure_time(level: str, all_rows: list[int], rounds: int) -> None:
    """A line for each number of rows and of bits."""
    kernels, generator = Kernels(library_path(level), 1), np.random.default_rng(0)
    shapes, matrices = [*LAYER * LAYERS, HEAD], {}
    for bits in (8, 4):
        for name, activation_bits in ARITHMETICS.items():
            packed = (
                pack(
                    quantise(generator.standard_normal(shape, np.float32), bits), kernels.blocks(bits, activation_bits)
                )
                for shape in shapes
            )
            matrices[bits, name] = [kernels.matrix(each, activation_bits=activation_bits) for each in packed]
    for m in all_rows:
        x = {k: generator.standard_normal((m, k), np.float32) for _, k in shapes}
        y = {n: np.zeros((m, n), np.float32) for n, _ in shapes}
        found: dict[tuple[int, str], list[float]] = {key: [] for key in matrices}
        for _ in range(rounds):
            for key, registered in matrices.items():
                begin = time.process_time()
                for matrix, (n, k) in zip(registered, shapes, strict=True):
                    assert kernels.call("linear", matrix, x[k], y[n]) == 0
                found[key].append(1e3 * (time.process_time() - begin))
        for bits in (8, 4):
            own = {name: found[bits, name] for name in ARITHMETICS}
            times = (f"{name} {min(t):6.1f} ({statistics.median(t):.1f})" for name, t in own.items())
            print(f"{cpu_level(level)}, int{bits}, rows {m}: CPU ms " + "  ".join(times), flush=True)


def measure_quality(path: Path, windows: int, length: int) -> None:
    """A line for each number of bits and arithmetic."""
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.sampling import SamplingSettings

    text = "\n".join(file.read_text() for file in sorted((ROOT / "ms_codegeex" / "generation").glob("*.py")))
    greedy = SamplingSettings(64, temperature=0.0)

    def run(**how) -> tuple[np.ndarray, float, list[list[int]]]:
        generator = Generator(path, **how)
        ids = generator.tokenizer.encode(text)
        parts = [ids[i * length : (i + 1) * length] for i in range(windows)]
        logits = np.concatenate([generator.all_logits(part) for part in parts])
        score = np.concatenate([generator.log_probabilities(part) for part in parts]).mean()
        return logits, float(np.exp(-score)), [list(generator.tokens(part[:32], greedy)) for part in parts]

    print(f"{path.name}: {windows} windows of {length} tokens, {windows} greedy answers")
    print(f"FP32 weights   perplexity {run()[1]:.5f}", flush=True)
    for bits in (8, 4):
        exact, perplexity, answers = run(bits=bits, exact=True)
        spread = exact.std()
        print(f"int{bits} exact   perplexity {perplexity:.5f}")
        ways = {"order": {"exact": True, "cpu_level": possible_levels()[-1]}, "default": {}, "fast": {"fast": True}}
        for name, how in ways.items():
            logits, perplexity, others = run(bits=bits, **how)
            error, same = np.abs(logits - exact), sum(map(list.__eq__, answers, others))
            likeliest = (logits.argmax(1) == exact.argmax(1)).mean()
            print(
                f"int{bits} {name:<7} perplexity {perplexity:.5f}, logit error {error.max() / spread:.1e} at most, "
                f"{np.sqrt((error.astype(np.float64) ** 2).mean()) / spread:.1e} rms, same likeliest token "
                f"{100 * likeliest:.2f} %, same ids {same} of {len(answers)}",
                flush=True,
            )


def main() -> None:
    parser = options(__doc__, rounds=7)
    parser.add_argument("--cpu-level", choices=(AUTO, *LEVELS), default=AUTO)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--length", type=int, default=200)
    arguments = parser.parse_args()
    print_header("mindspore", "numpy")
    if arguments.model is None:
        measure_time(arguments.cpu_level, arguments.rows, arguments.rounds)
    else:
        measure_quality(arguments.model, arguments.windows, arguments.length)


if __name__ == "__main__":
    main()
