"""Hardware files: written, named as `parallel.hardware`, and refused where a figure is impossible."""

import pytest
import yaml
from conftest import ROOT

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import ASCEND_910B
from ms_codegeex.config.chosen_hardware import hardware_of as chip_of_run
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.extras.cluster.plans.search import yaml_of
from ms_codegeex.planning.hardware_files import (
    ChipRates,
    HardwareFile,
    Products,
    StepFactor,
    hardware_of,
    read_hardware_file,
    write_hardware_file,
)

CONFIG = ROOT / "configs" / "codegeex_13b_64.yaml"

TRUTH = HardwareFile(
    base="ascend910b",
    source="the truth",
    factor=StepFactor(1.05, 1.05, 1.05),
    rates=ChipRates(1.21e12, 140e9, 140e9, 19e9, 3.1e-5, 5.3e-5),
    products=Products(0.77, 41.0),
    overlap=0.37,
    gaps=0.08,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    write_hardware_file(path, TRUTH)
    return path


def test_a_file_is_read_as_it_was_written(file):
    assert read_hardware_file(file) == TRUTH
    assert f"parallel.hardware={file}" in file.read_text()


def test_a_run_gets_the_chip_and_a_plan_the_file(file):
    config = load_config(CONFIG, [f"parallel.hardware={file}"])
    assert (config.parallel.hardware, config.parallel.calibration) == ("ascend910b", str(file))
    assert chip_of_run(config) is ASCEND_910B
    assert hardware_of(config) == TRUTH.chip(ASCEND_910B, "mine")
    assert hardware_of(load_config(CONFIG)) is ASCEND_910B
    plan = make_plan(config)
    assert plan.chip.name == "mine" and plan.memory == make_plan(load_config(CONFIG)).memory
    time, own = plan.time, plan.chip.calibration
    sent = time.micro_batches * time.slowest.activations + time.gradients
    counted = time.total - 0.37 * sent + 0.08 * time.computing
    assert plan.step_seconds == pytest.approx(1.05 * counted) and own.overlap == 0.37
    again = build_run_config(config.to_dict())  # as a run directory has it
    assert make_plan(again).step_seconds == plan.step_seconds


def test_what_a_search_writes_names_the_file(file, tmp_path):
    config = load_config(CONFIG, [f"parallel.hardware={file}", "model.num_layers=3"])
    best = make_plan(config)
    (tmp_path / "best.yaml").write_text(yaml_of(best, str(CONFIG), {"model": {"num_layers": 3}}))
    assert make_plan(load_config(tmp_path / "best.yaml")).step_seconds == pytest.approx(best.step_seconds)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base: ascend910b", "base: ascend910d", "parallel.hardware: 'ascend910d' is unknown"),
        ("base: ascend910b", "chip: ascend910b", "names no chip as its base"),
        ("overlap: 0.37", "overlap: 1.5", "overlap: found 1.5;"),
        ("overlap: 0.37", "overlap: 0.37\nbandwidth: 3", "bandwidth: unknown key"),
        ("value: 1.05", "value: 2.0", "factor.value: 2.0 is not between"),
        ("start: 41.0", "start: .nan", "products.start: found nan"),
        ("gaps: 0.08", "gaps: [", "not valid YAML"),
    ],
)
def test_an_impossible_file_is_one_line(file, old, new, message):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        make_plan(load_config(CONFIG, [f"parallel.hardware={file}"]))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_and_one_of_another_chip(file, tmp_path):
    with pytest.raises(UserError, match=r"^parallel\.hardware: \S+/none\.yaml does not exist; write it with"):
        load_config(CONFIG, [f"parallel.hardware={tmp_path / 'none.yaml'}"])
    other = load_config(CONFIG, [f"parallel.calibration={file}", "parallel.hardware=ascend910"])
    with pytest.raises(UserError, match=r"^parallel\.calibration: \S+ is of ascend910b, but parallel\.hardware: asc"):
        make_plan(other)
    file.write_text(yaml.safe_dump([1]))
    with pytest.raises(UserError, match="expected a hardware file"):
        read_hardware_file(file)
