"""Tokens/s of our LoRA step over PEFT's, and over our own full step: same model, batch and threads, alternating.

    python benchmarks/finetune.py                        # 29 million parameters, 7 rounds: about 5 minutes on two cores
    python benchmarks/finetune.py --hidden 256 --layers 2 --rounds 5

Each side is a separate process that takes one step on request, so that only one computes at a time. A step is
forward, backward, gradient clipping and AdamW, in FP32; ours has the operators that a compiler builds, as a run has.
The model is a CodeGen with adapters of rank 8 on all linear layers of its blocks; the peer is PEFT on transformers'
CodeGen, where query, key and value are one layer. `--frozen` holds our frozen weights in another type. Needs
`pip install --no-deps peft accelerate` in addition to the packages of the tests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable

from common import Worker, be_stepper, options, print_header, quotients, spread

SIDES = ("LoRA", "full", "PEFT")
RANK = 8


def sizes(arguments: argparse.Namespace) -> dict[str, int]:
    """The model's sizes under our names."""
    return {
        "vocab_size": arguments.vocabulary,
        "hidden_size": arguments.hidden,
        "num_layers": arguments.layers,
        "num_heads": 8,
        "rotary_dim": 32,
        "intermediate_size": 4 * arguments.hidden,
        "max_position_embeddings": arguments.seq,
        "eos_token_id": 1,
    }


def our_step(arguments: argparse.Namespace, adapters: bool) -> Callable[[], float]:
    """A function that takes one of our training steps, built as a run builds it."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from ms_codegeex.config.rules import build_run_config
    from ms_codegeex.training.build import build
    from ms_codegeex.training.operators import operators_library

    ms.set_context(mode=ms.GRAPH_MODE)
    lora = {"rank": RANK, "targets": ["attention", "feed_forward"], "frozen": arguments.frozen} if adapters else {}
    config = build_run_config(
        {
            "devices": 1,
            "model": {"family": "codegen", "preset": "tiny", **sizes(arguments)},
            "data": {"reset_at_eos": False},
            "training": {"steps": 1, "global_batch": arguments.batch, "dropout": 0.0},
            "lora": lora,
        }
    )
    step = build(config, library=operators_library(config, arguments.threads)).step
    step.set_train(True)
    ids = _ids(arguments)
    arrays = ids[:, :-1], ids[:, 1:], np.ones(ids[:, 1:].shape, np.float32), np.arange(len(ids), dtype=np.int32)
    inputs = [Tensor(np.ascontiguousarray(x)) for x in arrays]
    return lambda: float(step(*inputs).asnumpy()[0])


def peft_step(arguments: argparse.Namespace) -> Callable[[], float]:
    """A function that takes one step of PEFT's adapters."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = transformers.CodeGenConfig(
        vocab_size=arguments.vocabulary,
        n_positions=arguments.seq,
        n_embd=arguments.hidden,
        n_layer=arguments.layers,
        n_head=8,
        rotary_dim=32,
        n_inner=4 * arguments.hidden,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=1,
    )
    targets = ["qkv_proj", "out_proj", "fc_in", "fc_out"]
    lora = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=targets, lora_dropout=0.0)
    model = peft.get_peft_model(transformers.CodeGenForCausalLM(config), lora).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.from_numpy(_ids(arguments)).long()
    inputs, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    return step


def _ids(arguments: argparse.Namespace):
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.integers(2, arguments.vocabulary, (arguments.batch, arguments.seq + 1)).astype(np.int32)


def measure(arguments: argparse.Namespace) -> None:
    """Alternate the sides and print tokens/s and ratios."""
    threads = str(arguments.threads)  # one side warms up after the other
    sides = {name: Worker(__file__, *sys.argv[1:], "--side", name, OMP_NUM_THREADS=threads) for name in SIDES}
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            seconds[name].append(side.ask("step"))
    for side in sides.values():
        side.end()
    from ms_codegeex.models.codegen.config import build_config

    count = build_config("tiny", sizes(arguments)).parameter_count()
    tokens = arguments.batch * arguments.seq
    print(
        f"\n{count:,} parameters, {arguments.batch} x {arguments.seq} tokens, rank {RANK}, "
        f"frozen {arguments.frozen}, {arguments.threads} threads, {arguments.rounds} rounds"
    )
    for name in SIDES:
        rate = tokens / statistics.median(seconds[name])
        print(f"  {name:<6} {rate:8.0f} tokens/s   seconds a step {spread(seconds[name])}")
    for peer in ("PEFT", "full"):
        ratios = quotients(seconds[peer], seconds["LoRA"])
        print(f"  our LoRA / {'PEFT' if peer == 'PEFT' else 'our full training'}: {spread(ratios)}")


def main() -> None:
    parser = options(__doc__, rounds=7, threads=True)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--frozen", default="fp32", help="what our LoRA holds the frozen weights in")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        lora = arguments.side == "LoRA"
        return be_stepper(lambda: peft_step(arguments) if arguments.side == "PEFT" else our_step(arguments, lora))
    print_header("mindspore", "torch", "transformers", "peft", "numpy")
    measure(arguments)


if __name__ == "__main__":
    main()
