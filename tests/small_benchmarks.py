"""Two problems in the format of each benchmark, and a model directory that reads them: all made here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

FAMILY = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "max_position_embeddings": 512}


def write_model(directory: Path, seed: int = 5) -> Path:
    """A CodeGeeX of a few hundred thousand random weights with the real tokenizer, in Hugging Face layout."""
    from ms_codegeex.formats.checkpoint_writing import write_checkpoint
    from ms_codegeex.formats.convert import convert
    from ms_codegeex.models.codegeex.config import build_config

    config, generator = build_config("tiny", FAMILY), np.random.default_rng(seed)
    shapes = config.parameter_shapes()
    tensors = {name: generator.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes.items()}
    state = {"config": {"model": {"family": "codegeex", **asdict(config)}}}
    checkpoint = write_checkpoint(directory / "checkpoints", 1, tensors, state)
    convert(checkpoint, "hf", directory / "model", progress=False)
    return directory / "model"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A .jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def humaneval(directory: Path) -> Path:
    """Add one, double."""
    rows = [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": f'def f{number}(x):\n    """{words}"""\n',
            "entry_point": f"f{number}",
            "canonical_solution": f"    return {code}\n",
            "test": f"def check(f):\n    assert f(3) == {answer}\n",
        }
        for number, (words, code, answer) in enumerate([("Add one.", "x + 1", 4), ("Double.", "2 * x", 6)])
    ]
    return write_rows(directory / "humaneval.jsonl", rows)


def humaneval_x(directory: Path) -> Path:
    """The same in Python and JavaScript."""
    python, js = [], []
    for number, (words, code, answer) in enumerate([("Add one.", "x + 1", 4), ("Double.", "2 * x", 6)]):
        head = f"def f{number}(x):\n"
        python.append(
            {
                "task_id": f"Python/{number}",
                "prompt": f'{head}    """{words}"""\n',
                "declaration": head,
                "canonical_solution": f"    return {code}\n",
                "test": f"\ndef check(f):\n    assert f(3) == {answer}\n\ncheck(f{number})\n",
                "example_test": "",
                "text": words,
            }
        )
        head = f"const f{number} = (x) => {{\n"
        js.append(
            {
                "task_id": f"JavaScript/{number}",
                "prompt": f"/* {words}\n*/\n{head}",
                "declaration": f"\n{head}",
                "canonical_solution": f"  return {code};\n}}\n\n",
                "test": f"const testF{number} = () => {{\n  console.assert(f{number}(3) === {answer})\n}}\n\n"
                f"testF{number}()\n",
                "example_test": "",
            }
        )
    write_rows(directory / "humaneval-x" / "python.jsonl", python)
    write_rows(directory / "humaneval-x" / "js.jsonl", js)
    return directory / "humaneval-x"


def mtpb(directory: Path) -> Path:
    """Two turns, five cases."""
    rows = [
        {
            "id": str(number),
            "name": words,
            "category": "math",
            "description": words,
            "prompts": ["Assign {a} to a variable named a.", f"Print {words} a."],
            "inputs": [{"a": value} for value in range(5)],
            "outputs": [answer(value) for value in range(5)],
            "max_gen_length": 6,
        }
        for number, (words, answer) in enumerate([("the double of", lambda a: 2 * a), ("minus", lambda a: -a)], 1)
    ]
    return write_rows(directory / "mtpb.jsonl", rows)


def ds1000(directory: Path) -> Path:
    """Simplified format, NumPy only."""
    rows = []
    for number, (words, code, answer) in enumerate([("the sum", "x.sum()", 6), ("the maximum", "x.max()", 3)]):
        context = (
            'exec_context = """\nimport numpy as np\nx = np.array([1, 2, 3])\n[insert]\n"""\n\n'
            "def test_execution(solution):\n    space = {}\n"
            '    exec(exec_context.replace("[insert]", solution), space)\n'
            f"    assert space['result'] == {answer}\n"
        )
        rows.append(
            {
                "prompt": f"Problem:\nGive {words} of x.\nA:\n<code>\nimport numpy as np\nx = np.array([1, 2, 3])\n"
                "</code>\nresult = ... # put solution in this variable\nBEGIN SOLUTION\n<code>\n",
                "reference_code": f"result = {code}\n",
                "code_context": context,
                "metadata": {
                    "problem_id": number,
                    "library_problem_id": number,
                    "library": "Numpy",
                    "test_case_cnt": 1,
                    "perturbation_type": "Origin" if number else "Surface",
                    "perturbation_origin_id": number,
                },
            }
        )
    return write_rows(directory / "ds1000.jsonl", rows)
