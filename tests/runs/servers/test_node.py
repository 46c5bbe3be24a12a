"""What one server of a job starts: processes, variables, cores, logs."""

import contextlib
import json
import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from cann_environment import NAMES, install_cann, sourced
from cluster_runs import config, values

import ms_codegeex
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.processes import import_variables
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.planning.communicators import buffer_variables
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.memory_check import check_ascend
from ms_codegeex.runs.servers import node as node_module
from ms_codegeex.runs.servers import supervision
from ms_codegeex.runs.servers.node import node_processes, resolve_node
from ms_codegeex.runs.servers.rank_table import make_rank_table, write_rank_table
from ms_codegeex.runs.servers.supervision import worker_command

BUFFERS = ("HCCL_BUFFSIZE", "MS_DEV_HCCL_CONF")


@pytest.fixture
def table(tmp_path):
    """A rank table of two servers."""
    servers = [(f"10.0.0.{11 + i}", {d: f"192.168.{100 + d}.{11 + i}" for d in range(8)}) for i in range(2)]
    write_rank_table(tmp_path / "table.json", make_rank_table(servers))
    return tmp_path / "table.json"


@pytest.fixture
def cores(monkeypatch):
    """Pretend that this machine has 192 cores, of which the first is not ours, and that the user has set nothing."""
    monkeypatch.setattr(node_module, "usable_cores", lambda: list(range(1, 192)))
    monkeypatch.setattr(node_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    for name in ("OMP_NUM_THREADS", "GLOG_v", "HCCL_CONNECT_TIMEOUT", "MS_NODE_TIMEOUT", *BUFFERS):
        monkeypatch.delenv(name, raising=False)


# --- the processes of one server ---


def processes(config, node, run, launcher="1", port=None):
    """As `run_workers` starts them."""
    return node_processes(config, node, run, worker_command(config, run, launcher), port)


@pytest.mark.parametrize(
    ("model", "lora", "program"),
    [
        ({}, {}, "rank"),
        ({"weights": "model"}, {}, "rank.from_model"),
        ({"weights": "model"}, {"rank": 4}, "rank.from_model"),
    ],
)
def test_only_a_run_from_a_model_has_the_program_that_reads_models(tmp_path, model, lora, program):
    run = {"devices": 1, "model": {"preset": "tiny", **model}, "lora": lora, "training": {"steps": 1}}
    small = build_run_config(run)
    (spec,) = processes(small, resolve_node(small), RunDirectory(tmp_path))
    assert spec.command[1:] == ("-m", f"ms_codegeex.runs.{program}", str(tmp_path), "1")


def test_processes_of_a_rank_table(table, cores, tmp_path):
    node = resolve_node(config(), table, 1)
    specs = processes(config(), node, RunDirectory(tmp_path / "run"), "17")
    assert [spec.environment["RANK_ID"] for spec in specs] == [str(rank) for rank in range(8, 16)]
    assert [spec.environment["DEVICE_ID"] for spec in specs] == [str(device) for device in range(8)]
    for i, spec in enumerate(specs):
        expected = {
            "MS_ROLE": "MS_WORKER",
            "MS_NODE_ID": str(8 + i),
            "MS_SCHED_HOST": "10.0.0.11",  # the first server of the table
            "MS_SCHED_PORT": "8118",
            "MS_WORKER_NUM": "16",
            "RANK_SIZE": "16",
            "HCCL_CONNECT_TIMEOUT": "2000",
            "GLOG_v": "3",
            "MS_NODE_TIMEOUT": "600",
            "ASCEND_GLOBAL_LOG_LEVEL": "3",
            "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
            "OMP_NUM_THREADS": "23",
        }
        assert expected.items() <= spec.environment.items()
        assert spec.command[:3] == ("/usr/bin/taskset", "-c", f"{1 + 23 * i}-{23 + 23 * i}")
        assert spec.command[3:] == (sys.executable, "-m", "ms_codegeex.runs.rank", str(tmp_path / "run"), "17")
        assert spec.log == tmp_path / "run" / "logs" / f"worker_{8 + i}.log" and spec.is_worker
    assert len({spec.directory for spec in specs}) == 8  # the compiler leaves files in the working directory


def test_ranks_of_a_table_meet_at_the_scheduler_of_server_0(table, cores, tmp_path):
    def scheduler(place, master=None):
        node = resolve_node(config(), place, 0, None, master)
        first, *workers = processes(config(), node, RunDirectory(tmp_path))
        assert len(workers) == 8 and not first.is_worker and first.environment["MS_ROLE"] == "MS_SCHED"
        assert {spec.environment["MS_SCHED_HOST"] for spec in workers} == {first.environment["MS_SCHED_HOST"]}
        return first.environment["MS_SCHED_HOST"], first.environment["MS_SCHED_PORT"]

    assert scheduler(table) == ("10.0.0.11", "8118")
    assert scheduler(table, "10.0.0.12:9000") == ("10.0.0.12", "9000")
    assert scheduler(table, "localhost:9000") == ("127.0.0.1", "9000")  # MindSpore's scheduler takes no names
    named = tmp_path / "named.json"
    servers = [(f"{name}.invalid", {d: f"10.0.{i}.{d}" for d in range(8)}) for i, name in enumerate("ab")]
    write_rank_table(named, make_rank_table(servers))
    with pytest.raises(UserError, match=r"^--master-addr: 'a.invalid' cannot be resolved .*; give the HOST:PORT of"):
        scheduler(named)
    assert scheduler(named, "10.0.0.11:8118") == ("10.0.0.11", "8118")


def test_devices_are_those_of_the_table(cores, tmp_path):
    write_rank_table(tmp_path / "t.json", make_rank_table([("a", {4: "10.0.0.4", 6: "10.0.0.6"})]))
    two = config(devices=2, tensor=2)
    node = resolve_node(two, tmp_path / "t.json")
    assert node.needs_port
    scheduler, *specs = processes(two, node, RunDirectory(tmp_path), port=21000)
    assert (scheduler.environment["MS_SCHED_HOST"], scheduler.environment["MS_SCHED_PORT"]) == ("127.0.0.1", "21000")
    assert [(s.environment["RANK_ID"], s.environment["DEVICE_ID"]) for s in specs] == [("0", "4"), ("1", "6")]


def test_users_variables_win_and_pipelines_wait_longer(table, cores, monkeypatch, tmp_path):
    pipeline = config(tensor=4, pipeline=2)
    for seconds in ("6000", "60"):
        (spec, *_) = processes(pipeline, resolve_node(pipeline, table, 0), RunDirectory(tmp_path))
        assert spec.environment["HCCL_CONNECT_TIMEOUT"] == seconds
        monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "60")


def test_the_runs_own_settings_reach_every_rank(table, cores, tmp_path):
    settings = {"interface": "eth0", "start_timeout": 900, "connect_timeout": 300, "execute_timeout": 60}
    chosen = build_run_config({**values(), "cluster": {**settings, "deterministic": True}})
    expected = {"HCCL_SOCKET_IFNAME": "eth0", "HCCL_CONNECT_TIMEOUT": "300", "HCCL_EXEC_TIMEOUT": "60"}
    expected["HCCL_DETERMINISTIC"] = "true"
    for spec in processes(chosen, resolve_node(chosen, table, 0), RunDirectory(tmp_path)):
        assert spec.environment.items() >= {**expected, "MS_TOPO_TIMEOUT": "900"}.items()
    (spec,) = processes(chosen, resolve_node(chosen, None, 0, 2, "10.0.0.11:8118"), RunDirectory(tmp_path))
    assert spec.environment.items() >= expected.items() and "--cluster_time_out=900" in spec.command
    (spec, *_) = processes(config(), resolve_node(config(), table, 0), RunDirectory(tmp_path))
    assert spec.environment["HCCL_EXEC_TIMEOUT"] == "7200"  # the rank that compiles longest may take long
    assert not spec.environment.keys() & expected.keys() - {"HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT"}


def test_what_watches_links_and_arithmetic_reaches_every_rank(table, cores, tmp_path, monkeypatch):
    def environment(**cluster):
        chosen = build_run_config({**values(), "cluster": cluster})
        _, *specs = processes(chosen, resolve_node(chosen, table, 0), RunDirectory(tmp_path))
        (found,) = {tuple(spec.environment.get(name) for name in names) for spec in specs}
        return found

    names = ("MS_ENABLE_THM", "MS_NPU_ASD_CONFIG", "MS_SUBMODULE_LOG_v")
    assert environment() == ("{HCCL_WATCHDOG:1}", None, None)
    assert environment(watchdog=False) == ("{HCCL_WATCHDOG:0}", None, None)
    asked, logged = "enable:true,with_checksum:true", "{ME:2,DEBUG:2}"
    assert environment(silent_check=True) == ("{HCCL_WATCHDOG:1}", asked, logged)
    monkeypatch.setenv("MS_NPU_ASD_CONFIG", "enable:true,strikes_num:1")
    assert environment(silent_check=True)[1] == "enable:true,strikes_num:1"


def test_communicators_get_the_buffers_that_are_planned(table, cores, tmp_path, monkeypatch):
    def variables(chosen):
        node = resolve_node(chosen, table, 1)
        specs = processes(chosen, node, RunDirectory(tmp_path))
        found = [{name: spec.environment.get(name) for name in BUFFERS} for spec in specs]
        assert len(specs) == 8 and found == found[:1] * 8  # all of a server: a communicator's members must agree
        return found[0]

    planned = variables(config())
    assert planned == buffer_variables(config(), range(8, 16)) and "8-15:1=200MB" in planned["MS_DEV_HCCL_CONF"]
    alike = build_run_config({**values(), "cluster": {"buffer_size": 64}})
    assert variables(alike) == {"HCCL_BUFFSIZE": "64", "MS_DEV_HCCL_CONF": None}
    monkeypatch.setenv("HCCL_BUFFSIZE", "120")
    inherited = {"HCCL_BUFFSIZE": None, "MS_DEV_HCCL_CONF": None}
    assert variables(config()) == variables(alike) == inherited


def test_msrun_takes_cores_with_gaps(cores, tmp_path, monkeypatch):
    """As nodes of cores with two threads have them. msrun's own parser reads the flag."""
    from mindspore.parallel.cluster import run as msrun

    own = [[24 * d, 24 * d + 1, 100 + d] for d in range(8)]
    given = create_autospec(node_module.cores_of_devices, return_value=own)
    monkeypatch.setattr(node_module, "cores_of_devices", given)
    one = config(devices=8)
    (spec,) = processes(one, resolve_node(one), RunDirectory(tmp_path), port=21000)
    monkeypatch.setattr(sys, "argv", ["msrun", *spec.command[1:]])
    assert msrun.get_args().bind_core["device7"] == ["168-169", "107"]
    assert spec.environment["OMP_NUM_THREADS"] == "3"


def test_servers_that_are_named_meet_at_the_first_ones_address(cores, tmp_path):
    servers = [(f"node_{i}", {d: f"192.168.{100 + d}.{11 + i}" for d in range(8)}) for i in range(2)]
    written = make_rank_table(servers).to_json()
    written["server_list"][0]["host_ip"] = "172.16.0.100"
    (tmp_path / "table.json").write_text(json.dumps(written))
    assert resolve_node(config(), tmp_path / "table.json", 1).master == ("172.16.0.100", 8118)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("interface", text) for text in ("eth 0", "$(id)", "-x", "e" * 1000)),
        *(("connect_timeout", 60), ("start_timeout", 0), ("start_timeout", 2**31), ("execute_timeout", 10**12)),
    ],
)
def test_settings_of_a_cluster_that_the_library_would_refuse(key, value):
    with pytest.raises(UserError, match=f"^cluster.{key}: "):
        build_run_config({"cluster": {key: value}})


def test_too_few_cores_pin_nothing(table, monkeypatch, tmp_path):
    monkeypatch.setattr(node_module, "usable_cores", lambda: [0, 1])
    for spec in processes(config(), resolve_node(config(), table, 0), RunDirectory(tmp_path))[1:]:
        assert spec.command[0] == sys.executable and "not pinned (2 cores for 8 processes)" in spec.label


def test_msrun_without_a_rank_table(cores, tmp_path, monkeypatch):
    """Its own parser, on what we give it."""
    run = pytest.importorskip("mindspore.parallel.cluster.run")
    (spec,) = processes(config(), resolve_node(config(), None, 1, 2, "10.0.0.11:8118"), RunDirectory(tmp_path))
    assert Path(spec.command[0]).name == "msrun" and not spec.is_worker
    assert [log.name for log in spec.worker_logs] == [f"worker_{rank}.log" for rank in range(8, 16)]
    monkeypatch.setattr(sys, "argv", list(spec.command))
    arguments = run.get_args()
    assert (arguments.worker_num, arguments.local_worker_num, arguments.node_rank) == (16, 8, 1)
    assert (arguments.master_addr, arguments.master_port, arguments.join) == ("10.0.0.11", 8118, True)
    assert (arguments.log_dir, arguments.cluster_time_out) == (f"{tmp_path}/logs", 600)
    assert list(arguments.bind_core) == [f"device{i}" for i in range(8)]
    assert (arguments.bind_core["device1"], arguments.bind_core["device7"]) == (["24-46"], ["162-184"])
    worker = f"python -m ms_codegeex.runs.rank {tmp_path} 1"
    assert [arguments.task_script, *arguments.task_script_args] == worker.split()


def test_one_machine_needs_no_msrun_on_a_cpu(tmp_path):
    """The quick start: a scheduler and the ranks at a port of our own, no pinning, no variables of Ascend."""
    small = build_run_config({"devices": 2, "model": {"preset": "tiny"}, "training": {"steps": 1}})
    node = resolve_node(small)
    assert node.needs_port
    scheduler, *ranks = processes(small, node, RunDirectory(tmp_path), "1", 21000)
    assert not scheduler.is_worker and scheduler.log == tmp_path / "logs/scheduler.log"
    shared = {"MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "21000", "MS_WORKER_NUM": "2", "RANK_SIZE": "2"}
    retries = {"MS_RETRY_INTERVAL_LOWER": "0", "MS_RETRY_INTERVAL_UPPER": "1"}  # not for thousands of ranks
    names = {"GLOG_v", "MS_NODE_TIMEOUT", "MS_TOPO_TIMEOUT", "OMP_NUM_THREADS", *import_variables(), *shared, *retries}
    assert scheduler.environment.items() >= {**shared, **retries, "MS_ROLE": "MS_SCHED"}.items()
    for rank, spec in enumerate(ranks):
        assert spec.is_worker and spec.command == (sys.executable, "-m", "ms_codegeex.runs.rank", str(tmp_path), "1")
        own = {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank), "DEVICE_ID": str(rank)}
        assert set(spec.environment) == names | set(own)
        assert spec.environment.items() >= {**shared, **retries, **own}.items()


def test_one_gpu_server_goes_through_msrun(tmp_path, monkeypatch):
    monkeypatch.setattr(node_module, "check_kind", lambda config: None)
    values = {"device": "gpu", "devices": 2, "model": {"preset": "tiny"}, "training": {"steps": 1}}
    small = build_run_config(values)
    (spec,) = processes(small, resolve_node(small), RunDirectory(tmp_path), "1", 21000)
    words = f"""--worker_num=2 --local_worker_num=2 --master_addr=127.0.0.1 --master_port=21000
        --log_dir={tmp_path}/logs --cluster_time_out=600 --join=True --tail_worker_log=2
        python -m ms_codegeex.runs.rank {tmp_path} 1"""
    assert Path(spec.command[0]).name == "msrun"
    assert [word for word in spec.command[1:] if not word.startswith("--bind_core")] == words.split()


def test_workers_keep_what_set_env_of_cann_has_set(tmp_path, table, cores, monkeypatch):
    """Its libraries, its Python modules, which MindSpore's plugin imports, and its folders."""
    monkeypatch.setattr(node_module.shutil, "which", lambda name: None)
    monkeypatch.setattr(supervision, "program_of", lambda config: "te")
    set_env = install_cann(tmp_path / "cann")
    variables = sourced(set_env)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (set_env.parent / "python/site-packages/te.py").write_text(
        "import json, os, ms_codegeex; print(json.dumps([__file__, ms_codegeex.__file__, dict(os.environ)]))"
    )
    run = RunDirectory(tmp_path / "a run")
    specs = processes(config(), resolve_node(config(), table, 1), run)
    specs[0].start().wait()
    file, package, seen = json.loads(specs[0].log.read_text())
    assert file == str(set_env.parent / "python/site-packages/te.py") and package == ms_codegeex.__file__
    for spec in (*specs, *processes(config(), resolve_node(config(), None, 1, 2, "a:8118"), run)):
        for environment in (spec.full_environment(), seen):
            for name in (*NAMES, "LD_LIBRARY_PATH"):
                assert environment[name] == variables[name] != ""
            assert environment["PYTHONPATH"].endswith(variables["PYTHONPATH"])
            assert environment["PATH"].endswith(variables["PATH"])


ON_CPU = {"device": "cpu", "devices": 2, "tensor": 1}
TWO = {"nodes": 2, "node_rank": 0}
TABLE = {"table": True, "node_rank": 0}
REFUSED = {
    "tensor on a CPU": ({"device": "cpu", "devices": 8}, {}, "parallel.tensor: 8 on device: cpu"),
    "pipeline on a CPU": ({**ON_CPU, "pipeline": 2}, {}, "parallel.pipeline: 2"),
    "optimizer shards on a CPU": ({**ON_CPU, "optimizer_shard": 2}, {}, "parallel.optimizer_shard: 2"),
    "servers on a CPU": (ON_CPU, {"nodes": 2}, "--nodes: 2 servers, but device"),
    "too many devices": ({}, {}, "devices: 16 on 1 server of 8 (parallel.server_devices); set devices=8, or give"),
    "unequal servers": ({}, {"nodes": 3}, "--nodes: 3 servers cannot share devices: 16 equally; change one of"),
    "no servers": ({"devices": 8}, {"nodes": 0}, "--nodes: 0 servers cannot share devices: 8"),
    "tensor over servers": ({}, {**TWO, "nodes": 4, "master": "a:8118"}, "of 8 (parallel.tensor); use fewer servers"),
    "no node rank": ({}, {"nodes": 2, "master": "a:8118"}, "--node-rank: missing"),
    "node rank": ({}, {**TWO, "node_rank": 2, "master": "a:8118"}, "--node-rank: found 2, expected 0 to 1"),
    "negative node rank": ({}, {**TWO, "node_rank": -1, "master": "a:8118"}, "--node-rank: found -1"),
    "no address": ({}, TWO, "--master-addr: missing"),
    "no port": ({}, {**TWO, "master": "head"}, "--master-addr: found 'head'"),
    "blank in a host": ({}, {**TWO, "master": "a b:8118"}, "--master-addr: found 'a b:8118'"),
    "low port": ({}, {**TWO, "master": "head:0080"}, "--master-addr: found 'head:0080'"),
    "bad address": ({}, {**TWO, "master": "10.0.0:8118"}, "--master-addr: '10.0.0' is not"),
    "address of table": ({}, {**TABLE, "master": "a"}, "--master-addr: found 'a'"),
    "gpu table": ({"device": "gpu"}, TABLE, "--rank-table: rank tables are for Ascend"),
    "nodes of table": ({}, {**TABLE, "nodes": 3}, "--nodes: 3, but"),
    "rank of table": ({}, {"table": True}, "--node-rank: missing"),
    "size of table": ({"devices": 8}, TABLE, "table.json: devices: 8, but the rank table has 16"),
}


@pytest.mark.parametrize("keys, flags, message", REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused(table, keys, flags, message):
    path = table if "table" in flags else None
    with pytest.raises(UserError) as error:
        resolve_node(config(**keys), path, **{name: flag for name, flag in flags.items() if name != "table"})
    text = str(error.value)
    assert message in text and "\n" not in text
    if "on a CPU" in message:
        assert "rehearse it with `ms-codegeex rehearse`, or set device=ascend" in text


def test_addresses_of_the_scheduler():
    for host, port in (("head.cluster", 8118), ("[fe80::1]", 65535), ("10.0.0.11", 1024)):
        assert resolve_node(config(), None, 0, 2, f"{host}:{port}").master == (host.strip("[]"), port)


def test_recovery_of_single_ranks_is_not_used_and_said(monkeypatch, cores, tmp_path, capsys):
    """msrun would ask for MindCluster's agent, and nobody would answer its callbacks."""
    monkeypatch.setenv("MS_ENABLE_TFT", "{TTP:1,ARF:1}")
    (spec,) = processes(config(), resolve_node(config(), None, 0, 2, "10.0.0.11:8118"), RunDirectory(tmp_path))
    assert spec.environment["MS_ENABLE_TFT"] == ""
    with contextlib.suppress(UserError):  # no CANN here
        check_ascend(config())
    assert "MS_ENABLE_TFT={TTP:1,ARF:1} of the environment is not used" in capsys.readouterr().err
