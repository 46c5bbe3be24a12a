"""Rank tables: what is broken is named by its JSON path; what is made or merged passes the check."""

import copy
import ipaddress
import json
from dataclasses import replace

import pytest
from cluster_runs import config
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.runs.servers import rank_table
from ms_codegeex.runs.servers.rank_table import (
    awaited_rank_table,
    check_against_config,
    make_rank_table,
    merge_rank_tables,
    parse_rank_table,
    read_hccn_conf,
    read_rank_table,
    write_rank_table,
)


def addresses(server: int, count: int = 8) -> dict[int, str]:
    return {device: f"192.168.{100 + device}.{101 + server}" for device in range(count)}


def table(servers: int = 2, devices: int = 8):
    return make_rank_table([(f"10.0.0.{11 + i}", addresses(i, devices)) for i in range(servers)])


def changed(path: list, value, whole=None):
    """A table, of two servers with 8 devices each, and one place changed; the value `...` removes it."""
    whole = place = table().to_json() if whole is None else whole
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return whole


def device(server: int, index: int, key: str) -> list:
    return ["server_list", server, "device", index, key]


BROKEN = {  # the place, its value, and what the error says of it
    "a number as device": (device(0, 2, "device_id"), 2, "found 2 (a number)"),
    "null as rank": (device(0, 0, "rank_id"), None, "found null"),
    "a word as rank": (device(0, 1, "rank_id"), "one", 'found "one", expected digits'),
    "negative rank": (device(0, 1, "rank_id"), "-1", 'found "-1"'),
    "leading zero": (device(1, 0, "rank_id"), "08", 'found "08"'),
    "rank twice": (device(1, 0, "rank_id"), "7", 'found "7" again, which server_list[0].dev'),
    "a gap": (device(1, 7, "rank_id"), "16", 'found "16", expected a rank below 16'),
    "device twice": (device(0, 5, "device_id"), "4", 'found "4" again'),
    "device outside": (device(0, 7, "device_id"), "16", 'found "16"'),
    "address twice": (device(1, 6, "device_ip"), "192.168.100.101", 'found "192.168.100.101" again, which server_'),
    "no address": (device(1, 6, "device_ip"), "", 'found ""'),
    "wrong address": (device(0, 6, "device_ip"), "192.168.1.256", ""),
    "an object as address": (device(0, 6, "device_ip"), {}, "found an object"),
    "server twice": (["server_list", 1, "server_id"], "10.0.0.11", 'found "10.0.0.11" again'),
    "wrong server": (["server_list", 1, "server_id"], "10.0.0", ""),
    "server of no name": (["server_list", 0, "server_id"], "", ""),
    "server number": (["server_list", 0, "server_id"], 11, "found 11 (a number)"),
    "nic is a list": (["server_list", 0, "host_nic_ip"], [], "found a list"),
    "extra key a number": (device(0, 0, "device_port"), 16667, "found 16667"),
    "no device": (["server_list", 1, "device"], [], "found an empty list"),
    "device a string": (["server_list", 1, "device", 4], "4", 'found "4", expected an object'),
    "server a list": (["server_list", 1], [], "found a list, expected an object"),
    "servers missing": (["server_list"], ..., "missing"),
    "count": (["server_count"], "3", 'found "3", expected "2"'),
    "version": (["version"], "1.1", 'found "1.1", expected "1.0" or "1.2"; make such a table'),
    "version a number": (["version"], 1.0, "found 1.0 (a number), expected a string"),
    "status": (["status"], "initializing", 'found "initializing", expected "completed"'),
    "status a boolean": (["status"], True, "found true (a boolean), expected a string"),
}


@pytest.mark.parametrize("path, value, message", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_named_by_its_path(path, value, message):
    with pytest.raises(UserError) as error:
        parse_rank_table(changed(path, value))
    place, text = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in path)[1:], str(error.value)
    assert text.startswith(f"{place}: {message}") and "\n" not in text
    assert "; " in text  # the remedy


def of_groups(server: str = "10.0.0.11") -> dict:
    """ModelArts' form of a table: groups of instances, without ranks."""
    instances = [
        {"server_id": name, "devices": [{"device_id": str(d), "device_ip": ip} for d, ip in addresses(i).items()]}
        for i, name in enumerate((server, "10.0.0.12"))
    ]
    return {"status": "completed", "group_list": [{"group_name": "job", "instance_list": instances}]}


def test_the_form_of_modelarts_is_read_with_ranks_in_its_order():
    found = parse_rank_table(of_groups())
    assert [(x.server_id, x.devices) for x in found.servers] == [(x.server_id, x.devices) for x in table().servers]


def test_an_unfinished_table_is_waited_for(tmp_path, monkeypatch, capsys):
    path, looks = tmp_path / "t.json", []
    write_rank_table(path, table())
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({"status": "initializing"}))

    def written_at_the_third_look(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            write_rank_table(path, table())

    monkeypatch.setattr(rank_table.time, "sleep", written_at_the_third_look)
    assert awaited_rank_table(path, 600) == table() and len(looks) == 3
    line = f"waiting at most 600 s for {path}, whose status is initializing\n"
    assert capsys.readouterr().err == line
    assert awaited_rank_table(path, 600) == table() and not capsys.readouterr().err
    path.write_text(json.dumps(whole | {"status": "initializing"}))
    assert awaited_rank_table(path, 600, dry_run=True) == table()
    assert capsys.readouterr().err == f"a run would be {line}"
    with pytest.raises(UserError, match="the table is not ready yet"):
        awaited_rank_table(path, 0)


def swapped(a: tuple[int, int], b: tuple[int, int]):
    whole = table().to_json()
    first, second = (whole["server_list"][i]["device"][j] for i, j in (a, b))
    first["rank_id"], second["rank_id"] = second["rank_id"], first["rank_id"]
    return whole


@pytest.mark.parametrize(
    "whole, message",
    [
        (swapped((0, 7), (1, 0)), "server_list[0]: ranks 0 to 8 are on 8 devices, with others between them"),
        ([], "(top): found a list"),
        ({"prefill_device_list": []}, "prefill_device_list: a table of disaggregated serving"),
        ({"server_group_list": [], "status": "completed"}, "server_group_list: MindCluster's global table"),
        ({"version": "2.0", "rank_list": []}, "rank_list: version 2.0, of Ascend 950, is not supported"),
        ({"status": "completed", "group_list": []}, "group_list: found an empty list"),
        (of_groups(server="10.0.0.x\ny"), "server_list[0].server_id: found"),
        ({"status": "initializing"}, 'status: found "initializing", expected "completed"; the table is not ready yet'),
    ],
)
def test_wrong_order_and_wrong_files(whole, message):
    with pytest.raises(UserError) as error:
        parse_rank_table(whole)
    assert str(error.value).startswith(message)


def test_servers_and_devices_come_in_any_order_of_ranks():
    for whole in (changed(["server_list"], table().to_json()["server_list"][::-1]), swapped((0, 3), (0, 4))):
        read = parse_rank_table(whole)
        assert [device.rank for server in read.servers for device in server.devices] == [*range(read.world)]


def test_a_file_is_named(tmp_path):
    for content, message in (("{", "not readable as JSON"), (json.dumps(changed(["version"], "2")), "version: found")):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(UserError) as error:
            read_rank_table(tmp_path / "t.json")
        assert str(error.value).startswith(f"{tmp_path / 't.json'}: {message}")
    with pytest.raises(UserError, match="no such file"):
        read_rank_table(tmp_path / "none.json")


# --- super pods ---


def in_super_pods(*pods: str) -> dict:
    """A table of a server of two devices in each of these pods, as the makers of Ascend 910C write it."""
    whole = {**table(len(pods), 2).to_json(), "version": "1.2"}
    listed: dict[str, list] = {}
    for i, (pod, server) in enumerate(zip(pods, whole["server_list"], strict=True)):
        listed.setdefault(pod, []).append({"server_id": server["server_id"]})
        for device in server["device"]:
            device["super_device_id"] = str(3774873600 + 262144 * i + int(device["device_id"]))
    whole["super_pod_list"] = [{"super_pod_id": pod, "server_list": servers} for pod, servers in listed.items()]
    return whole


def test_super_pods_are_read_merged_and_written():
    one, other = in_super_pods("0", "0", "1"), in_super_pods("1")
    assert parse_rank_table(one).to_json() == one
    other["server_list"][0] |= {"server_id": "10.0.1.11"}
    for number, device in enumerate(other["server_list"][0]["device"]):
        device |= {"device_ip": f"192.168.200.{number}", "super_device_id": f"{number}"}
    other["super_pod_list"][0]["server_list"][0]["server_id"] = "10.0.1.11"
    merged = merge_rank_tables([parse_rank_table(one), parse_rank_table(other)])
    assert merged.super_pods == {"0": ("10.0.0.11", "10.0.0.12"), "1": ("10.0.0.13", "10.0.1.11")} and merged.world == 8
    with pytest.raises(UserError, match=r"^version: some tables are 1.2 or have super pods"):
        merge_rank_tables([parse_rank_table(one), table(1)])


def test_the_ranks_of_super_pods_do_not_cross():
    message = r"^super_pod_list\[0\].super_pod_id: other super pods have ranks between those of '0'"
    with pytest.raises(UserError, match=message):
        parse_rank_table(in_super_pods("0", "1", "0"))
    assert [*parse_rank_table(in_super_pods("1", "1", "0")).super_pods] == ["1", "0"]


def test_a_server_may_have_any_text_as_its_id():
    named = changed(["server_list", 0, "server_id"], "rack 3 / node 1", table().to_json())
    assert parse_rank_table(named).servers[0].server_id == "rack 3 / node 1"


def addressless(whole: dict) -> dict:
    """The table without the addresses of its devices, which CANN requires beyond a server or super pod only."""
    for server in whole["server_list"]:
        for device in server["device"]:
            del device["device_ip"]
    return whole


def test_addresses_are_required_beyond_a_server_or_super_pod_only():
    for whole in (addressless(table(1).to_json()), addressless(in_super_pods("0", "0"))):
        assert parse_rank_table(whole).to_json() == whole
    for whole in (addressless(table().to_json()), addressless(in_super_pods("0", "1"))):
        with pytest.raises(UserError, match=r"^server_list\[0\]\.device\[0\]\.device_ip: missing; add it"):
            parse_rank_table(whole)
    with pytest.raises(UserError, match="device_ip: missing"):
        merge_rank_tables([parse_rank_table(addressless(table(1).to_json())), table(1)])


def test_a_super_pod_is_optional_in_version_1_2():
    parsed = parse_rank_table({**table().to_json(), "version": "1.2"})
    assert parsed == replace(table(), version="1.2") == merge_rank_tables([parsed])
    with pytest.raises(UserError, match=r"^version: some tables are"):
        merge_rank_tables([parsed, table(1)])


POD_SERVERS = ["super_pod_list", 1, "server_list"]
POD_DEVICE = "super_device_id"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["super_pod_list"], [], "super_pod_list: found an empty list"),
        (POD_SERVERS, [{"server_id": "10.0.0.11"}], 'super_pod_list[1].server_list[0].server_id: found "10.0.0.11" a'),
        (["super_pod_list", 1], ..., 'server_list[1].server_id: found "10.0.0.12", expected a server of super'),
        ([*POD_SERVERS, 0, "server_id"], "x", 'super_pod_list[1].server_list[0].server_id: found "x", expected a ser'),
        (device(0, 1, POD_DEVICE), "3774873600", 'server_list[0].device[1].super_device_id: found "3774873600" a'),
        (device(1, 0, POD_DEVICE), ..., "server_list[1].device[0].super_device_id: missing; add it"),
        (device(0, 0, POD_DEVICE), "0x24", 'server_list[0].device[0].super_device_id: found "0x24", expected di'),
        (["super_pod_list", 0, "super_pod_id"], "", 'super_pod_list[0].super_pod_id: found "", expected a name'),
        (["version"], "1.0", 'version: found "1.0", expected "1.2", since there is a super_pod_list'),
    ],
)
def test_a_wrong_super_pod_is_named_by_its_path(path, value, message):
    with pytest.raises(UserError) as error:
        parse_rank_table(changed(path, value, in_super_pods("0", "1")))
    assert str(error.value).startswith(message)


# --- against a configuration ---


def test_a_fitting_mesh_is_accepted():
    check_against_config(table(), config())
    check_against_config(table(4, 4), config(tensor=4))
    check_against_config(table(), config(tensor=4, pipeline=2))


UNEQUAL = make_rank_table([("a", addresses(0)), ("b", addresses(1, 4)), ("c", addresses(2, 4))])
HIGH = make_rank_table([("a", {7: "10.1.0.1", 8: "10.1.0.2"})])


@pytest.mark.parametrize(
    "made, values, message",
    [
        (table(), {"devices": 8}, "devices: 8, but the rank table has 16 in server_list; set devices=16"),
        (table(4, 4), {}, "server_list[0].device: ranks 0 to 3 split the tensor-parallel group of ranks 0 to 7"),
        (UNEQUAL, {}, "server_list[1].device: ranks 8 to 11 split the tensor-parallel group of ranks 8 to 15"),
        (HIGH, {"devices": 2, "tensor": 2}, 'server_list[0].device[1].device_id: found "8"'),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(made, values, message):
    with pytest.raises(UserError) as error:
        check_against_config(made, config(**values))
    assert str(error.value).startswith(message)


# --- making and merging ---


def test_hccn_conf(tmp_path):
    file = tmp_path / "hccn.conf"
    file.write_text("# port 0\naddress_0=192.168.100.101\nnetmask_0=255.255.255.0\n\naddress_10 = 192.168.101.101\n")
    assert read_hccn_conf(file) == {0: "192.168.100.101", 10: "192.168.101.101"}
    file.write_text("address_0=192.168.100.101\naddress_1=192.168.101.101\n", encoding="utf-8-sig")
    assert read_hccn_conf(file) == {0: "192.168.100.101", 1: "192.168.101.101"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("address_0 192.168.1.1\n", "line 1: found 'address_0 192.168.1.1', expected key=value"),
        ("address_0=1\n", "line 1: address_0: found '1', expected an IP address"),
        ("address_0=10.0.0.1\naddress_0=10.0.0.2\n", "line 2: address_0 is given twice"),
        ("netmask_0=255.255.255.0\n", "no address_N line"),
        pytest.param("address_" + "9" * 5000 + "=10.0.0.1\n", f"line 1: address_{'9' * 52}: found", id="long"),
    ],
)
def test_a_broken_hccn_conf_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "hccn.conf").write_text(content)
    with pytest.raises(UserError) as error:
        read_hccn_conf(tmp_path / "hccn.conf")
    assert str(error.value).startswith(f"{tmp_path / 'hccn.conf'}: {message}")
    with pytest.raises(UserError, match="no such file"):
        read_hccn_conf(tmp_path / "none.conf")


@st.composite
def clusters(draw):
    """Servers with names and devices of their own, every address different."""
    names = draw(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True), min_size=1, max_size=5, unique=True))
    devices = [draw(st.sets(st.integers(0, 15), min_size=1, max_size=8)) for _ in names]
    count = sum(map(len, devices))
    numbers = iter(draw(st.lists(st.integers(1, 2**32 - 2), min_size=count, max_size=count, unique=True)))
    return [
        (name, {d: str(ipaddress.IPv4Address(next(numbers))) for d in sorted(chosen)})
        for name, chosen in zip(names, devices, strict=True)
    ]


@settings(max_examples=60)
@given(clusters())
def test_what_is_made_is_read_back_equal(tmp_path_factory, cluster):
    made = make_rank_table(cluster)
    path = tmp_path_factory.mktemp("made") / "table.json"
    write_rank_table(path, made)
    again = read_rank_table(path)
    assert again.to_json() == made.to_json() and again.world == sum(len(devices) for _, devices in cluster)
    assert [(s.server_id, {d.device_id: d.device_ip for d in s.devices}) for s in again.servers] == cluster
    assert [d.rank for s in again.servers for d in s.devices] == list(range(again.world))
    check_strings(made.to_json())


def check_strings(value):
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_strings(child)
    assert isinstance(value, dict | list | str)


@settings(max_examples=60)
@given(clusters(), st.data())
def test_merging_parts_gives_the_whole(cluster, data):
    cut = data.draw(st.integers(0, len(cluster)))
    parts = [make_rank_table(part) for part in (cluster[:cut], cluster[cut:]) if part]
    assert merge_rank_tables(parts) == make_rank_table(cluster)


def test_merging_keeps_other_keys_and_refuses_a_server_twice():
    whole = table(1).to_json()
    whole["server_list"][0]["host_nic_ip"] = "10.0.0.11"
    whole["server_list"][0]["device"][0]["device_port"] = "16667"
    first = parse_rank_table(copy.deepcopy(whole))
    other = make_rank_table([("z", addresses(5))]).to_json()
    one, two = (
        parse_rank_table(each | {"job": {"id": 7}, "made": each["server_count"] + each["server_list"][0]["server_id"]})
        for each in (whole, other)
    )
    assert merge_rank_tables([one, two]).extra == {"job": {"id": 7}} and merge_rank_tables([one]) == one
    merged = merge_rank_tables([parse_rank_table(other), first]).to_json()["server_list"][1]
    assert merged["host_nic_ip"] == "10.0.0.11"
    assert merged["device"][0]["device_port"] == "16667" and merged["device"][0]["rank_id"] == "8"
    with pytest.raises(UserError, match=r"^server_list\[1\]\.server_id: found .* again"):
        merge_rank_tables([first, first])


def test_the_samples_are_sound():
    samples = sorted((ROOT / "configs" / "rank_tables").glob("*.json"))
    assert [read_rank_table(path).world for path in samples] == [8, 16, 32]
