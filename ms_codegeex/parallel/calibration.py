"""The measured figures of the CodeGeeX release that the roofline is held against, and its one free factor.

Tuned products: the tuning bank shipped with the release (2022-05-09), batch 8, tensor parallelism 8; its unit is taken
to be microseconds. Throughput: the release's README, 54.3 billion token slots a day, padding included, on 1,536
Ascend 910 with the recipe of configs/codegeex_13b.yaml.
"""

from __future__ import annotations

from ms_codegeex.parallel.hardware import ASCEND_910
from ms_codegeex.parallel.operators import MatMul
from ms_codegeex.parallel.roofline import matmul_seconds

TUNED_PRODUCTS: tuple[tuple[MatMul, float], ...] = (
    (MatMul("query, key or value", 16384, 5120, 640), 387e-6),
    (MatMul("attention output", 16384, 640, 5120), 399e-6),
    (MatMul("FFN up", 16384, 5120, 2560), 1541e-6),
    (MatMul("FFN down", 16384, 2560, 5120), 1529e-6),
    (MatMul("logits", 16384, 5120, 6528), 4007e-6),
    (MatMul("scores", 2048, 128, 2048, batch=40), 336e-6),
    (MatMul("context", 2048, 2048, 128, batch=40), 307e-6),
)
SLOTS_PER_DAY = 54.3e9
STEP_SLOTS = 3072 * 2048
STEP_SECONDS = STEP_SLOTS * 86400 / SLOTS_PER_DAY  # 10.01

# The roofline gives the paper's recipe 5.73 s. The rest is in none of its operators: gaps between kernels, vector
# kernels below full bandwidth, links below their nominal rate, waiting for the slowest of 1,536 devices, data loading.
# It is the only free factor, set by one measurement, and is assumed for every plan and device.
OUTSIDE_ROOFLINE = 1.7476


def product_errors() -> dict[str, float]:
    """Relative error of the roofline for each tuned product, on the device they were tuned for."""
    return {p.name: matmul_seconds(p, ASCEND_910, "fp16") / measured - 1 for p, measured in TUNED_PRODUCTS}
