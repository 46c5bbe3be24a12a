"""`python gradients_on.py DEVICE FAMILY PRECISION OUT`: loss and gradients of a small network with fixed weights and a
fixed batch, as .npz, computed on a device in a separate process. PYTHONPATH has the checkout and its tests."""

from __future__ import annotations

import sys

from ms_codegeex.base.cuda.libraries import prepare

SIZES = {"vocab_size": 40, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96}
SIZES |= {"max_position_embeddings": 32, "eos_token_id": 3}
ROWS, LENGTH = 4, 32


def main(device: str, family: str, precision: str, out: str) -> None:
    """Compute and write."""
    if device == "gpu":
        prepare()
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor
    from networks import LossGradients, assign, packed_batch

    from ms_codegeex.config.loading import load_config
    from ms_codegeex.training.build import build_network

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device({"cpu": "CPU", "gpu": "GPU"}[device])
    fields = {**SIZES, "rotary_dim": 8} if family in ("codegen", "codegeex2") else SIZES
    words = [f"model.{name}={value}" for name, value in fields.items()]
    words += [f"model.family={family}", "model.preset=tiny", f"device={device}", "devices=1", "training.steps=1"]
    words += [f"training.global_batch={ROWS}", f"data.seq_length={LENGTH}", f"training.precision={precision}"]
    config = load_config(None, [*words, "training.dropout=0", "training.loss_chunk=0"])
    network = build_network(config)
    generator = np.random.default_rng(5)
    weights = {
        p.name: generator.standard_normal(p.shape) * 0.2 + p.name.endswith("norm.weight")
        for p in sorted(network.get_parameters(), key=lambda p: p.name)
    }
    assign(network, weights)
    output, gradients = LossGradients(network)(*map(Tensor, packed_batch(SIZES["vocab_size"], 3, ROWS, LENGTH)))
    named = zip((p.name for p in network.trainable_params()), gradients, strict=True)
    np.savez(out, output=output.asnumpy(), **{name: gradient.asnumpy() for name, gradient in named})


if __name__ == "__main__":
    main(*sys.argv[1:])
