"""One side of benchmarks/gpu.py: a process that measures on request.

    python gpu_sides.py SIDE DEVICE JOB

Reads a request a line, and answers each with a line of JSON; before, it prints {} when it has compiled and is warm.
Only one side computes at a time, so a side gives cached memory of the GPU back after each request.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SHAPES = {"base": (16, 1024), "dev": (8, 1024), "tiny": (2, 64)}  # sequences, tokens
PEAK_SIZE, PROMPT, STREAMS = 8192, 64, (1, 8)  # of a matrix; tokens; sequences at once
NEWEST = 50_000  # random tokens are below, so no document ends in a sequence
UPDATED = 5  # where the train step's result says whether the weights were updated
Requests = dict[str, Callable[..., Any]]


def prepared(device: str, precision: str = "fp32") -> Any:
    """MindSpore, computing on the device."""
    if device == "gpu":
        from ms_codegeex.base.cuda.libraries import prepare

        prepare()
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device({"cpu": "CPU", "gpu": "GPU"}[device])
    if precision == "tf32":
        ms.set_context(gpu_config={"matmul_allow_tf32": True})
    return ms


def timed_steps(step: Callable[[], bool], count: int) -> dict[str, Any]:
    """Seconds of `count` steps after one that warms, and how many of all were skipped. `step` says if it updated."""
    seconds, skipped = [], int(not step())
    for _ in range(count):
        began = time.perf_counter()
        skipped += not step()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "steps": count + 1, "skipped": skipped}


def profiled(job: dict[str, Any], step: Callable[[], Any], wait: Callable[[], Any]) -> dict[str, Any]:
    """The kernels of one step."""
    from gpu_profile import traced

    if "problem" in job["trace"]:
        return job["trace"]
    with tempfile.TemporaryDirectory() as scratch:
        return traced(job["trace"], Path(scratch), step, wait)


def our_step(device: str, preset: str, kind: str, composed: bool = False) -> tuple[Any, list[Any]]:
    """Our training step and its inputs, with the cells of that device or with `composed` ones."""
    import numpy as np
    from mindspore import Tensor

    from ms_codegeex.config.loading import load_config
    from ms_codegeex.models.causal import Build
    from ms_codegeex.training.build import build

    batch, seq = SHAPES[preset]
    words = [f"model.preset={preset}", f"device={device}", "devices=1", "training.steps=1", "training.dropout=0"]
    words += [f"training.global_batch={batch}", f"data.seq_length={seq}", f"training.precision={kind}"]
    config = load_config(None, words)
    train = build(config, layers=Build if composed else None).step
    train.set_train(True)
    ids = np.random.default_rng(0).integers(0, NEWEST, (batch, seq + 1)).astype(np.int32)
    arrays = (ids[:, :-1], ids[:, 1:], np.ones((batch, seq), np.float32), np.arange(batch, dtype=np.int32))
    return train, [Tensor(np.ascontiguousarray(array)) for array in arrays]


def prediction(preset: str, composed: bool) -> list[tuple[str, int, float]]:
    """`gpu_profile.predicted` of a GPU's FP16 step, which is compiled on a CPU and not executed."""
    prepared("cpu")
    from flattened import flatten
    from gpu_profile import predicted

    from ms_codegeex.extras.cluster.rehearsal import mindir
    from ms_codegeex.extras.cluster.rehearsal.execution_program import exported

    train, inputs = our_step("gpu", preset, "fp16", composed)
    train.compile(*inputs)
    return predicted(flatten(mindir.parse(exported(train))).operators)


def our_training(side: str, device: str, job: dict[str, Any]) -> Requests:
    """Our training step."""
    preset, precision = job["preset"], job["precision"]
    ms = prepared(device, precision)
    from ms_codegeex.runs.rank.joining import measure_matmul_peak

    kind = "fp16" if precision == "fp16" else "fp32"
    train, inputs = our_step(device, preset, kind)
    assert ms.get_context("device_target") == {"cpu": "CPU", "gpu": "GPU"}[device]

    def step() -> bool:
        return bool(train(*inputs).asnumpy()[UPDATED])

    def steps(count: int) -> dict[str, Any]:
        return {**timed_steps(step, count), "memory": ms.runtime.max_memory_allocated() if device == "gpu" else None}

    def peak() -> float:
        size, at_once = (PEAK_SIZE, 16) if device == "gpu" else (512, 1)
        return measure_matmul_peak(size=size, precision=kind, at_once=at_once)

    steps(1)
    return {"steps": steps, "peak": peak, "profile": lambda: profiled(job, step, ms.runtime.synchronize)}


def torch_training(side: str, device: str, job: dict[str, Any]) -> Requests:
    """A training step of PyTorch. A side whose name has "compile" is compiled; with "fused" its attention is
    `scaled_dot_product_attention`, causal and without a mask of documents."""
    import torch
    from torch.nn import functional
    from twins.codegeex_torch import Attention, CodeGeeX

    class FusedAttention(Attention):
        def forward(self, query: Any, memory: Any, bias: Any) -> Any:
            batch, n, hidden = memory.shape
            projected = (self.query(query), self.key(memory), self.value(memory))
            q, k, v = (x.view(batch, n, self.heads, hidden // self.heads).transpose(1, 2) for x in projected)
            found = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.output(found.transpose(1, 2).reshape(batch, n, hidden))

    where, precision = "cuda" if device == "gpu" else "cpu", job["precision"]
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.manual_seed(0)
    batch, seq = SHAPES[job["preset"]]
    with torch.device(where):
        model = CodeGeeX(*job["sizes"])
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    if "fused" in side:
        for module in model.modules():
            if isinstance(module, Attention):
                module.__class__ = FusedAttention
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    scaler = torch.amp.GradScaler(where, enabled=precision == "fp16")
    forward = torch.compile(model) if "compile" in side else model
    ids = torch.randint(0, NEWEST, (batch, seq + 1), generator=torch.Generator().manual_seed(0)).to(where)
    inputs = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(batch, seq, device=where))
    losses = []

    def step() -> bool:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(where, torch.float16, enabled=precision == "fp16"):
            loss = forward(*inputs)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        return scaler.get_scale() >= before

    def steps(count: int) -> dict[str, Any]:
        found = {**timed_steps(step, count), "losses": losses[-count:], "memory": None}
        if device == "gpu":
            found["memory"] = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
        return found

    steps(1)
    return {"steps": steps, "profile": lambda: profiled(job, step, torch.cuda.synchronize)}


def our_decoding(side: str, device: str, job: dict[str, Any]) -> Requests:
    """Greedy decoding by our engine: seconds of a step of some sequences."""
    ms = prepared(device)
    from ms_codegeex.generation.choice import TokenChoice
    from ms_codegeex.generation.engine import Generator

    generator, greedy = Generator(Path(job["model"]), threads=0, slots=max(STREAMS)), TokenChoice()
    engine = generator.engine

    def decode(streams: int, new: int) -> dict[str, Any]:
        sequences = {slot: list(range(100 + slot, 100 + slot + PROMPT)) for slot in range(streams)}
        for slot in sequences:
            engine.cached[slot] = []
        times = []
        for _ in range(new + 1):  # the first step reads the prompt
            began = time.perf_counter()
            for slot, (token, *_) in engine.next(sequences, dict.fromkeys(sequences, greedy)).items():
                sequences[slot].append(token)
            times.append(time.perf_counter() - began)
        memory = ms.runtime.max_memory_allocated() if device == "gpu" else None
        return {"seconds": [sum(times[1:]) / new], "memory": memory}

    for streams in STREAMS:
        decode(streams, 2)
    return {"decode": decode}


def torch_decoding(side: str, device: str, job: dict[str, Any]) -> Requests:
    """The same by transformers, in the precision that the side's name ends with."""
    import torch
    from transformers import AutoModelForCausalLM

    where = "cuda" if device == "gpu" else "cpu"
    number = {"fp32": torch.float32, "fp16": torch.float16}[side.split()[-1]]
    torch.set_grad_enabled(False)
    network = AutoModelForCausalLM.from_pretrained(job["model"], torch_dtype=number).eval().to(where)
    network.generation_config.eos_token_id = None

    def decode(streams: int, new: int) -> dict[str, Any]:
        ids = torch.tensor([list(range(100 + i, 100 + i + PROMPT)) for i in range(streams)], device=where)
        times = []
        for count in (1, new + 1):
            began = time.perf_counter()
            options = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "pad_token_id": 0}
            network.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, -1].item()
            times.append(time.perf_counter() - began)
        memory = torch.cuda.max_memory_allocated() if device == "gpu" else None
        return {"seconds": [(times[1] - times[0]) / new], "memory": memory}

    for streams in STREAMS:
        decode(streams, 2)
    return {"decode": decode}


MAKERS = {
    ("training", True): our_training,
    ("training", False): torch_training,
    ("decoding", True): our_decoding,
    ("decoding", False): torch_decoding,
}


def main() -> None:
    side, device, job = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    requests = MAKERS[job["kind"], side == "ours"](side, device, job)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        print(json.dumps(requests[what](*map(int, numbers))), file=answers, flush=True)


if __name__ == "__main__":
    main()
