"""Training step and decoding on an NVIDIA GPU over PyTorch's on the same GPU; writes its section of RESULTS.md.

    python benchmarks/gpu.py                                # base and dev, FP32, TF32 and FP16; decoding of 350M
    python benchmarks/gpu.py --presets base --precisions fp16 --rounds 5
    python benchmarks/gpu.py --device cpu --tiny --rounds 1 --output section.md     # to check that it works

Each side is a separate process that computes on request, so that only one computes at a time; a ratio compares one
round. A step is forward, backward, gradient clipping and AdamW, in FP16 with a loss scale. The peer is CodeGeeX in
plain PyTorch (tests/twins), eager and under torch.compile; for decoding CodeGen in transformers. The share is of the
matmul peak that MindSpore reaches in that precision (8192 x 8192 x 8192). Needs a build of PyTorch with CUDA, in an
separate environment (--torch-python): its CUDA 12 libraries and MindSpore's CUDA 11 ones share folders.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import ROOT, spread, versions

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TITLE = "## NVIDIA GPU"
SHAPES = {"base": (16, 1024), "dev": (8, 1024), "tiny": (2, 64)}  # sequences, tokens
PRECISIONS = ("fp32", "tf32", "fp16")
PEERS = ("eager", "compile")
PEAK_SIZE = 8192
PROMPT, STREAMS = 64, (1, 8)  # tokens, sequences at once


def prepared(device: str, precision: str = "fp32") -> Any:
    """MindSpore, computing on the device."""
    if device == "gpu":
        from ms_codegeex.cuda.libraries import prepare

        prepare()
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device({"cpu": "CPU", "gpu": "GPU"}[device])
    if precision == "tf32":
        ms.set_context(gpu_config={"matmul_allow_tf32": True})
    return ms


def our_step(device: str, preset: str, precision: str) -> dict[str, Callable[[], float]]:
    """What this side does on request: a training step, and the matmul peak."""
    ms = prepared(device, precision)
    import numpy as np
    from mindspore import Tensor

    from ms_codegeex.config.loading import load_config
    from ms_codegeex.runs.joining import measure_matmul_peak
    from ms_codegeex.training.build import build
    from ms_codegeex.training.operators import layers_of

    batch, seq = SHAPES[preset]
    kind = "fp16" if precision == "fp16" else "fp32"
    words = [f"model.preset={preset}", f"device={device}", "devices=1", "training.steps=1", "training.dropout=0"]
    words += [f"training.global_batch={batch}", f"data.seq_length={seq}", f"training.precision={kind}"]
    config = load_config(None, words)
    step = build(config, layers=layers_of(config)).step
    step.set_train(True)
    ids = np.random.default_rng(0).integers(0, 50000, (batch, seq + 1)).astype(np.int32)
    arrays = (ids[:, :-1], ids[:, 1:], np.ones((batch, seq), np.float32), np.arange(batch, dtype=np.int32))
    inputs = [Tensor(np.ascontiguousarray(array)) for array in arrays]
    size, at_once = (PEAK_SIZE, 16) if device == "gpu" else (512, 1)

    def taken() -> float:
        began = time.perf_counter()
        step(*inputs).asnumpy()
        return time.perf_counter() - began

    def peak() -> float:
        return measure_matmul_peak(size=size, precision=kind, at_once=at_once)

    assert ms.get_context("device_target") == {"cpu": "CPU", "gpu": "GPU"}[device]
    return {"step": taken, "peak": peak}


def torch_step(device: str, preset: str, precision: str, compiled: bool) -> dict[str, Callable[[], float]]:
    """A training step of PyTorch."""
    import torch
    from twins.codegeex_torch import CodeGeeX

    from ms_codegeex.models.codegeex.config import build_config

    where = "cuda" if device == "gpu" else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    c, (batch, seq) = build_config(preset, {}), SHAPES[preset]
    sizes = (c.vocab_size, c.hidden_size, c.num_layers, c.num_heads, c.intermediate_size, c.max_position_embeddings)
    model = CodeGeeX(*sizes).to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    scaler = torch.amp.GradScaler(where, enabled=precision == "fp16")
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(0, 50000, (batch, seq + 1), generator=torch.Generator().manual_seed(0)).to(where)
    inputs = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(batch, seq, device=where))

    def taken() -> float:
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(where, torch.float16, enabled=precision == "fp16"):
            loss = forward(*inputs)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        loss.item()
        return time.perf_counter() - began

    return {"step": taken}


def our_decoding(device: str, model: Path, new: int) -> dict[str, Callable[[], float]]:
    """Seconds a token of 1 and of 8 sequences, greedy, from our engine."""
    prepared(device)
    from ms_codegeex.generation.choice import TokenChoice
    from ms_codegeex.generation.engine import Generator

    generator, greedy = Generator(model, threads=0, slots=max(STREAMS)), TokenChoice()
    engine = generator.engine

    def taken(streams: int) -> float:
        sequences = {slot: list(range(100 + slot, 100 + slot + PROMPT)) for slot in range(streams)}
        for slot in sequences:
            engine.cached[slot] = []
        times = []
        for _ in range(new + 1):  # the first step reads the prompt
            began = time.perf_counter()
            for slot, (token, *_) in engine.next(sequences, dict.fromkeys(sequences, greedy)).items():
                sequences[slot].append(token)
            times.append(time.perf_counter() - began)
        return sum(times[1:]) / new

    return {str(streams): lambda streams=streams: taken(streams) for streams in STREAMS}


def torch_decoding(device: str, model: Path, new: int, compiled: bool) -> dict[str, Callable[[], float]]:
    """The same from transformers, in FP32."""
    import torch
    from transformers import AutoModelForCausalLM

    where = "cuda" if device == "gpu" else "cpu"
    torch.set_grad_enabled(False)
    network = AutoModelForCausalLM.from_pretrained(model, torch_dtype=torch.float32).eval().to(where)
    network.generation_config.eos_token_id = None
    if compiled:
        network.forward = torch.compile(network.forward, dynamic=True)

    def taken(streams: int) -> float:
        ids = torch.tensor([list(range(100 + i, 100 + i + PROMPT)) for i in range(streams)], device=where)
        times = []
        for count in (1, new + 1):
            began = time.perf_counter()
            options = {"do_sample": False, "max_new_tokens": count, "pad_token_id": 0}
            network.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, -1].item()
            times.append(time.perf_counter() - began)
        return (times[1] - times[0]) / new

    return {str(streams): lambda streams=streams: taken(streams) for streams in STREAMS}


def serve(side: str, device: str, job: dict[str, Any]) -> None:
    """Be one side: a request a line on standard input, its number a line on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    if "preset" in job:
        what, makers = (job["preset"], job["precision"]), (our_step, torch_step)
    else:
        what, makers = (Path(job["model"]), job["new"]), (our_decoding, torch_decoding)
    found = makers[0](device, *what) if side == "ours" else makers[1](device, *what, side == "compile")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(found[line.strip()](), file=answers, flush=True)


@contextlib.contextmanager
def sides(arguments: argparse.Namespace, job: dict[str, Any]) -> Iterator[Callable[[str, str], float]]:
    """The processes of all sides; a function that asks one of them for a number."""
    environment = {**os.environ, "GLOG_v": "3", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    processes: dict[str, subprocess.Popen[str]] = {}

    def ask(side: str, what: str) -> float:
        process = processes[side]
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"gpu.py: {side} ended while it computed; run it with --show to see why")
        return float(line)

    try:
        for side in ("ours", *PEERS):  # one after the other, so that none warms up while another computes
            python = sys.executable if side == "ours" else arguments.torch_python
            command = [python, __file__, "--side", side, "--device", arguments.device, "--job", json.dumps(job)]
            processes[side] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if arguments.show else subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            if processes[side].stdout.readline() != "ready\n":
                raise SystemExit(f"gpu.py: {side} could not start; run it with --show to see why")
        yield ask
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def rounds_of(ask: Callable[[str, str], float], what: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in turn, after two rounds that compile and warm."""
    found: dict[str, list[float]] = {side: [] for side in ("ours", *PEERS)}
    for turn in range(rounds + 2):
        for side, times in found.items():
            seconds = ask(side, what)
            if turn > 1:
                times.append(seconds)
    return found


def said(found: dict[str, list[float]], units: float, unit: str) -> list[str]:
    """Rates of all sides and the ratios of ours over the others'."""
    lines = [
        f"  {side:<8} {units / statistics.median(times):10.0f} {unit}/s   seconds {spread(times)}"
        for side, times in found.items()
    ]
    for peer in PEERS:
        ratios = [theirs / ours for theirs, ours in zip(found[peer], found["ours"], strict=True)]
        lines.append(f"  ours / PyTorch {peer:<8} {spread(ratios)}")
    return lines


def measured_training(arguments: argparse.Namespace, preset: str, precision: str) -> list[str]:
    """Lines of one size in one precision."""
    from ms_codegeex.models.codegeex.config import build_config

    config, (batch, seq) = build_config(preset, {}), SHAPES[preset]
    with sides(arguments, {"preset": preset, "precision": precision}) as ask:
        found = rounds_of(ask, "step", arguments.rounds)
        peak = statistics.median(ask("ours", "peak") for _ in range(3))
    rate = config.flops_per_token(seq) * batch * seq / statistics.median(found["ours"])
    return [
        f"training {preset}, {config.parameter_count():,} parameters, {batch} x {seq} tokens, {precision}",
        *said(found, batch * seq, "tokens"),
        f"  ours: {rate / 1e12:.3g} TFLOP/s, {rate / peak:.0%} of the matmul peak ({peak / 1e12:.3g} TFLOP/s)",
    ]


def measured_decoding(arguments: argparse.Namespace) -> list[str]:
    """Lines of decoding CodeGen's 350M sizes."""
    from decode import make_models

    model = make_models(arguments.models, arguments.tiny, ())
    lines = []
    with sides(arguments, {"model": str(model.absolute()), "new": arguments.new}) as ask:
        for streams in STREAMS:
            lines.append(f"decoding {model.name}, FP32, {streams} at once, prompts of {PROMPT} tokens")
            lines += said(rounds_of(ask, str(streams), arguments.rounds), streams, "tokens")
    return lines


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
    from ms_codegeex.base.errors import RunFailure, UserError
    from ms_codegeex.cuda.libraries import check_loaded
    from ms_codegeex.cuda.probe import probe_gpu_backend

    if device != "gpu":
        return ""
    try:
        found = probe_gpu_backend()
        check_loaded(list(found.libraries))
    except (UserError, RunFailure) as error:
        return str(error)
    return found.driver.problem or found.plugin


def main() -> int:
    """Measure, or be one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["base", "dev"], choices=SHAPES)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new", type=int, default=64, help="tokens to generate (default 64)")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python of an environment with PyTorch")
    parser.add_argument("--models", type=Path, default=ROOT / "benchmarks" / "models")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: to check this program")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--show", action="store_true", help="show what the sides print")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.device, arguments.job)
        return 0
    if problem := obstacle(arguments.device):
        print(f"gpu.py: cannot measure: {problem}; run `ms-codegeex doctor` for details", file=sys.stderr)
        return 2
    from ms_codegeex.cuda.driver import query_driver_in_subprocess

    gpus = query_driver_in_subprocess().gpus if arguments.device == "gpu" else ()
    lines = [f"$ python benchmarks/gpu.py {' '.join(sys.argv[1:])}".rstrip(), versions("mindspore", "numpy")]
    lines += [f"{gpu.name}, compute capability {'.'.join(map(str, gpu.capability))}" for gpu in gpus[:1]]
    asked = [arguments.torch_python, "-c", "import torch; print('PyTorch', torch.__version__)"]
    lines.append(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "no PyTorch")
    for preset in ["tiny"] if arguments.tiny else arguments.presets:
        for precision in ["fp32"] if arguments.device == "cpu" else arguments.precisions:
            lines += measured_training(arguments, preset, precision)
    lines += measured_decoding(arguments)
    print("\n".join(lines))
    write_section(arguments.output, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
