"""What the test files take: the budget, the order and the record of the last run."""

import json
from types import SimpleNamespace

import durations
import pytest


@pytest.mark.parametrize(("seconds", "over"), [(14.9, False), (15.1, True), (10.0, False)])
def test_a_file_is_over_its_budget_by_half_and_five_seconds(seconds, over):
    budgets = {"test_a.py": 10.0, "test_b.py": 20.0, "test_c.py": 30.0}
    took = {**budgets, "test_a.py": seconds}
    assert bool(durations.over_budget(took, budgets)) == over


def test_small_files_may_double():
    assert not durations.over_budget({"test_a.py": 5.5, "test_b.py": 9.0}, {"test_a.py": 1.0, "test_b.py": 9.0})


def test_a_slow_machine_is_not_over_budget():
    budgets = {f"test_{name}.py": 10.0 for name in "abcde"}
    took = {file: 30.0 for file in budgets}
    assert durations.pace(took, budgets) == 3.0
    assert not durations.over_budget(took, budgets)
    assert durations.over_budget({**took, "test_a.py": 46.0}, budgets) == ["test_a.py: 46 s, budget 30 s"]


def test_a_new_file_counts_from_nothing():
    assert durations.over_budget({"test_a.py": 6.0, "test_b.py": 1.0}, {"test_b.py": 1.0}) == [
        "test_a.py: 6 s, budget 0 s"
    ]


def test_what_is_gone_or_takes_no_time_leaves_the_record():
    kept = durations.updated({"test_gone.py": 3.0, "test_b.py": 2.0}, {"test_a.py": 1.26, "test_c.py": 0.01}, "abc")
    assert kept == {}
    files = ["test_a.py", "test_b.py", "test_c.py"]
    kept = durations.updated({"test_gone.py": 3.0, "test_b.py": 2.0}, {"test_a.py": 1.26, "test_c.py": 0.01}, files)
    assert kept == {"test_a.py": 1.3, "test_b.py": 2.0}


def test_the_record_names_test_files_that_exist():
    root = durations.BUDGETS.parents[1]
    recorded = json.loads(durations.BUDGETS.read_text(encoding="utf-8"))
    assert set(recorded) == set(durations.KINDS)
    assert not [file for kind in recorded for file in recorded[kind] if not (root / file).is_file()]


def test_each_word_has_an_order_of_files_and_a_folder_that_is_one_unit_stays_together():
    class Item:
        def __init__(self, nodeid):
            self.nodeid, self.keywords = nodeid, ()

    files = [f"tests/test_{name}.py" for name in "abcdefgh"] + [
        "tests/extras/cluster/rehearsal/test_x.py",
        "tests/extras/cluster/rehearsal/test_y.py",
    ]
    names = [f"{file}::test_{number}" for file in files for number in (2, 1)]
    orders = []
    for word in ("a", "a", "b"):
        items = [Item(name) for name in names]
        durations.pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(files_by=word)), items)
        orders.append([item.nodeid for item in items])
        assert sorted(orders[-1]) == sorted(names)
        places = [
            number for number, name in enumerate(orders[-1]) if name.startswith("tests/extras/cluster/rehearsal/")
        ]
        assert places == list(range(places[0], places[0] + 4))
        for file in files:
            assert [name for name in orders[-1] if name.startswith(file)] == [f"{file}::test_2", f"{file}::test_1"]
    assert orders[0] == orders[1] != orders[2]
