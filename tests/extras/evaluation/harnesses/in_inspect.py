"""Run by `test_inspect.py` in an environment with Inspect: DATA. Prints what its sandbox and its task give."""

import asyncio
import json
import sys

from inspect_ai import eval as evaluated
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from ms_codegeex.extras.evaluation.harnesses.inspect_extension import OurSandbox, benchmark


async def commands():
    """A command, its files and its failures."""
    place = OurSandbox()
    await place.write_file("a/x.py", "print(input()); open('y', 'w').write('hey'); raise SystemExit(3)")
    first = await place.exec(["python3", "x.py"], input="hi\n", cwd="a")
    second = await place.exec(["cat", "a/y"])
    refused = []
    for attempt in (place.exec(["sleep", "9"], timeout=1), place.read_file("z"), place.write_file("../z", "")):
        try:
            await attempt
        except OSError as error:  # TimeoutError is one
            refused.append(type(error).__name__)
    network = await place.exec(["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"])
    said = (first.returncode, first.stdout, await place.read_file("a/y"), second.success, second.stdout)
    return [*said, refused, network.success]


replies = [f"Here:\n```python\n{line}\n```" for line in ("def f0(x):\n    return x + 1", "def f1(x):\n    return x")]
outputs = [ModelOutput.from_content("m", reply) for reply in replies]
for each in outputs:
    each.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # or it downloads a tokenizer to count
model = get_model("mockllm/model", custom_outputs=outputs)
(log,) = evaluated(benchmark("humaneval", sys.argv[1]), model=model, log_dir=sys.argv[2], display="none", max_samples=1)
verdicts = [next(iter(sample.scores.values())).value for sample in log.samples or []]
print(json.dumps({"commands": asyncio.run(commands()), "status": log.status, "verdicts": verdicts}))
