"""The verdict on files that a right execution would leave, each with one thing made wrong."""

import json

import numpy as np
import pytest
from right_report import held, right

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.rehearsal.compare import compare
from ms_codegeex.extras.cluster.rehearsal.job import RehearsalJob, initial_value
from ms_codegeex.extras.cluster.rehearsal.schedule import planned_passes
from ms_codegeex.extras.cluster.rehearsal.shrink import shrunk
from ms_codegeex.parallel.sharding import layouts_of

QUERY, KEY_BIAS = "blocks.0.attention.query.weight", "blocks.0.attention.key.bias"
STEP = [4.0, 50.0, 2.0, 0.1, 1.0, 1.0]  # loss, tokens, norm, rate, scale, finite
LOSSES = [4.0, 4.0, 3.9, 3.9, 3.9]  # the second step is clipped to 0.5, and promises 0.1 · 0.5 · 2


class Files:
    """What reference and ranks of a tensor 2 (or pipeline 2) run left; `write` and compare."""

    def __init__(self, directory, mesh, precision="fp32", lora=0):
        parallel = {"tensor": mesh.tensor, "pipeline": mesh.pipeline, "micro_batches": 4}
        values = {"device": "ascend", "devices": mesh.world, "parallel": parallel, "lora": {"rank": lora}}
        values["training"] = {"steps": 1, "global_batch": 64, "precision": precision}
        self.config = shrunk(build_run_config(values), mesh)
        self.job = RehearsalJob(directory, self.config, 5)
        layouts = layouts_of(self.config)
        generator = np.random.default_rng(3)
        clipped = self.config.training.clip_norm / 0.5  # the gradients of adapters are clipped at less
        self.reference = [[LOSSES[0] + (loss - LOSSES[0]) * clipped, *STEP[1:]] for loss in LOSSES]
        self.final = {}
        for layout in layouts:
            if not layout.copy_of:
                moved = generator.normal(0, 1e-2, layout.shape) * (1e-6 if layout.name.endswith("key.bias") else 1)
                moved = moved if layout.trained else 0.0
                self.final[layout.name] = (initial_value(layout.name, layout.shape) + moved).astype(np.float32)
        self.outputs = [[list(step) for step in self.reference] for _ in range(mesh.world)]
        self.adamw = [{QUERY: 1e-7, KEY_BIAS: 1e-6} for _ in range(mesh.world)]
        self.evaluation = [160.0, 40.0] if mesh.pipeline > 1 else None  # Σ mask·nll and Σ mask
        self.evaluations = [self.evaluation] * mesh.world
        self.windows, self.values = [], []
        self.shown = [{"parameters": held(self.config, rank), "passes": []} for rank in range(mesh.world)]
        for rank in range(mesh.world):
            mine = [x for x in layouts if x.stage == mesh.coordinates(rank)[0]]
            parts = {x.name: x.window(mesh, rank) for x in mine}
            self.windows.append({n: [[s.start, s.stop] for s in part] for n, part in parts.items()})
            self.values.append({x.name: self.final[x.copy_of or x.name][parts[x.name]].copy() for x in mine})

    def verdict(self):
        self.job.file("json").write_text(json.dumps({"outputs": self.reference, "evaluation": self.evaluation}))
        np.savez(self.job.file("npz"), **self.final)
        for rank, windows in enumerate(self.windows):
            facts = {"windows": windows, "collectives": right(self.config, rank), **self.shown[rank]}
            self.job.file("json", rank).write_text(json.dumps(facts))
            run = {"outputs": self.outputs[rank], "adamw": self.adamw[rank], "evaluation": self.evaluations[rank]}
            self.job.file("run.json", rank).write_text(json.dumps(run))
            np.savez(self.job.file("npz", rank), **self.values[rank])
        return compare(self.job)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path, Mesh(tensor=2))


def problem(comparison):
    assert len(comparison.problems) == 1, comparison.problems
    return comparison.problems[0]


def test_a_right_execution_has_no_problems(files):
    found = files.verdict()
    assert found.problems == () and found.replicas_equal and found.loss_error == found.parameter_error == 0
    assert (found.steps, found.skipped_steps, found.clipped_steps, found.unclipped_steps) == (5, 0, 2, 3)
    assert found.loss_fall == pytest.approx(1.0) and found.adamw_error == 1e-6


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.02])
def test_one_wrong_element_of_a_shard_names_its_parameter_and_rank(files, rank, value):
    files.values[rank][QUERY][3, 1] += np.float32(value)
    found = files.verdict()
    assert problem(found).startswith(f"{QUERY}: rank {rank} differs from one device by ")
    assert found.parameter_errors[0].name == QUERY and not found.parameter_error <= 0.1


def test_the_first_parameter_of_the_model_is_named_when_several_are_wrong(files):
    files.values[1]["blocks.1.attention.query.weight"] += 1
    files.values[0][QUERY] += 1e-3
    assert problem(files.verdict()).startswith(f"{QUERY}: rank 0") and "2 of " in problem(files.verdict())


def test_errors_below_the_limit_pass(files):
    files.values[1][QUERY][0, 0] += np.float32(2e-7)
    found = files.verdict()
    assert found.problems == () and 0 < found.parameter_error <= 1e-4


@pytest.mark.parametrize(("numbers", "passes"), [(1, True), (4, False)])
def test_the_next_fp32_number_is_no_error_however_little_a_weight_moved(files, numbers, passes):
    """A weight of about 1 that moved by 4e-4: the next number is 1.2e-7 away, 3e-4 of the movement."""
    name, place = "final_norm.weight", 1
    first = initial_value(name, files.final[name].shape)
    files.final[name] = (first + 4e-4).astype(np.float32)
    for values in files.values:
        values[name] = files.final[name].copy()
        for _ in range(numbers):
            values[name][place] = np.nextafter(values[name][place], np.float32(9))
    assert (files.verdict().problems == ()) == passes


def test_a_parameter_without_a_gradient_is_held_to_what_others_moved(files):
    for values in files.values:
        values[KEY_BIAS] += np.float32(1e-8)  # much more than it moved, nothing compared with the others
    assert files.verdict().problems == ()
    for values in files.values:
        values[KEY_BIAS] += np.float32(1e-3)
    assert problem(files.verdict()).startswith(KEY_BIAS)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 3.9001, "loss: rank 1 has 3.9001 in step 3, one device 3.9"),
        (0, np.nan, "loss: rank 1 has nan in step 3"),
        (1, 51.0, "counted tokens: rank 1 has 51"),
        (2, 2.001, "gradient norm: rank 1 has 2.001"),
        (3, 0.2, "learning rate: rank 1 has 0.2"),
        (4, 2.0, "loss scale: rank 1 has 2"),
    ],
)
def test_what_a_rank_says_of_a_step_must_be_what_one_device_says(files, column, value, message):
    files.outputs[1][2][column] = value
    found = files.verdict()
    assert problem(found).startswith(message)
    assert (found.loss_error > 1e-5) == (column == 0)


def test_replicas_must_be_equal_bit_for_bit(files):
    norm = files.values[1]["final_norm.weight"]
    norm[0] = np.nextafter(norm[0], np.float32(2))
    found = files.verdict()
    assert not found.replicas_equal and problem(found).startswith("final_norm.weight: rank 1 and rank 0 hold the same")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([160.1, 40.0], "evaluation: rank 1 has loss 4.0025 of 40 tokens, one device 4 of 40"),
        ([159.0, 39.0], "of 39 tokens"),
        ([float("nan"), 40.0], "has loss nan"),
    ],
)
def test_the_evaluation_of_a_pipeline_is_that_of_one_device(tmp_path, found, words):
    files = Files(tmp_path, Mesh(pipeline=2))
    assert files.verdict().evaluation_error == 0
    files.evaluations = [files.evaluation, found]
    assert words in problem(files.verdict())


def test_a_stale_copy_on_the_last_stage_is_seen(tmp_path):
    files = Files(tmp_path, Mesh(pipeline=2))
    assert files.verdict().problems == ()
    files.values[1]["head.weight"] -= 1e-3
    problems = files.verdict().problems
    assert any(p.startswith("head.weight: rank 1 and rank 0 hold the same shard") for p in problems)
    assert any(p.startswith("head.weight: rank 1 differs ") for p in problems)


def test_parts_and_stages_must_be_those_of_the_plan(files):
    files.windows[1][QUERY] = files.windows[0][QUERY]
    files.values[1][QUERY] = files.values[0][QUERY]
    assert problem(files.verdict()).startswith(f"{QUERY}: the engine gave rank 1 the shard 0:")
    del files.windows[1][QUERY], files.values[1][QUERY]
    assert problem(files.verdict()).startswith(f"{QUERY}: is missing on rank 1")


def test_a_rank_holds_what_is_planned(files):
    moment = f"optimizer.m.{QUERY}"
    files.shown[1]["parameters"][moment][0].reverse()
    files.shown[1]["parameters"][moment][1] = "float16"
    assert problem(files.verdict()).startswith("rank 1, shapes of moments: [")
    del files.shown[1]["parameters"][moment]
    assert problem(files.verdict()).startswith("rank 1, shapes of moments: none")


def test_the_schedule_of_a_graph_that_calls_its_passes_is_checked(tmp_path):
    files = Files(tmp_path, Mesh(pipeline=2))
    planned = [str(x) for x in planned_passes(files.config, 1)]
    files.shown[1]["passes"] = planned
    assert files.verdict().problems == ()
    files.shown[1]["passes"] = sorted(planned, key=lambda x: x[0] == "B")  # GPipe
    assert problem(files.verdict()).startswith("rank 1, schedule: F0 F1 F2 B0 B1 B2, planned 1F1B, F0 B0 F1 B1 F2 B2")


def test_a_frozen_weight_must_not_change_on_one_device_either(tmp_path):
    files = Files(tmp_path, Mesh(tensor=2), lora=2)
    assert files.verdict().problems == ()
    files.final[QUERY] += np.float32(0.1)
    for values, windows in zip(files.values, files.windows, strict=True):
        values[QUERY] = files.final[QUERY][tuple(slice(*part) for part in windows[QUERY])]
    assert problem(files.verdict()) == f"{QUERY}: is frozen, but has changed (1 frozen weights have)"
    files.final[QUERY] = initial_value(QUERY, files.final[QUERY].shape)
    assert problem(files.verdict()).startswith(f"{QUERY}: rank 0 differs from one device")


@pytest.mark.parametrize("value", [1e-3, float("inf")])
def test_adamw_is_held_against_its_formula_on_every_rank(files, value):
    files.adamw[1][QUERY] = value
    assert problem(files.verdict()).startswith(f"AdamW, {QUERY}: rank 1 differs from the formula by ")


@pytest.mark.parametrize("loss", [3.8, 3.95])
def test_the_loss_has_to_fall_as_the_gradient_promised(files, loss):
    for outputs in (files.reference, *files.outputs):
        for output in outputs[2:]:
            output[0] = loss
    assert problem(files.verdict()).startswith(f"step 2: the loss fell by {4 - loss:.3g}, its gradient predicts 0.1")


def test_a_rank_that_does_not_skip_what_overflowed_elsewhere_is_named(tmp_path):
    files = Files(tmp_path, Mesh(tensor=2), "fp16")
    for outputs in (files.reference, files.outputs[0]):
        outputs[4] = [3.9, 50.0, float("nan"), 0.0, 1.0, 0.0]
    assert any(p.startswith("gradient norm: rank 1 has 2 in step 5") for p in files.verdict().problems)


def test_an_execution_that_could_not_show_errors_does_not_pass(tmp_path):
    files = Files(tmp_path, Mesh(tensor=2), "fp16")
    assert problem(files.verdict()).startswith("no step overflowed")
    skipped = [4.0, 50.0, np.nan, 0.0, 8.0, 0.0]
    for outputs in (files.reference, *files.outputs):
        outputs[:3] = [list(skipped)] * 3
    problems = files.verdict().problems
    assert problems[-1].startswith("2 of 5 steps updated the weights")
    for outputs in (files.reference, *files.outputs):
        outputs[1:3] = [[4.0, *STEP[1:]], [3.9, *STEP[1:]]]
    assert files.verdict().problems == ()
    for outputs in (files.reference, *files.outputs):
        for output in outputs:
            output[2] = 0.1
    assert files.verdict().problems[-1].startswith("no step was clipped")
    for name, value in files.final.items():
        files.final[name] = initial_value(name, value.shape)
    assert any("too little to show an error" in p for p in files.verdict().problems)
