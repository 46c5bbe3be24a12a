"""Job files ask for what the configuration needs, and what they run is what `train` understands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cann_environment import install_cann
from cluster_runs import config, values
from conftest import ROOT

from ms_codegeex import cli
from ms_codegeex.base.errors import UserError
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.jobs.job_files import job_file

TABLE = ROOT / "configs" / "rank_tables" / "2_servers_16_devices.json"


def test_slurm_file(tmp_path):
    text = job_file("slurm", config(), ["--config", "it's.yaml", "training.steps=4"])
    assert "#SBATCH --nodes=2\n" in text
    assert submitted(tmp_path, text) == (
        "<--config><it's.yaml><training.steps=4><--resume><auto><--nodes><2><--master-addr><head:8118><--node-rank><1>"
    )


def submitted(tmp_path, text):
    """What `train` gets on the second of two servers."""
    stand_ins = {
        "scontrol": "echo head\necho second\n",
        "srun": 'while [[ $1 == --* ]]; do shift; done\nSLURM_NODEID=1 "$@"\n',
        "ms-codegeex": '[[ $1 == train ]] && printf "<%s>" "${@:2}"\n',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "head,second"}
    result = subprocess.run(["bash"], input=text, text=True, capture_output=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def printed(tmp_path, capsys, monkeypatch):
    """The job file, or the error, of a command line for two servers."""
    monkeypatch.chdir(tmp_path)
    Path("it's.yaml").write_text(yaml.safe_dump(values()))

    def print_it(*words, kind="slurm"):
        cli.main(["train", "--config", "it's.yaml", "--job", kind, *words])
        found = capsys.readouterr()
        return found.out or found.err

    return print_it


def test_a_job_hands_on_its_rank_table_instead_of_an_address(tmp_path, printed):
    text = printed("--rank-table", str(TABLE), "training.steps=4")
    assert "# The servers of the rank table" in text
    expected = f"<--config><it's.yaml><training.steps=4><--rank-table><{TABLE}><--resume><auto><--node-rank><1>"
    assert submitted(tmp_path, text) == expected
    job = yaml.safe_load(printed("--rank-table", str(TABLE), kind="volcano"))
    (container,) = job["spec"]["tasks"][0]["template"]["spec"]["containers"]
    assert container["command"][2].splitlines()[1:] == [
        f"""train=(ms-codegeex train --config 'it'"'"'s.yaml' --rank-table {TABLE} --resume auto """
        '--node-rank "$VC_TASK_INDEX")',
        'exec "${train[@]}"',
    ]


@pytest.mark.parametrize("words", [["--resume", "runs/my old"], ["checkpoint.resume=runs/my old"]], ids=" ".join)
def test_a_job_begins_where_it_was_asked_to_and_a_requeued_one_goes_on(tmp_path, printed, words):
    text = printed(*words, "output=runs/it's new")
    assert str(tmp_path) not in text
    assert "<--resume><runs/my old><--nodes>" in submitted(tmp_path, text)
    (tmp_path / "runs" / "it's new" / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert "<--resume><auto><--nodes>" in submitted(tmp_path, text)


@pytest.mark.parametrize(
    ("output", "name"), [("2026", "ms-codegeex-2026"), ("日", "ms-codegeex"), ("x" * 80, "x" * 40)]
)
def test_the_name_of_a_job_is_one_for_kubernetes(printed, output, name):
    assert yaml.safe_load(printed(f"output='{output}'", kind="volcano"))["metadata"]["name"] == name


def test_a_job_hands_on_what_it_was_given(tmp_path, printed):
    words = ("--from", "a😀", "--allow-change", "training.dropout", "--resume", "b😀", "data.held_out.C++=d")
    parsed = cli.parse(["train", *re.findall("<(.*?)>", submitted(tmp_path, printed(*words)))])
    assert (parsed.weights, parsed.resume, parsed.allow_change) == ("a😀", "b😀", ["training.dropout"])
    assert parsed.overrides == ["data.held_out.C++=d"] and (parsed.nodes, parsed.node_rank) == (2, 1)


def test_as_many_nodes_as_the_job_asks_for_are_nothing_new(printed):
    assert printed("--nodes", "2") == printed()
    assert printed("--devices", "32", "--nodes", "4").count("--nodes 4") == 1


@pytest.mark.parametrize(
    "words, message",
    [
        ("--nodes 3", "--nodes: 3, but devices: 16 are 2 servers of 8 (parallel.server_devices); leave it out"),
        ("--corpus .", "--corpus: has no meaning in a job file: the servers need the same prepared dataset; prepare"),
        ("--node-rank 0", "--node-rank: has no meaning in a job file: the job gives every server its own number; leav"),
        ("--master-addr a:8118", "--master-addr: has no meaning in a job file: the job finds the address"),
        ("--dry-run", "--dry-run: has no meaning in a job file: --job starts nothing; leave it out"),
        ("--json", "--json: has no meaning in a job file: the figures of a job are in summary.json"),
        ("--rank-table TABLE --devices 32", "TABLE: devices: 32, but the rank table has 16"),
        (
            "--rank-table TABLE parallel.server_devices=16",
            "--rank-table: TABLE has 2 servers, a job of devices: 16 asks for 1 of 16 (parallel.server_devices)",
        ),
    ],
)
def test_flags_that_make_no_sense_in_a_job_are_refused(printed, words, message):
    words, message = (text.replace("TABLE", str(TABLE)) for text in (words, message))
    text = printed(*words.split())
    assert text.startswith(f"ms-codegeex train: {message}") and text.count("\n") == 1


def test_volcano_file():
    job = yaml.safe_load(job_file("volcano", config("runs/My_Run"), ["--config", "c.yaml"]))
    assert job["metadata"]["name"] == "my-run" and re.fullmatch(r"[a-z0-9-]+", job["metadata"]["name"])
    (task,) = job["spec"]["tasks"]
    assert job["spec"]["minAvailable"] == task["replicas"] == 2
    (container,) = task["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"huawei.com/Ascend910": 8}
    assert f'--nodes 2 --master-addr "${{VC_{task["name"].upper()}_HOSTS%%,*}}:8118"' in container["command"][2]
    names = {volume["name"] for volume in task["template"]["spec"]["volumes"]}
    assert names == {mount["name"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize(
    "hardware, size, label, server, arch",
    [  # from MindCluster's page on YAML files and its samples
        ("ascend910", 8, "ascend-910", "module", "huawei-arm"),
        (None, 8, "ascend-910", "module", "huawei-arm"),
        ("ascend910", 4, "ascend-910", "half", "huawei-arm"),
        ("ascend910b", 8, "ascend-910b", "module-910b-8", "huawei-arm"),
        ("ascend910b", 16, "ascend-910b", "module-910b-16", "huawei-x86"),
        ("ascend910b", 2, "ascend-910b", "TYPE", "huawei-arm"),
        ("ascend910c", 16, "ascend-910b", "module-a3-16-super-pod", "huawei-arm"),
    ],
)
def test_labels_and_mounts_are_those_of_mindcluster(hardware, size, label, server, arch):
    job = yaml.safe_load(job_file("volcano", config(tensor=min(size, 8), server_devices=size, hardware=hardware), []))
    template = job["spec"]["tasks"][0]["template"]
    assert job["metadata"]["labels"] == {"ring-controller.atlas": label, "fault-scheduling": "grace"}
    assert template["metadata"]["labels"] == {"ring-controller.atlas": label}
    assert template["spec"]["nodeSelector"] == {"accelerator-type": server, "host-arch": arch}
    (container,) = template["spec"]["containers"]
    (variable,) = container["env"]
    assert variable["name"] == "ASCEND_VISIBLE_DEVICES"
    (resource,) = container["resources"]["limits"]
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": f"metadata.annotations['{resource}']"}}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"] for volume in template["spec"]["volumes"] if "hostPath" in volume}
    driver = {"/usr/local/Ascend/driver", "/usr/local/Ascend/add-ons", "/usr/local/dcmi"}
    files = {"/usr/local/bin/npu-smi", "/etc/hccn.conf", "/etc/localtime"}
    assert {path["path"] for path in volumes.values()} == driver | files
    assert {path["path"] for path in volumes.values() if path.get("type") == "File"} == files
    for name, path in volumes.items():  # MindCluster: the path in the container must be that on the server
        assert mounts[name] == {"name": name, "mountPath": path["path"], "readOnly": True}


@pytest.mark.parametrize(
    "devices, roles", [(8, {"Worker": 1}), (16, {"Scheduler": 1, "Worker": 1}), (32, {"Scheduler": 1, "Worker": 3})]
)
def test_an_ascend_job_has_as_many_pods_as_servers(devices, roles):
    """The Scheduler is server 0, with devices of its own."""
    job = yaml.safe_load(job_file("acjob", config(devices=devices), []))
    assert job["metadata"]["labels"]["framework"] == "mindspore"
    assert job["spec"]["runPolicy"]["schedulingPolicy"]["minAvailable"] == devices // 8
    specs = job["spec"]["replicaSpecs"]
    assert {name: each["replicas"] for name, each in specs.items()} == roles
    for each in specs.values():
        (container,) = each["template"]["spec"]["containers"]
        assert container["name"] == "ascend" and container["resources"]["limits"] == {"huawei.com/Ascend910": 8}


def test_a_job_for_gpus_has_nothing_of_ascend():
    text = job_file("volcano", config(device="gpu"), [])
    assert "nvidia.com/gpu: 8" in text and not re.search("(?i)ascend|npu|atlas|huawei", text.split("api", 1)[1])


@pytest.mark.parametrize("place", ["cann", "ascend-toolkit"])
@pytest.mark.parametrize("kind", ["volcano", "acjob"])
def test_the_command_of_a_pod_starts_its_part_of_the_run(tmp_path, place, kind):
    """The second of two pods, with the variables of Volcano's plugins `env` and `svc`, or of Ascend Operator: CANN's
    variables are set, and `train` lists the server's own processes."""
    home = install_cann(tmp_path / "usr" / place).parent
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values(tmp_path / "a run")))
    job = yaml.safe_load(job_file(kind, config(), ["--config", str(tmp_path / "run.yaml"), "--dry-run"]))["spec"]
    template = job["tasks"][0]["template"] if kind == "volcano" else job["replicaSpecs"]["Worker"]["template"]
    (container,) = template["spec"]["containers"]
    command = [word.replace("/usr/local/Ascend", str(tmp_path / "usr")) for word in container["command"]]
    pods = {"VC_TASK_INDEX": "1", "VC_SERVER_HOSTS": "a-server-0.a,a-server-1.a", "VC_SERVER_NUM": "2"}
    if kind == "acjob":
        pods = {"MS_NODE_RANK": "1", "MS_SCHED_HOST": "a-server-0.a", "MS_SCHED_PORT": "8118", "MS_ROLE": "MS_WORKER"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:/image", **pods}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    words = " ".join(result.stdout.split())
    assert " --worker_num=16 --local_worker_num=8 --node_rank=1 --master_addr=a-server-0.a --master_port=8118 " in words
    path = re.search(r" PYTHONPATH=(\S+)", words)[1].split(":")
    assert path.index(str(ROOT)) < path.index(f"{home}/python/site-packages") < path.index("/image")


def test_a_job_of_one_server_is_one_of_one(tmp_path):
    text = job_file("slurm", config(devices=4, tensor=4), ["--config", "c.yaml"])
    assert "#SBATCH --nodes=1\n" in text and "--nodes 1 " in text


@pytest.mark.parametrize(
    "kind, keys, message",
    [
        ("slurm", {"device": "cpu", "devices": 1, "tensor": 1}, "--job: device: cpu"),
        ("slurm", {"devices": 24, "tensor": 4, "server_devices": 16}, "devices: 24 do not fill whole servers of 16"),
        ("volcano", {"hardware": "a100"}, "a100 is not what device: ascend runs on"),
        ("acjob", {"device": "gpu"}, "^--job: acjob is for Ascend, device is gpu; choose volcano, or set device"),
    ],
)
def test_jobs_that_make_no_sense_are_refused(kind, keys, message):
    run = values(**keys)
    run["training"]["global_batch"] = 768
    with pytest.raises(UserError, match=message):
        job_file(kind, build_run_config(run), [])
