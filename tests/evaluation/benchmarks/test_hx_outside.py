"""Python's tests run outside the answer's process: no forged answer passes strict, and what is right does."""

from __future__ import annotations

from pathlib import Path

import pytest
from chains import answer, judge_all, open_task
from humaneval_x_rows import PYTHON, write

from ms_codegeex.evaluation.sandbox import Verdict

LYING = (
    "    class Lying(%s):\n        __eq__ = lambda *_: True\n        __ne__ = lambda *_: False\n"
    "        __hash__ = %s.__hash__\n        __repr__ = __str__ = lambda _: '[6, 6]'\n    return Lying(%s)\n"
)
PATCH = (
    "    import ctypes\n    function = ctypes.CFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object,"
    " ctypes.c_int)(lambda a, b, c: True)\n    global kept\n    kept = function\n"
    "    place = ctypes.c_void_p.from_address(id(list) + %d)\n"
    "    place.value = ctypes.cast(function, ctypes.c_void_p).value\n    return [0]\n"
)
FRAMES = (
    "    import sys\n    frame, found = sys._getframe(), [0]\n    while frame:\n"
    "        for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):\n%s"
    "        frame = frame.f_back\n    return found\n"
)
EVERY_OBJECT = (
    "    import gc\n    for value in gc.get_objects():\n        if isinstance(value, dict):\n"
    "            for key, item in list(value.items()):\n                if key in ('expected', 'want', 'tests'):\n"
    "                    return eval(str(item))\n"
    "        if isinstance(value, list) and value == [number, number] and number == 2:\n            return value\n"
    "    return [0]\n"
)
FILES = (
    "    import glob, re\n    for path in glob.glob('/program/**', recursive=True) + glob.glob('/tmp/**') + "
    "glob.glob('/proc/self/fd/*') + ['/proc/self/environ', '/proc/self/cmdline', '/proc/1/cmdline']:\n        try:\n"
    "            text = open(path).read()\n        except Exception:\n            continue\n"
    "        found = re.search(r'twice\\(%d\\) == (.*)' % number, text)\n        if found:\n"
    "            return eval(found.group(1))\n    return [0]\n"
)
MEMORY = (
    "    import re\n    found = [0]\n    with open('/proc/self/mem', 'rb', 0) as memory:\n"
    "        for line in open('/proc/self/maps'):\n            if '[heap]' not in line and ' rw' not in line:\n"
    "                continue\n            start, end = (int(x, 16) for x in line.split()[0].split('-'))\n"
    "            try:\n                memory.seek(start)\n                data = memory.read(end - start)\n"
    "            except Exception:\n                continue\n"
    "            hit = re.search(rb'twice[(]%d[)] == (\\[[-0-9, ]+\\])' % number, data)\n"
    "            if hit:\n                found = eval(hit.group(1))\n    return found\n"
)
REPORT = '{"ended": null, "printed": {"values": [["list", [["other", "x"]]], ["list", [["other", "x"]]]]}}'
FORGED = {
    "lying list": LYING % ("list", "object", "[0]"),
    "lying object": LYING % ("object", "object", ""),
    "lying int": LYING % ("int", "int", "0"),
    "lying str": LYING % ("str", "str", "'[6, 6]'"),
    "lying items": "    class Lying(int):\n        __eq__ = lambda *_: True\n    return [Lying(), Lying()]\n",
    "list whose items change": (
        "    class Lying(list):\n        __iter__ = lambda _: iter([1])\n"
        "        __eq__ = lambda *_: True\n    return Lying([0])\n"
    ),
    "kind that pretends": (
        "    class Lying:\n        __class__ = list\n        __eq__ = lambda *_: True\n"
        "        __iter__ = lambda _: iter([number, number + 1])\n    return Lying()\n"
    ),
    "list comparison by ctypes": PATCH % 200,
    "frames for calls": FRAMES
    % (
        "            if name in ('expected', 'values', 'ended', 'tests', 'check', 'secret'):\n"
        "                found = value or found\n"
    ),
    "frames that hook the encoder": FRAMES
    % (
        "            if name == 'ValueEncoder':\n                value.encode = lambda *_: ['other', 'anything']\n"
        "                value.__call__ = lambda *_: ['list', [['object', 1]]]\n"
    ),
    "frames that end early": FRAMES
    % ("            if name == 'reporter':\n                value.write_report(None, {'values': [None, None]})\n"),
    "all objects": EVERY_OBJECT,
    "files": FILES,
    "memory": MEMORY,
    "patched json": (
        '    import json\n    json.dumps = lambda *_, **__: \'{"ended": null, "printed": null}\'\n    return [0]\n'
    ),
    "patched encoder": (
        "    import typed\n    typed.ValueEncoder.encode = lambda self, value, depth: ['true', True]\n    return [0]\n"
    ),
    "patched decoder": "    import typed\n    typed.decoded = lambda value: [0]\n    return [0]\n",
    "forged report": (
        "    import os\n    for fd in range(3, 20):\n        try:\n"
        f"            os.write(fd, {REPORT!r}.encode() + b'\\n')\n        except OSError:\n            pass\n"
        "    os._exit(0)\n"
    ),
    "secret of the report": (
        "    import os, sys\n    frame = sys._getframe()\n    while 'reporter' not in frame.f_locals:\n"
        "        frame = frame.f_back\n    it = frame.f_locals['reporter']\n"
        "    data = it.half + os.read(it.secret, 99)\n"
        f"    os.write(it.report, {REPORT!r}.encode() + b'\\n' + data + b'\\n')\n    os._exit(0)\n"
    ),
    "a word of the judge": "    import os\n    os.write(1, b'N')\n    os.write(2, b'N')\n    os._exit(0)\n",
    "atexit": "    import atexit\n    atexit.register(print, 'passed')\n    raise SystemExit(0)\n",
    "fork": "    import os\n    return [0] if os.fork() else [number, number]\n",
    "signal": (
        "    import os, signal\n    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    ),
    "alarm": (
        "    import os, signal, time\n    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
        "    signal.alarm(1)\n    time.sleep(2)\n"
    ),
    "no assertions": "    import builtins\n    builtins.AssertionError = SystemExit\n    return [0]\n",
    "traced": (
        "    import sys\n    sys.settrace(lambda *_: None)\n    sys.setprofile(lambda *_: None)\n    return [0]\n"
    ),
    "a module for the judge": (
        "    for path in ('/tmp/typed.py', '/program/typed.py', 'sitecustomize.py', 'random.py', 'marshal.py'):\n"
        "        open(path, 'w').write('import os; os.write(1, b\"N\"); os._exit(0)')\n    return [0]\n"
    ),
    "a judge of its own": (
        "    try:\n        open('/judge/replay_tests.py', 'w').write('print()')\n    except OSError:\n        pass\n"
        "    return [0]\n"
    ),
    "arguments": "    return [number.__class__] * 2\n",
    "nan": "    return [float('nan'), float('nan')]\n",
    "deep": "    value = []\n    for _ in range(100000):\n        value = [value]\n    return value\n",
    "long": "    return [0] * 10 ** 6\n",
    "no end": "    import itertools\n    return map(lambda x: number, itertools.count())\n",
    "wrapper of tests": (
        "    return [0]\ndef check(function):\n    pass\ndef wrap(function):\n"
        "    return lambda *_: type('All', (list,), {'__eq__': lambda *_: True})()\ntwice = wrap(twice)\n"
    ),
}
TWICE = {
    **PYTHON,
    "prompt": "def twice(number: int) -> list:\n",
    "declaration": "def twice(number: int) -> list:\n",
    "canonical_solution": "    return [number, number]\n",
    "test": "\ndef check(twice):\n    assert twice(2) == [2, 2]\n    assert twice(-1) == [-1, -1]\n\ncheck(twice)\n",
}


def judged(tmp_path: Path, sandbox, row: dict, texts: list[str]):
    """The judgements of answers to a row."""
    write(tmp_path, "python", row)
    task = open_task(tmp_path, "python", timeout=4)
    return judge_all(task, sandbox, [(task.problems[0], answer(task.problems[0], text)) for text in texts])


@pytest.mark.slow
def test_no_forged_answer_passes(tmp_path: Path, sandbox):
    found = dict(zip(FORGED, judged(tmp_path, sandbox, TWICE, list(FORGED.values())), strict=True))
    assert [name for name, each in found.items() if each.verdicts["strict"] is Verdict.PASSED] == []
    assert {each.extra["tests"] for each in found.values()} == {"outside"}
    # what these pretend still works where the tests run in the same process
    assert found["lying object"].verdicts["published"] is Verdict.PASSED


def test_equal_values_pass(tmp_path: Path, sandbox):
    """Equal is what the tests say: a subclass, NumPy's numbers, floats. The tests' order of failures counts."""
    right = ["    return [number, number]\n", "    return [float(number)] * 2\n", "    return [np.int64(number)] * 2\n"]
    right.append("    return collections.UserList([0]) and type('Own', (list,), {})([number, number])\n")
    for each in judged(tmp_path, sandbox, TWICE, right):
        assert set(each.verdicts.values()) == {Verdict.PASSED}, each.stderr
    wrong, error = judged(
        tmp_path / "b",
        sandbox,
        TWICE,
        ["    return [0] if number == 2 else 1 / 0\n", "    return [2, 2] if number == 2 else 1 / 0\n"],
    )
    assert set(wrong.verdicts.values()) == {Verdict.WRONG} and set(error.verdicts.values()) == {Verdict.ERROR}


@pytest.mark.parametrize(
    "line", ["assert twice(twice(1)[0]) == [1, 1]", "other = twice\n    assert other(1) == [1, 1]"]
)
def test_tests_that_cannot_run_outside(tmp_path: Path, sandbox, line: str):
    """Arguments that depend on values: the tests run inside, and the result says so."""
    row = {**TWICE, "test": f"\ndef check(twice):\n    {line}\n\ncheck(twice)\n"}
    (found,) = judged(tmp_path, sandbox, row, ["    return [number, number]\n"])
    assert found.verdicts["strict"] is Verdict.PASSED and found.extra["tests"] == "inside"
