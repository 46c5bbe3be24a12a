"""The cores of each device's process. `npu-smi` is a program in the format of the driver's own, which no test has met:
docs/status.md."""

import os

import pytest

from ms_codegeex.runs.servers import cores as cores_module
from ms_codegeex.runs.servers.cores import core_blocks, core_list, cores_of_devices, listed_cores

NPU_SMI = """#!/bin/bash
case "$*" in
    "info -m")
        echo "    NPU ID              Chip ID             Chip Logic ID       Chip Name"
        for i in 0 1 2 3 4 5 6 7; do
            echo "    $i                   0                   $i                   Ascend 910B1"
            echo "    $i                   1                   -                   Mcu"
        done ;;
    "info -t board -i "*" -c 0")
        buses=(C1 01 C2 02 81 41 82 42)
        echo "        NPU ID                         : $5"
        echo "        Product Name                   : IT21DMDA"
        echo "        PCIe Bus Info                  : 0000:${buses[$5]}:00.0" ;;
    *) exit 1 ;;
esac
"""
NODES = {"c1": 6, "c2": 6, "01": 0, "02": 0, "81": 4, "82": 4, "41": 2, "42": 2}  # 24 cores each, from 24 * node


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of eight devices and 192 cores, with the driver's program and the kernel's files."""
    program = tmp_path / "bin/npu-smi"
    program.parent.mkdir()
    program.write_text(NPU_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    for bus, node in NODES.items():
        path = tmp_path / f"sys/bus/pci/devices/0000:{bus}:00.0/numa_node"
        path.parent.mkdir(parents=True)
        path.write_text(f"{node}\n")
    for node in range(8):
        path = tmp_path / f"sys/devices/system/node/node{node}/cpulist"
        path.parent.mkdir(parents=True)
        path.write_text(f"{24 * node}-{24 * node + 23}\n")
    monkeypatch.setattr(cores_module, "SYSFS", tmp_path / "sys")
    return tmp_path


def test_each_device_has_a_share_of_its_own_node(server):
    blocks = cores_of_devices(range(8), range(192))
    first = [144, 0, 156, 12, 96, 48, 108, 60]  # devices 0 and 2 are on the last node but one
    assert blocks == [list(range(start, start + 12)) for start in first]
    assert cores_of_devices([6], range(192)) == [list(range(96, 120))]  # alone on its node
    assert cores_of_devices([0, 2], range(100, 150)) == [[144, 145, 146], [147, 148, 149]]  # of cores that are ours


PROGRAM = ["no program", "it fails", "no text", "it hangs", "other devices"]
KERNEL = ["no node", "no file", "unknown node", "cores of others"]


@pytest.mark.parametrize("cause", [*PROGRAM, *KERNEL])
def test_without_an_answer_the_cores_are_shared_in_order(server, monkeypatch, cause):
    ours = list(range(192))
    if cause == "no program":
        (server / "bin/npu-smi").unlink()
    elif cause == "it fails":
        (server / "bin/npu-smi").write_text("#!/bin/bash\necho no driver >&2; exit 1\n")
    elif cause == "no text":
        (server / "bin/npu-smi").write_bytes(b"#!/bin/bash\nprintf '0 0 \\xc2\\xb2 x\\n\\xff'\n")
    elif cause == "it hangs":
        monkeypatch.setattr(cores_module, "SECONDS", 0.5)
        (server / "bin/npu-smi").write_text(NPU_SMI.replace('echo "        PCIe', 'exec sleep 300; echo "        PCIe'))
    elif cause == "other devices":
        monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5,6,7")
    elif cause == "no node":
        (server / "sys/bus/pci/devices/0000:41:00.0/numa_node").write_text("-1\n")
    elif cause == "no file":
        (server / "sys/bus/pci/devices/0000:41:00.0/numa_node").unlink()
    elif cause == "unknown node":
        (server / "sys/devices/system/node/node2/cpulist").unlink()
    else:
        ours = list(range(100))
    assert cores_of_devices(range(8), ours) == core_blocks(ours, 8)


def test_blocks_are_equal_and_disjoint():
    assert core_blocks(range(10), 3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert core_blocks([0], 2) == [[], []]


@pytest.mark.parametrize(("numbers", "text"), [([0, 1, 2, 5, 7, 8], "0-2,5,7-8"), ([4], "4"), ([], "")])
def test_lists_of_cores(numbers, text):
    assert core_list(numbers) == text and listed_cores(f"{text}\n") == numbers
