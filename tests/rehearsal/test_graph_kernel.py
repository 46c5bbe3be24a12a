"""Graph-kernel fusion joins kernels of a transformer block and hardly moves its results."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.commands import rehearse
from ms_codegeex.rehearsal import graph_kernel
from ms_codegeex.rehearsal.graph_kernel import count_kernels, graph_kernel_report, missing_programs

ACTORS = """\
%0 = kernel_graph_0_DataPrepareActor() op control(%kernel_graph_0_LoopCountActor)
%1 = kernel_graph_0_HostDSActor(param_x) op control(%0)
%2 = kernel_graph0:MatMul-op0(%1[0], %param_w)
\t# device context: CPU_0
\t# AID : 0_Default/kernel_graph0:MatMul-op0
%3 = 1_FusionActor(%2[0])
%4 = kernel_graph0:GraphKernel_Add_Rsqrt_split-op0(%3[0])
%5 = kernel_graph0:MatMul-op1(%4[0], %param_w)
%6 = kernel_graph_0_OutputActor(%5[0])
"""


@pytest.mark.slow
def test_fusion_lowers_the_number_of_kernels_and_keeps_the_results():
    if missing := missing_programs():
        pytest.skip(f"MindSpore's generator of kernels calls {', '.join(missing)}; not on this machine")
    report = graph_kernel_report()
    assert report.after.total() < 0.75 * report.before.total()
    assert report.fused_kernels > 10
    assert not [name for name in report.before if name.startswith(graph_kernel.FUSED)]
    # fusion leaves the products alone: six projections and two of attention, once forward and twice backward each
    for name, count in (("MatMul", 6 + 12), ("BatchMatMul", 2 + 4)):
        assert report.before[name] == report.after[name] == count
    assert 0 < report.largest_difference < 1e-4


def test_only_kernels_are_counted(tmp_path):
    (tmp_path / "actor_set").mkdir()
    (tmp_path / "actor_set" / "final_actor_set_kernel_graph_0.ir").write_text(ACTORS)
    (tmp_path / "actor_set" / "0_actor_set_pipeline_kernel_graph_0.ir").write_text(ACTORS)
    assert count_kernels(tmp_path) == {"MatMul": 2, "GraphKernel_Add_Rsqrt_split": 1}


def test_a_dump_without_kernels_is_not_taken_for_zero(tmp_path):
    with pytest.raises(RunFailure, match="no kernels in 0 final actor sets"):
        count_kernels(tmp_path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the package decorator is missing; run `pip install decorator`"):
        graph_kernel_report()


def test_a_process_that_fails_is_reported_with_the_end_of_its_log(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first\necho the reason\nexit 4\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RunFailure, match=r"^graph-kernel fusion off exited with status 4: first \| the reason$"):
        graph_kernel_report()


def test_programs_that_the_generator_needs_are_named(monkeypatch, capsys):
    monkeypatch.setattr(graph_kernel.shutil, "which", lambda name: None if name == "g++" else f"/usr/bin/{name}")
    assert missing_programs() == ["g++"]
    assert rehearse._graph_kernels(quiet=True) is None
    assert "graph-kernel fusion of one block was not tried: g++ not on PATH" in capsys.readouterr().err
