"""What the test files take: the budget, the order and the record of the last run."""

import json
from types import SimpleNamespace

import durations
import pytest

TEN = {f"test_{name}.py": 10.0 for name in "abcde"}


@pytest.mark.parametrize(
    "took, budgets, over",
    [
        (TEN | {"test_a.py": 14.9}, TEN, []),
        (TEN | {"test_a.py": 15.1}, TEN, ["test_a.py: 15 s, budget 10 s"]),  # by half, and by five seconds
        (TEN | {"test_f.py": 5.5}, TEN | {"test_f.py": 1.0}, []),  # a small file may take more than the double
        (TEN | {"test_f.py": 6.0}, TEN, ["test_f.py: 6 s, budget 0 s"]),  # a new one
        (dict.fromkeys(TEN, 30.0), TEN, []),  # a slow machine
        (dict.fromkeys(TEN, 30.0) | {"test_a.py": 46.0}, TEN, ["test_a.py: 46 s, budget 30 s"]),
    ],
)
def test_files_that_take_longer_than_their_budget_at_this_runs_pace(took, budgets, over):
    assert durations.over_budget(took, budgets) == over


def test_what_is_gone_or_takes_no_time_leaves_the_record():
    before, took = {"test_gone.py": 3.0, "test_b.py": 2.0}, {"test_a.py": 1.26, "test_c.py": 0.01}
    files = ["test_a.py", "test_b.py", "test_c.py"]
    assert durations.updated(before, took, files) == {"test_a.py": 1.3, "test_b.py": 2.0}


def test_the_record_names_test_files_that_exist():
    root = durations.BUDGETS.parents[1]
    recorded = json.loads(durations.BUDGETS.read_text(encoding="utf-8"))
    assert set(recorded) == set(durations.KINDS)
    assert not [file for kind in recorded for file in recorded[kind] if not (root / file).is_file()]


def test_each_word_has_an_order_of_files_and_a_folder_that_is_one_unit_stays_together():
    unit = "tests/extras/cluster/rehearsal/"
    files = [*(f"tests/test_{name}.py" for name in "abcdefgh"), f"{unit}test_x.py", f"{unit}test_y.py"]
    orders = []
    for word in ("a", "a", "b"):
        names = [f"{file}::test_{number}" for file in files for number in (2, 1)]
        items = [SimpleNamespace(nodeid=name, keywords=()) for name in names]
        durations.pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(files_by=word)), items)
        orders.append([item.nodeid for item in items])
        assert sorted(orders[-1]) == sorted(names)
        places = [number for number, name in enumerate(orders[-1]) if name.startswith(unit)]
        assert places == list(range(places[0], places[0] + 4))
        for file in files:
            assert [name for name in orders[-1] if name.startswith(file)] == [f"{file}::test_2", f"{file}::test_1"]
    assert orders[0] == orders[1] != orders[2]
