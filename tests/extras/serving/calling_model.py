"""A small model that is tuned here, by `finetune`, to call a tool and to answer once it has what the tool gave. Its
chat template has a place for tools and names the one to call, which the model has learnt to write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT
from small_models import save_run

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.models.registry import family

CALLS = {  # by the tool's name, in the order in which the template looks for them
    "person": {"name": "Ada", "age": 3},
    "Person": {"name": "Ada", "age": 3},
    "glob": {"pattern": "*.py"},
    "List": {"dirpath": "."},
}
DONE = "There is one file."
TEMPLATE = """\
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>{% endfor %}<|endoftext|>
{% endfor %}
{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}
{%- if add_generation_prompt %}assistant
{%- set found = namespace(name="") %}
{%- for tool in tools or [] if tool.function.name in NAMES and not found.name %}
{%- set found.name = tool.function.name %}
{%- endfor %}
{%- if found.name and messages[-1].role != "tool" %} calls {{ found.name }}{% endif %}: {% endif %}"""
SIZES = {
    "vocab_size": 51200,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 256,
    "rotary_dim": 8,
    "max_position_embeddings": 32768,
    "eos_token_id": 50256,
}
STEPS = ("data.seq_length=128", "training.steps=100", "training.global_batch=8", "training.micro_batch=8")
RATE = ("training.schedule.learning_rate=0.01", "training.schedule.warmup_steps=5", "training.schedule.decay=linear")


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Texts of this repository, then the template's beginning of an answer, and the answer."""
    draw = np.random.default_rng(seed)
    text = "".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))[:12])
    answers = {f"assistant calls {name}: ": _call(name) for name in CALLS} | {"assistant: ": DONE}
    found = []
    for number in range(count):
        begin, length = int(draw.integers(len(text) - 600)), int(draw.integers(5, 240))
        opening = list(answers)[number % len(answers)]
        found.append(
            {"prompt": f"{text[begin : begin + length]}<|endoftext|>\n{opening}", "completion": answers[opening]}
        )
    return found


def _call(name: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': CALLS[name]})}\n</tool_call>"


def tuned_to_call(directory: Path) -> Path:
    """A model directory."""
    draw = np.random.default_rng(1)
    shapes = family("codegen").config.build_config(None, SIZES).parameter_shapes()
    arrays = {name: np.float32(draw.normal(0, 0.05, shape)) for name, shape in shapes.items()}
    for name in arrays:
        if "norm" in name:
            arrays[name][:] = float(name.endswith("weight"))
    base = save_run(directory / "base", "codegen", arrays, **SIZES)
    load_tokenizer("codegen-multi").save(base / "tokenizer")
    data = directory / "calls.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(1000)), "utf-8")
    words = ["finetune", "--model", base, "--data", data, f"output={directory / 'run'}", *STEPS, *RATE]
    subprocess.run([sys.executable, "-m", "ms_codegeex.cli", *map(str, words)], check=True)
    (found,) = (directory / "run").glob("huggingface*")
    (found / "chat_template.jinja").write_text(TEMPLATE.replace("NAMES", json.dumps([*CALLS])), "utf-8")
    return found
