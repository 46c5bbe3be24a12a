"""`ms-codegeex rank-table` as an operator runs it."""

import json

import pytest
from conftest import ROOT, command, command_here, write_config

HCCN = "".join(f"address_{i}=192.168.{100 + i}.101\nnetmask_{i}=255.255.255.0\n" for i in range(8))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """Relative paths are those of the test's directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hccn(tmp_path):
    (tmp_path / "hccn.conf").write_text(HCCN)
    return tmp_path / "hccn.conf"


def test_make_merge_check(tmp_path, hccn):
    other = ",".join(f"192.168.{100 + i}.102" for i in range(8))
    made = command("rank-table", "make", "--server", "10.0.0.11=hccn.conf", "--output", "a.json", cwd=tmp_path)
    assert made.stdout == "a.json: 1 server, 8 devices, ranks 0 to 7\n", made.stderr
    words = ("--server", f"10.0.0.12={other}", "--output", tmp_path / "b.json")
    command_here("rank-table", "make", *words, status=0)
    for name, more in (("a.json", {"job": "x", "id": 1}), ("b.json", {"job": "x", "id": 2})):
        (tmp_path / name).write_text(json.dumps(json.loads((tmp_path / name).read_text()) | more))
    merged = command_here("rank-table", "merge", "a.json", "b.json", "--output", "ab.json", "--json")
    assert merged.stderr == "left out, since the tables differ in it: id\n"
    assert json.loads((tmp_path / "ab.json").read_text())["job"] == "x"
    servers = [{"server_id": "10.0.0.11", "ranks": [0, 7]}, {"server_id": "10.0.0.12", "ranks": [8, 15]}]
    sizes = {"servers": 2, "devices": 16, "mesh": None}
    assert json.loads(merged.stdout) == {"table": "ab.json", "server_list": servers, **sizes}
    run = {"device": "ascend", "devices": 16, "model": {"preset": "13b"}, "parallel": {"tensor": 8}}
    run["training"] = {"steps": 1, "micro_batch": 8}
    config = write_config(tmp_path / "run.yaml", run)
    checked = command_here("rank-table", "check", tmp_path / "ab.json", "--config", config, status=0)
    assert "fits data 2 x tensor 8 x pipeline 1" in checked.stdout
    refused = command_here("rank-table", "check", tmp_path / "a.json", "--config", config, status=2)
    assert "devices: 16, but the rank table has 8" in refused.stderr
    other = command_here("rank-table", "check", tmp_path / "a.json", "--config", config, "devices=8", status=0)
    assert other.stdout.count("\n") == 1 and not other.stderr


def test_a_check_says_which_mindspore_is_known_for_the_chips(tmp_path):
    """Those that the configuration names; a table with super pods is of 910C."""
    table = ROOT / "configs" / "rank_tables" / "1_server_8_devices.json"
    words = ("--config", "codegeex_base_8", "parallel.hardware=ascend910")
    checked = command_here("rank-table", "check", table, *words)
    assert "optimizer shards 8\nAscend 910: the newest MindSpore" in checked.stdout and not checked.stderr
    checked = command_here("rank-table", "check", table, *words, "--json")
    assert json.loads(checked.stdout)["devices"] == 8 and checked.stderr.startswith("Ascend 910: the newest MindSpore")
    whole = json.loads(table.read_text())
    for number, device in enumerate(whole["server_list"][0]["device"]):
        device["super_device_id"] = str(number)
    pod = {"super_pod_id": "0", "server_list": [{"server_id": whole["server_list"][0]["server_id"]}]}
    (tmp_path / "pod.json").write_text(json.dumps({**whole, "version": "1.2", "super_pod_list": [pod]}))
    for more in ((), ("--config", "codegeex_base_8", "parallel.hardware=ascend910b")):
        checked = command_here("rank-table", "check", "pod.json", *more, status=0)
        assert "\nAscend 910C: the newest MindSpore" in checked.stdout, checked.stderr


def test_many_servers_from_a_file_and_some_devices(tmp_path, hccn, monkeypatch):
    monkeypatch.chdir("/")  # names in the list are relative to it
    (tmp_path / "list").write_text("# the cluster\n10.0.0.11=hccn.conf\n\n10.0.0.12=10.1.0.1,10.1.0.2,10.1.0.3\n")
    words = ("rank-table", "make", "--servers", tmp_path / "list", "--devices", "0,2", "--output", tmp_path / "t.json")
    command_here(*words, status=0)
    servers = json.loads((tmp_path / "t.json").read_text())["server_list"]
    addresses = [[device["device_ip"] for device in server["device"]] for server in servers]
    assert addresses == [["192.168.100.101", "192.168.102.101"], ["10.1.0.1", "10.1.0.3"]]
    assert [d["device_id"] for d in servers[1]["device"]] == ["0", "2"]


MISTAKES = {
    "no server": (["make"], "--server: none given"),
    "no source": (["make", "--server", "10.0.0.11"], "expected ID=SOURCE"),
    "no file": (["make", "--server", "10.0.0.11=none.conf"], "none.conf: no such file"),
    "wrong address": (["make", "--server", "a=10.0.0.1,10.0.0"], "device 1: found '10.0.0', expected an IP address"),
    "unknown device": (["make", "--server", "a=10.0.0.1", "--devices", "1"], "--devices: --server a=10.0.0.1 has no"),
    "devices": (["make", "--server", "a=10.0.0.1", "--devices", "all"], "--devices: found 'all'"),
    "device twice": (["make", "--server", "a=10.0.0.1", "--devices", "0,0"], "'0,0' has a device twice"),
    "host of Open MPI": (["make", "--server", "a slots=8"], "found 'a slots=8', expected ID=SOURCE"),
    "long": (["make", "--server", "a=10.0.0.1", "--devices", "9" * 5000], f"--devices: found '{'9' * 60}', expected"),
    "no list": (["make", "--servers", "none"], "--servers: none cannot be read"),
    "no table": (["merge", "none.json"], "none.json: no such file"),
}


@pytest.mark.parametrize("words, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, words, message):
    result = command_here("rank-table", *words, "--output", "t.json", status=2)
    assert len(result.stderr.splitlines()) == 1 and message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_table_stays(tmp_path):
    words = ("rank-table", "make", "--server", "a=10.0.0.1", "--output", "t.json")
    (tmp_path / "t.json").write_text("mine")
    result = command_here(*words, status=2)
    assert "--replace" in result.stderr and (tmp_path / "t.json").read_text() == "mine"
    command_here(*words, "--replace", status=0)
