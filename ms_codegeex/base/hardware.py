"""Published figures of accelerators, each with its source.

Where published figures disagree or are missing, the entry says which value was taken and why; `uncertain` lists those
fields.
Rates are per device: FLOP/s, bytes, bytes/s in one direction, seconds.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace

from ms_codegeex.base.errors import UserError

GIB = 2**30
# Steps in which the engine's memory pool grows on Ascend. Each stream has blocks of its own, so MindSpore's 2 GiB would
# leave much of a device to streams that send little; replayed (rehearsal/timeline/pool.py), 1/8 takes least.
POOL_BLOCK = GIB // 8


@dataclass(frozen=True)
class Calibration:
    """What a run on the device has shown (docs/calibrate.md); its rates are in the fields of the device.

    Products reach `matmul_share` of the peak, `matmul_start` is their K_START. Of collectives, the share `overlap` runs
    under computation; the device stands still for `gaps` seconds for each second of computing. A step takes `factor`
    times what is counted with these, eight of ten between `low` and `high`. `cluster_latency`: as `latency`, between
    servers.
    """

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


@dataclass(frozen=True)
class Device:
    """One accelerator, its server and its cluster.

    A server may consist of boards: the `board_devices` of a board are connected at `board_bandwidth`, the boards of a
    server at `server_bandwidth`, servers at `cluster_bandwidth`. A run may fill `usable_memory`; the rest belongs to
    driver and runtime. `fused` names the kernels that a run uses unless `parallel.fusion.*` says otherwise: `norm` is
    LayerNorm's, `rms_norm` RMSNorm's. What `saturates` knows no infinity and no NaN.
    """

    name: str
    kind: str  # `device` of a run on it: ascend or gpu
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
    sources: dict[str, str] = field(compare=False, hash=False)
    uncertain: frozenset[str] = frozenset()
    calibration: Calibration | None = None

    def peak(self, precision: str) -> float:
        """FLOP/s of matrix products in `fp32`, `fp16` or `bf16`; a `UserError` if the device does not support it."""
        peak = {"fp16": self.peak_fp16, "bf16": self.peak_bf16, "fp32": self.peak_fp32}[precision]
        if peak is None:
            raise UserError(
                f"training.precision: {self.name} has no {precision} matrix products; choose fp16 or fp32, or "
                "another parallel.hardware"
            )
        return peak


HOT_CHIPS = (
    "H. Liao et al., DaVinci, Hot Chips 31 (2019), "
    "https://old.hotchips.org/hc31/HC31_1.11_Huawei.Davinci.HengLiao_v4.0.pdf"
)
HPCA = "H. Liao et al., Ascend: a Scalable and Unified Architecture, HPCA 2021, doi:10.1109/HPCA51647.2021.00071"
ATLAS_900 = "Huawei, Atlas 900 at Huawei Connect 2019 (HCCS, PCIe 4.0 and one 100 Gb/s RoCE port per processor)"
CLOUDMATRIX = (
    "P. Zuo et al., Serving Large Language Models on Huawei CloudMatrix384, arXiv:2506.12708: 384 packages of two "
    "dies, 289 PFLOP/s BF16, 1,229 TB/s and 49 TB in all; one die is taken for one device"
)
AMPERE = "NVIDIA A100 Tensor Core GPU datasheet and Ampere whitepaper (2020)"
ASSUMED_LATENCY = "assumed: order of magnitude of one step of a collective; matters only for many small messages"

ASCEND_910 = Device(
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
    sources={
        "peak_fp16": f"32 cores x 8,192 FLOP per cycle ({HOT_CHIPS}) x 1.2 GHz, the clock of the part "
        "Ascend910PremiumA in a table of the unit tests of Huawei's CANN runtime (1.0 GHz for 910A, 1.1 for ProA). The "
        "256 TFLOP/s of the announcement (2019) is the 1.0 GHz part; it cannot be the paper's, whose tuned products "
        "reach 281 TFLOP/s",
        "peak_bf16": f"none: the matrix unit multiplies FP16 and INT8 ({HOT_CHIPS})",
        "peak_fp32": f"vector unit, 64 lanes of fused multiply-add in 32 cores ({HOT_CHIPS}) at 1.2 GHz; the matrix "
        "unit has no FP32",
        "saturates": "CANN, aclrtFloatOverflowMode: Atlas training products support saturation only",
        "memory": "CodeGeeX paper (KDD 2023): Ascend 910 with 32 GB",
        "usable_memory": "the CodeGeeX release caps MindSpore at 30 GB",
        "memory_bandwidth": f"four HBM2 stacks, 1.2 TB/s ({HPCA}); the paper's tuned attention products move 1.12 to "
        "1.23 TB/s",
        "board_devices": "Atlas 800 (model 9000) user guide: two boards of four, each fully meshed",
        "board_bandwidth": f"three HCCS ports of 240 Gb/s ({HOT_CHIPS})",
        "server_devices": f"the Ascend 910 server of {HOT_CHIPS}: eight devices",
        "server_bandwidth": f"PCIe 4.0 x16 between the boards ({ATLAS_900})",
        "cluster_bandwidth": f"{ATLAS_900}; {HOT_CHIPS} shows two ports on the chip",
        "latency": ASSUMED_LATENCY,
    },
    uncertain=frozenset(
        {
            "peak_fp16",
            "peak_fp32",
            "memory_bandwidth",
            "board_devices",
            "server_bandwidth",
            "cluster_bandwidth",
            "latency",
        }
    ),
)

ASCEND_910B = Device(
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
    sources={
        "peak_fp16": CLOUDMATRIX + "; slower bins exist, 313 TFLOP/s (910B3) and 280 (910B4) in secondary sources",
        "peak_bf16": CLOUDMATRIX,
        "peak_fp32": "a quarter of FP16, the ratio that secondary sources give for 910B4 (75 of 280 TFLOP/s)",
        "saturates": "CANN, aclrtFloatOverflowMode: infinities and NaN by default, saturation for compatibility",
        "memory": CLOUDMATRIX,
        "usable_memory": "max_device_memory 58GB, recommended by the mindformers documentation for 64 GB devices",
        "memory_bandwidth": CLOUDMATRIX,
        "board_devices": "Atlas 800T A2: eight devices, fully meshed",
        "board_bandwidth": "Atlas 800T A2: full mesh of HCCS, 392 GB/s in both directions (secondary sources)",
        "server_devices": "Atlas 800T A2: eight devices",
        "server_bandwidth": "one board: as board_bandwidth",
        "cluster_bandwidth": "Atlas 800T A2: one 200 Gb/s RoCE port per device (secondary sources)",
        "latency": ASSUMED_LATENCY,
    },
    uncertain=frozenset({"peak_fp16", "peak_bf16", "peak_fp32", "board_bandwidth", "cluster_bandwidth", "latency"}),
)

# A device is one of the two dies of a package: MindSpore sees each as a device.
ASCEND_910C = replace(
    ASCEND_910B,
    name="ascend910c",
    board_devices=16,
    server_devices=16,
    cluster_bandwidth=196e9,
    sources=ASCEND_910B.sources
    | {
        "peak_fp16": CLOUDMATRIX,
        "board_devices": "MindCluster 7.3, node affinity of the Atlas 900 A3 SuperPoD: eight modules of two dies",
        "board_bandwidth": f"UB plane, 392 GB/s in one direction for a package of two dies ({CLOUDMATRIX})",
        "server_devices": "as board_devices; parallel.server_devices must say 16",
        "server_bandwidth": "one board: as board_bandwidth",
        "cluster_bandwidth": "UB plane between the servers of a super pod, as inside one; between super pods, and "
        f"servers outside of one, RoCE with 25e9 ({CLOUDMATRIX}): give that as a hardware file",
    },
    uncertain=frozenset({"peak_fp32", "board_bandwidth", "cluster_bandwidth", "latency"}),
)

A100 = Device(
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
    # graph kernels are left out: their code generator needs a CUDA toolkit, and nobody has tried it
    fused=frozenset({"norm", "optimizer"}),
    saturates=False,
    sources={
        "peak_fp16": AMPERE,
        "peak_bf16": AMPERE,
        "peak_fp32": AMPERE + "; without TF32",
        "saturates": AMPERE + ": IEEE 754",
        "memory": AMPERE + ": 80 GB SXM",
        "usable_memory": "assumed: 4 GB for context and communication library",
        "memory_bandwidth": AMPERE,
        "board_devices": "DGX A100 datasheet: eight behind NVSwitch",
        "board_bandwidth": AMPERE + ": NVLink, 600 GB/s in both directions",
        "server_devices": "DGX A100 datasheet",
        "server_bandwidth": "one board: as board_bandwidth",
        "cluster_bandwidth": "DGX A100 datasheet: one 200 Gb/s port per device",
        "latency": ASSUMED_LATENCY,
    },
    uncertain=frozenset({"usable_memory", "latency"}),
)

HOPPER = "NVIDIA H100 Tensor Core GPU datasheet and Hopper whitepaper (2022)"

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
    sources=A100.sources
    | {
        "peak_fp16": f"{HOPPER}: SXM5, dense",
        "peak_bf16": f"{HOPPER}: SXM5, dense",
        "peak_fp32": f"{HOPPER}; without TF32",
        "saturates": f"{HOPPER}: IEEE 754",
        "memory": f"{HOPPER}: 80 GB SXM5",
        "memory_bandwidth": HOPPER,
        "board_devices": "DGX H100 datasheet: eight behind NVSwitch",
        "board_bandwidth": f"{HOPPER}: NVLink, 900 GB/s in both directions",
        "server_devices": "DGX H100 datasheet",
        "cluster_bandwidth": "DGX H100 datasheet: one 400 Gb/s port per device",
    },
    uncertain=A100.uncertain | {"peak_fp16", "peak_bf16"},  # the power limit lets no product come near
)

DEVICES = {device.name: device for device in (ASCEND_910, ASCEND_910B, ASCEND_910C, A100, H100)}


@dataclass(frozen=True)
class Chip:
    """A generation of Ascend chips, and the newest MindSpore that a published page names for it, with that page's CANN
    and Python. docs/hardware.md has the same table, the pages, and what they leave open.

    `driver` matches the driver's names of its parts (CANN's SoC versions). A run on it has the figures and kernels of
    `hardware`; without one, no page names training on it.
    """

    name: str
    driver: str
    hardware: str | None
    mindspore: str
    cann: str
    python: str


CHIPS = (
    # the first generation: 910A, 910B and the Pro and Premium parts
    Chip("Ascend 910", r"Ascend910(A|B|Pro[AB]|PremiumA)?", ASCEND_910.name, "2.2.14", "7.0.0", "3.7 to 3.9"),
    Chip("Ascend 910B", r"Ascend910B[1-4][\w-]*", ASCEND_910B.name, "2.9.0", "9.0.0", "3.11"),
    Chip("Ascend 910C", r"Ascend910_93\w*", ASCEND_910C.name, "2.9.0", "9.0.0", "3.11"),
    Chip("Ascend 310P", r"Ascend310P\w*", None, "2.2.14", "7.0.0", "3.7 to 3.9"),
)


def device(name: str) -> Device:
    """The device of that name; an unknown one is a `UserError`."""
    if name not in DEVICES:
        close = difflib.get_close_matches(name, DEVICES, 1, 0.5)
        remedy = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(DEVICES)}"
        raise UserError(f"parallel.hardware: '{name}' is unknown; {remedy}")
    return DEVICES[name]
