"""Training and decoding on an NVIDIA GPU over PyTorch's on the same GPU; writes its section of RESULTS.md.

    python benchmarks/gpu.py --torch-python PYTHON          # base in FP16 and decoding of 350M, in at most 5 minutes
    python benchmarks/gpu.py --presets base dev --precisions fp32 tf32 fp16 --minutes 30
    python benchmarks/gpu.py --device cpu --tiny --precisions fp32 --rounds 1 --output section.md     # to check it
    python benchmarks/gpu.py --predict                      # without a GPU: what the operators of a step would take

Each side is a separate process (gpu_sides.py). They compile together and then compute one at a time, in turns; a ratio
compares one round. A step is forward, backward, gradient clipping and AdamW, in FP16 with a loss scale; skipped steps
are counted, and a side that skips all has no result. The peer is CodeGeeX in plain PyTorch (tests/twins), eager and
compiled, each also with PyTorch's fused attention, which has no mask of documents; for decoding CodeGen in
transformers. The share is of the matmul peak that MindSpore reaches in that precision (8192 x 8192 x 8192). The profile
is of one step: CUPTI's records, by the library that comes with PyTorch. What does not fit into --minutes is left out
and listed. Needs the driver, and PyTorch with CUDA and transformers in an environment without MindSpore
(--torch-python): their CUDA libraries and MindSpore's share folders.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, options, spread, versions
from gpu_profile import compiled_tracer, table
from gpu_sides import PROMPT, SHAPES, STREAMS, prediction

TITLE = "## NVIDIA GPU"
PRECISIONS = ("fp32", "tf32", "fp16")
# Sides in groups that start together. The memory of a group fits into 80 GB while all of it warms up.
TRAINING = (("ours", "compile", "compile fused"), ("eager",), ("eager fused",))
DECODING = (("ours",), ("transformers fp32",), ("transformers fp16",))
PROFILED = ("ours", "eager", "compile fused")
STEPS = 3  # of a round
SIDE = Path(__file__).with_name("gpu_sides.py")
ABOUT_TORCH = (
    "import pathlib, torch; print('PyTorch', torch.__version__); "
    "print(*sorted(pathlib.Path(torch.__file__).parents[1].glob('nvidia/*/lib/libcupti.so.*')), sep='\\n')"
)


class Sides:
    """The processes of some sides, which answer requests until the deadline (of `time.monotonic`). `missing`: why a
    side answers no more."""

    def __init__(self, arguments: argparse.Namespace, job: dict[str, Any], groups: Iterable[Sequence[str]]):
        self.arguments, self.job, self.missing = arguments, job, {}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.errors = tempfile.TemporaryDirectory()
        self.over = False
        self.timer = threading.Timer(max(0.0, arguments.deadline - time.monotonic()), self.kill)
        self.timer.daemon = True
        self.timer.start()
        for group in groups:
            group = [side for side in group if side in arguments.sides]
            for side in group:
                self._start(side)
            for side in group:
                self._answer(side)

    def _start(self, side: str) -> None:
        python = sys.executable if side == "ours" else self.arguments.torch_python
        words = [python, str(SIDE), side, self.arguments.device, json.dumps(self.job)]
        environment = {**os.environ, "GLOG_v": "3", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with self._log(side).open("w") as log:
            errors = None if self.arguments.show else log
            self.processes[side] = subprocess.Popen(words, stderr=errors, env=environment, **pipes)
        if self.over:
            self.kill()

    def _log(self, side: str) -> Path:
        return Path(self.errors.name) / side

    def _answer(self, side: str) -> Any:
        line = self.processes[side].stdout.readline()
        if line:
            return json.loads(line)
        last = (self._log(side).read_text("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        self.missing[side] = f"{self.arguments.minutes:g} minutes were over" if self.over else f"it ended: {last}"
        return None

    def ask(self, side: str, *words: object) -> Any:
        """The answer of a side; None if it is missing."""
        if side in self.missing:
            return None
        try:
            self.processes[side].stdin.write(" ".join(map(str, words)) + "\n")
            self.processes[side].stdin.flush()
        except OSError:  # it has ended
            pass
        return self._answer(side)

    def rounds(self, count: int, *words: object) -> dict[str, list[Any]]:
        """The answers of all sides in turns, of those that gave any."""
        found: dict[str, list[Any]] = {side: [] for side in self.processes}
        for _ in range(count):
            for side, answers in found.items():
                if (answer := self.ask(side, *words)) is not None:
                    answers.append(answer)
        return {side: answers for side, answers in found.items() if answers}

    def kill(self) -> None:
        self.over = True
        for process in list(self.processes.values()):
            process.kill()

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
        self.kill()
        for process in self.processes.values():
            process.communicate()
        self.errors.cleanup()


def without_skipped(sides: Sides, found: dict[str, list[Any]]) -> dict[str, str]:
    """How many steps of each side were skipped. A side that skipped all of them becomes missing and leaves `found`."""
    words = {}
    for side, answers in list(found.items()):
        skipped, steps = (sum(answer[key] for answer in answers) for key in ("skipped", "steps"))
        words[side] = f"   {skipped} of {steps} steps skipped"
        if skipped == steps:
            sides.missing[side] = f"all {steps} steps were skipped, so no update was measured"
            del found[side]
    return words


def rates(found: dict[str, list[Any]], units: float, unit: str, more: dict[str, str]) -> list[str]:
    """A line for each side, and the ratios of ours over the others'."""
    lines = []
    for side, answers in found.items():
        times = [seconds for answer in answers for seconds in answer["seconds"]]
        memory = max(answer["memory"] or 0 for answer in answers) / 1e9
        words = f"   peak {memory:.1f} GB" * bool(memory) + more.get(side, "")
        lines.append(f"  {side:<18}{units / statistics.median(times):10.0f} {unit}/s   seconds {spread(times)}{words}")
    for side in [side for side in found if side != "ours"] if "ours" in found else []:
        pairs = zip(found[side], found["ours"], strict=False)
        ratios = [statistics.median(theirs["seconds"]) / statistics.median(ours["seconds"]) for theirs, ours in pairs]
        lines.append(f"  ours / {side:<18} {spread(ratios)}")
    return lines


def measured_training(arguments: argparse.Namespace, preset: str, precision: str) -> tuple[list[str], bool]:
    """Lines of one size in one precision, and whether ours was measured."""
    from ms_codegeex.models.codegeex.config import build_config

    c, (batch, seq) = build_config(preset, {}), SHAPES[preset]
    sizes = (c.vocab_size, c.hidden_size, c.num_layers, c.num_heads, c.intermediate_size, c.max_position_embeddings)
    lines = [f"training {preset}, {c.parameter_count():,} parameters, {batch} x {seq} tokens, {precision}"]
    job = {"kind": "training", "preset": preset, "sizes": sizes, "precision": precision, "trace": arguments.trace}
    with Sides(arguments, job, TRAINING) as sides:
        found = sides.rounds(arguments.rounds, "steps", STEPS)
        skipped = without_skipped(sides, found)
        lines += rates(found, batch * seq, "tokens", skipped)
        if "ours" in found and (peak := sides.ask("ours", "peak")):
            times = [seconds for answer in found["ours"] for seconds in answer["seconds"]]
            rate = c.flops_per_token(seq) * batch * seq / statistics.median(times)
            share = f"{rate / peak:.1%} of the matmul peak ({peak / 1e12:.3g} TFLOP/s)"
            lines.append(f"  ours: {rate / 1e12:.3g} TFLOP/s, {share}")
        for side in PROFILED:
            if side in found and (profile := sides.ask(side, "profile")):
                lines += table(side, profile)
        lines += left_out(sides)
    return lines, "ours" in found


def measured_decoding(arguments: argparse.Namespace) -> tuple[list[str], bool]:
    """Lines of decoding CodeGen's 350M sizes, and whether ours was measured."""
    from decode import make_models

    model = make_models(arguments.models, arguments.tiny, ())
    lines, ours = [], True
    with Sides(arguments, {"kind": "decoding", "model": str(model.absolute())}, DECODING) as sides:
        for streams in STREAMS:
            lines.append(f"decoding {model.name}, {streams} at once, prompts of {PROMPT} tokens; ours in FP32")
            found = sides.rounds(arguments.rounds, "decode", streams, arguments.new)
            lines += rates(found, streams, "tokens", {})
            ours = ours and "ours" in found
        lines += left_out(sides)
    return lines, ours


def left_out(sides: Sides) -> list[str]:
    """A line for each side that is missing."""
    return [f"  {side}: not measured, or not to the end: {reason}" for side, reason in sides.missing.items()]


def write_section(path: Path, lines: list[str]) -> None:
    """Replace the section of this benchmark in a Markdown file, or append it."""
    from ms_codegeex.base.files import atomic_file

    before = path.read_text("utf-8") if path.is_file() else "# Results\n"
    section = "\n".join([TITLE, "", "```text", *lines, "```", "", f"{time.strftime('%Y-%m-%d')}.", ""])
    old = re.compile(rf"^{re.escape(TITLE)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = old.sub(lambda _: f"{section}\n", before) if old.search(before) else f"{before.rstrip()}\n\n{section}"
    with atomic_file(path) as temporary:
        temporary.write_text(text.rstrip() + "\n", "utf-8")


def obstacle(device: str) -> str:
    """Why nothing can be measured here; "" if there is no obstacle."""
    from ms_codegeex.base.cuda.libraries import check_loaded
    from ms_codegeex.base.cuda.probe import probe_gpu_backend
    from ms_codegeex.base.errors import RunFailure, UserError

    if device != "gpu":
        return ""
    try:
        found = probe_gpu_backend()
        check_loaded(list(found.libraries))
    except (UserError, RunFailure) as error:
        return str(error)
    return found.driver.problem or found.plugin


def trace_libraries(arguments: argparse.Namespace, cupti: Sequence[str], folder: Path) -> dict[str, str]:
    """The libraries with which a side traces its kernels, or the problem."""
    from ms_codegeex.extras.cluster.rehearsal.stubs import compilers

    if arguments.device != "gpu":
        return {"problem": "there are no kernels without a GPU"}
    if not cupti:
        return {"problem": "no libcupti beside the PyTorch of --torch-python; name it with --cupti"}
    try:
        return {"cupti": cupti[-1], "tracer": str(compiled_tracer(folder, compilers()))}
    except OSError as error:
        return {"problem": str(error)}


def measured(arguments: argparse.Namespace) -> tuple[list[str], bool]:
    """All lines, and whether every figure of ours is there."""
    from ms_codegeex.base.cuda.driver import query_driver_in_subprocess
    from ms_codegeex.base.cuda.translation import translation_note

    gpus = query_driver_in_subprocess().gpus if arguments.device == "gpu" else ()
    if note := translation_note(gpus[:1]):
        print(f"gpu.py: {note}; set-up can do it (docs/hardware.md)", file=sys.stderr)
    lines = [f"$ python benchmarks/gpu.py {shlex.join(sys.argv[1:])}".rstrip(), versions("mindspore", "numpy")]
    lines += [f"{gpu.name}, compute capability {'.'.join(map(str, gpu.capability))}" for gpu in gpus[:1]]
    asked = [arguments.torch_python, "-c", ABOUT_TORCH]
    found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split("\n")
    lines.append(found[0] or "no PyTorch")
    complete = True
    with tempfile.TemporaryDirectory() as folder:
        cupti = [arguments.cupti] if arguments.cupti else [path for path in found[1:] if path]
        arguments.trace = trace_libraries(arguments, cupti, Path(folder))
        for preset in ["tiny"] if arguments.tiny else arguments.presets:
            for precision in arguments.precisions:
                more, whole = measured_training(arguments, preset, precision)
                lines, complete = lines + more, complete and whole
    more, whole = measured_decoding(arguments)
    return lines + more, complete and whole


def predicted_lines(preset: str, composed: bool) -> list[str]:
    """What our step is predicted to take on an H100, by kind of operator."""
    rows, name = prediction(preset, composed), "composed cells" if composed else "cells for GPUs"
    total = sum(ms for _, _, ms in rows)
    return [f"{preset}, {name}: {total:.1f} ms", *(f"{ms:8.2f} ms {count:6,} x  {kind}" for kind, count, ms in rows)]


def main() -> int:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--presets", nargs="+", default=["base"], choices=SHAPES)
    parser.add_argument("--precisions", nargs="+", default=["fp16"], choices=PRECISIONS)
    sides = sorted({side for group in (*TRAINING, *DECODING) for side in group})
    parser.add_argument("--sides", nargs="+", default=sides, choices=sides)
    parser.add_argument("--minutes", type=float, default=5.0, help="end after this time (default 5)")
    parser.add_argument("--new", type=int, default=64, help="tokens to generate (default 64)")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python of an environment with PyTorch")
    parser.add_argument("--cupti", help="libcupti of the driver's CUDA (default: that of PyTorch's packages)")
    parser.add_argument("--models", type=Path, default=ROOT / "benchmarks" / "models")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: to check this program")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--show", action="store_true", help="show what the sides print")
    parser.add_argument("--predict", action="store_true", help="predict our FP16 step from the operators of its graph")
    arguments = parser.parse_args()
    if arguments.predict:
        for preset in arguments.presets:
            for composed in (False, True):
                print(*predicted_lines(preset, composed), sep="\n")
        return 0
    arguments.deadline = time.monotonic() + 60 * arguments.minutes
    if problem := obstacle(arguments.device):
        print(f"gpu.py: cannot measure: {problem}; run `ms-codegeex doctor` for details", file=sys.stderr)
        return 2
    lines, complete = measured(arguments)
    print("\n".join(lines))
    if not complete:
        print(f"gpu.py: a figure of ours is missing, so {arguments.output} stays as it was", file=sys.stderr)
        return 1
    write_section(arguments.output, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
