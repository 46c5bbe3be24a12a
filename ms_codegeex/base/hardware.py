"""Published figures of accelerators; their sources are in `planning/hardware_sources.yaml`. Rates are per device.
Units: FLOP/s, bytes, bytes/s in one direction, seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ms_codegeex.base.errors import UserError, suggestion

GIB = 2**30
# Increment by which the engine's memory pool grows on Ascend. Each stream has its own blocks, so MindSpore's 2 GiB
# would waste much memory on streams that send little. For the tensors of compiled graphs, 1/8 GiB needs the least.
POOL_BLOCK = GIB // 8
# Device memory, free when a rank starts, that CANN's runtime and the communicators' buffers take later.
RESERVE = 2 * GIB


@dataclass(frozen=True)
class Calibration:
    """Corrections measured in runs on a chip (docs/plan.md); the measured rates are in the fields of the chip. Matrix
    products reach `matmul_share` of the peak; `matmul_start` is their K_START. A share `overlap` of the collectives
    runs behind computation. For each second of computation, the chip idles for `gaps` seconds. A step takes `factor`
    times the predicted time; eight of ten steps lie between `low` and `high`. `cluster_latency`: as `latency`, between
    servers. `measured`: the fields that the run measured."""

    base: str
    matmul_share: float
    matmul_start: float
    overlap: float
    gaps: float
    factor: float
    low: float
    high: float
    cluster_latency: float
    source: str
    measured: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Chip:
    """A chip, its server and its cluster. A server may consist of boards. The `board_devices` of a board are connected
    at `board_bandwidth`, the boards of a server at `server_bandwidth`, and servers at `cluster_bandwidth`. A run may
    fill `usable_memory`; the rest belongs to the driver and runtime. `fused` names the kernels that a run uses unless
    `parallel.fusion.*` says otherwise; `norm` is LayerNorm's kernel, `rms_norm` RMSNorm's. `saturates`: its arithmetic
    has no infinity and no NaN."""

    name: str
    kind: str  # `device` of its runs: ascend or gpu
    peak_fp16: float
    peak_bf16: float | None
    peak_fp32: float
    memory: int
    usable_memory: int
    memory_bandwidth: float
    board_devices: int
    board_bandwidth: float
    server_devices: int
    server_bandwidth: float
    cluster_bandwidth: float
    latency: float
    fused: frozenset[str]
    saturates: bool
    calibration: Calibration | None = None

    @property
    def generation(self) -> str:
        """The chip's name; for a part in `PARTS`, the name of the generation that it belongs to."""
        return ASCEND_910B.name if self.name in PARTS else self.name

    def peak(self, precision: str) -> float:
        """Return the peak FLOP/s of matrix products in `fp32`, `fp16` or `bf16`. `UserError` if it has none."""
        peak = {"fp16": self.peak_fp16, "bf16": self.peak_bf16, "fp32": self.peak_fp32}[precision]
        if peak is None:
            wrong = f"{self.name} has no {precision} matrix products"
            raise UserError(f"training.precision: {wrong}; choose fp16 or fp32, or another parallel.hardware")
        return peak


ASCEND_910 = Chip(
    name="ascend910",
    kind="ascend",
    peak_fp16=32 * 8192 * 1.2e9,
    peak_bf16=None,
    peak_fp32=32 * 128 * 1.2e9,
    memory=32 * GIB,
    usable_memory=30 * GIB,
    memory_bandwidth=1.2e12,
    board_devices=4,
    board_bandwidth=3 * 30e9,
    server_devices=8,
    server_bandwidth=32e9,
    cluster_bandwidth=12.5e9,
    latency=2e-5,
    fused=frozenset({"graph_kernel", "norm", "rms_norm", "optimizer"}),
    saturates=True,
)

ASCEND_910B = Chip(
    name="ascend910b",
    kind="ascend",
    peak_fp16=376e12,
    peak_bf16=376e12,
    peak_fp32=94e12,
    memory=64 * GIB,
    usable_memory=58 * GIB,
    memory_bandwidth=1.6e12,
    board_devices=8,
    board_bandwidth=196e9,
    server_devices=8,
    server_bandwidth=196e9,
    cluster_bandwidth=25e9,
    latency=2e-5,
    fused=frozenset({"graph_kernel", "norm", "rms_norm", "optimizer", "attention"}),
    saturates=False,
)

# A package has two dies, and MindSpore sees each die as a device.
ASCEND_910C = replace(ASCEND_910B, name="ascend910c", board_devices=16, server_devices=16, cluster_bandwidth=196e9)

A100 = Chip(
    name="a100",
    kind="gpu",
    peak_fp16=312e12,
    peak_bf16=312e12,
    peak_fp32=19.5e12,
    memory=80 * 10**9,
    usable_memory=76 * 10**9,
    memory_bandwidth=2.039e12,
    board_devices=8,
    board_bandwidth=300e9,
    server_devices=8,
    server_bandwidth=300e9,
    cluster_bandwidth=25e9,
    latency=2e-5,
    # no graph kernels: their code generator needs a CUDA toolkit, which was not tested
    fused=frozenset({"norm", "optimizer"}),
    saturates=False,
)

H100 = replace(
    A100,
    name="h100",
    peak_fp16=989.4e12,
    peak_bf16=989.4e12,
    peak_fp32=66.9e12,
    memory_bandwidth=3.35e12,
    board_bandwidth=450e9,
    server_bandwidth=450e9,
    cluster_bandwidth=50e9,
)

CHIPS = {chip.name: chip for chip in (ASCEND_910, ASCEND_910B, ASCEND_910C, A100, H100)}

# Parts of the 910B by the driver's names: 16-bit TFLOP/s, GiB of memory, and the GiB that a run may fill.
PARTS = {
    name: replace(
        ASCEND_910B,
        name=name,
        peak_fp16=peak * 1e12,
        peak_bf16=peak * 1e12,
        peak_fp32=peak * 1e12 / 4,
        memory=memory * GIB,
        usable_memory=usable * GIB,
    )
    for name, peak, memory, usable in (
        ("Ascend910B1", 400, 64, 58),
        ("Ascend910B2", 376, 64, 58),
        ("Ascend910B2C", 376, 64, 58),
        ("Ascend910B3", 313, 64, 58),
        ("Ascend910B4", 280, 32, 28),
        ("Ascend910B4-1", 280, 64, 58),
    )
}


def chip_named(name: str) -> Chip:
    """Return the chip of that name, or the part that the driver calls so. Raises `UserError` for an unknown name."""
    if name in PARTS:
        return PARTS[name]
    if name not in CHIPS:
        raise UserError(f"parallel.hardware: '{name}' is unknown; {suggestion(name, [*CHIPS])}")
    return CHIPS[name]
