"""Reports on hardware: lines as MindSpore 2.9 and CANN write them, in logs of stand-in workers."""

from dataclasses import replace
from unittest.mock import create_autospec

import pytest
from run_processes import workers_of_programs

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import load_config
from ms_codegeex.runs.files.beats import Beats
from ms_codegeex.runs.files.hardware_reports import SilentCheckWatch
from ms_codegeex.runs.files.records import read_events
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.rank import __main__ as rank
from ms_codegeex.runs.rank import joining
from ms_codegeex.runs.servers import supervision

# from MindSpore's tutorial on silent detection, and the texts in its libmindspore_tools.so
HEAD = "[WARNING] ME(29,7f,python):2025-08-26-10:46:26.665.782 [mindspore/ccsrc/tools/silent_detect/silent_detector.cc:"
STRIKE = "Silent detect strike detected: StrikeRecord{timestamp: 1756176386, name: fc1.weight, value: inf}"
OUT = "Feature value detection strikes out on rank 1, strikes_num: 3, CheckSum will be enabled globally."
WRONG = "CheckSum detects MatMul error on rank 1"
RESULT = "Global CheckSum result is 1"
NOISE = "Feature value detection works with CheckSum, strikes_num: 3, strikes_window: 480 min"


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.logs.mkdir(parents=True)
    directory.add_event("start")
    return directory


def lines(*texts):
    return "".join(f"{HEAD}109] SilentDetect] {text}\n" for text in texts)


def found(run):
    return [(event["rank"], event["message"]) for event in read_events(run.events) if event["event"] == "silent check"]


def test_each_finding_becomes_one_event(run):
    logs = [run.logs / f"worker_{rank}.log" for rank in (0, 1)]
    watch = SilentCheckWatch(run)
    watch.look()  # there are no logs yet
    logs[0].write_text(lines(NOISE, RESULT))
    logs[1].write_text(lines(NOISE, STRIKE, OUT, WRONG, RESULT) + HEAD + "110] X] " + STRIKE[:20])
    watch.look()
    assert sorted(found(run)) == [(0, RESULT), (1, WRONG), (1, OUT), (1, STRIKE)]
    watch.look()
    assert len(found(run)) == 4
    with logs[1].open("a") as log:
        log.write(STRIKE[20:] + "\n")
    watch.look()
    assert found(run)[4:] == [(1, STRIKE)]


@pytest.mark.parametrize("asked", [True, False])
def test_findings_are_noticed_until_the_run_ends(run, monkeypatch, asked):
    config = RunConfig()
    config = replace(config, cluster=replace(config.cluster, silent_check=asked))
    last_words = f"print({lines(STRIKE)!r}, flush=True); open('done_0.json', 'w')"
    supervision.run_workers(config, run, None, workers_of_programs(run, monkeypatch, last_words))
    assert found(run) == ([(0, STRIKE)] if asked else [])


@pytest.mark.parametrize(
    "text,cause",
    [
        ("[ERROR] X] Hcom Monitor thread got hccl error,rank: 3, group name:2-6\n", "watchdog.*cluster.watchdog"),
        ("- Ascend Error Message: EI0002: 2026 The wait execution of the Notify register\n", "execute_timeout.*EI0002"),
        ("EI0006: Getting socket times out. Reason: …\n", "connect_timeout.*EI0006"),
        (  # as MindSpore 2.9 ended when the other server did not come
            "RuntimeError: Failed to initialize distributed job cluster because some processes in the cluster are not "
            "successfully spawned. You can run command: 'grep -rn -E …\n",
            "cluster.start_timeout.*--master-addr",
        ),
    ],
)
def test_a_known_cause_is_in_the_first_line_of_a_failure(run, monkeypatch, text, cause):
    """`monitor` shows that line."""
    node = workers_of_programs(run, monkeypatch, f"print({text + 'more' * 99!r}); raise SystemExit(3)")
    with pytest.raises(RunFailure, match=f"^[^\n]*rank 0 exited with status 3; [^\n]*{cause}[^\n]*; last lines of"):
        supervision.run_workers(RunConfig(), run, None, node)


def test_a_rank_is_tested_under_load_as_soon_as_it_has_joined(run, monkeypatch):
    """`test_ascend_start.py` has the real test."""
    write_config(run, config := load_config(None, ["training.steps=1", "cluster.stress_check=cores"]))
    test = create_autospec(joining.stress_check, side_effect=UserError("a fault"))
    monkeypatch.setattr(joining, "join", create_autospec(joining.join, return_value=(config, 7, None)))
    monkeypatch.setattr(joining, "stress_check", test)
    with pytest.raises(UserError, match="a fault"):
        rank.run(run, None, Beats(run.beats / "0.json"))
    test.assert_called_once_with(config, run, 7)


def test_other_devices_are_not_tested(run):
    joining.stress_check(load_config(None, ["training.steps=1", "cluster.stress_check=all"]), run, 0)
    assert [event["event"] for event in read_events(run.events)] == ["start"]
