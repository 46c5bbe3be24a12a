"""DS-1000's results are data before the answers come, and nothing but data is compared with them."""

import importlib
import importlib.util
import io
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
from ds1000_data import write_original

from ms_codegeex.extras.evaluation.benchmarks import ds1000
from ms_codegeex.extras.evaluation.judging.python_program import INSIDE
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample

READS = """
class Late:
    def __reduce__(self):
        return (eval, (f"__import__('pickle').load(open('ans/ans{args.test_case}.pkl', 'rb'))",))
y = Late()
"""
EQUAL = """
open('same.py', 'w').write('class Same:\\n    def __eq__(self, other): return True\\n')
import sys
sys.path.insert(0, '.')
import same
y = same.Same()
"""
PLANTED = """
places = ['.', '/tmp/.local/lib/python%d.%d/site-packages' % __import__('sys').version_info[:2]]
code = 'import sys; sys.modules["numpy.testing"] = None'
for place in places:
    os.makedirs(place, exist_ok=True)
    for name in ('numpy', 'json', 'plain', 'sitecustomize', 'usercustomize'):
        open(f'{place}/{name}.py', 'w').write('import os, sys; os._exit(0)')
y = 0
"""
LAZY = "open('data', 'wb').write(bytes(99))\ny = np.memmap('data', dtype='f8', shape=(3,))"
EQUAL_TEST = "def test(result, ans):\n    return int((result == ans) is True)\n"
CLOSE_TEST = "import numpy as np\ndef test(result, ans):\n    return int(np.allclose(result, ans))\n"


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    task = ds1000.build(write_original(tmp_path_factory.mktemp("ds") / "ds1000_data"))
    return task, task.problems[1]


@pytest.mark.parametrize(
    ("text", "test"),
    [(READS, CLOSE_TEST), (EQUAL, EQUAL_TEST), (PLANTED, CLOSE_TEST), (LAZY, CLOSE_TEST)],
    ids=["reads", "equal", "planted", "lazy"],
)
def test_a_result_that_is_more_than_data_does_not_pass(problem, sandbox, text, test):
    """It cannot read the answers, and no object of the program's own class is a result, whatever its __eq__ says."""
    task, known = problem
    changed = replace(known, data=replace(known.data, test_code=test))
    found = task.judge(changed, Sample(known.id, 0, "", text, "eos"), sandbox)
    assert Verdict.PASSED not in found.verdicts.values(), found


HONEST = """
import collections, datetime, decimal, io, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, pandas as pd, scipy.sparse
import plain
frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.Categorical(["u", "v"])})
times = pd.Series([1.0, 2.0], index=pd.date_range("2020-01-01", periods=2, tz="UTC"))
rows = pd.MultiIndex.from_tuples([(1, "a"), (2, "b")])
values = [
    None, True, 1 << 80, 2.5, 1j, "x", b"x", [1, (2, {3})], {"a": frozenset([1])}, slice(1, 2), range(3),
    collections.Counter("aab"), collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc), decimal.Decimal("1.5"),
    np.arange(6.0).reshape(2, 3), np.float32(1.5), np.dtype("i4"), np.array(["a", None], dtype=object),
    np.ma.masked_array([1, 2], [0, 1]), np.matrix([[1]]), np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.datetime64("2020-01-01"), frame, times, frame["b"], rows, frame.set_index(rows), pd.Timestamp("2020", tz="UTC"),
    pd.Timedelta("1h"), pd.Interval(0, 1), pd.NaT, pd.Period("2020-01"), pd.interval_range(0, 3),
    frame[["a"]].groupby("a").sum(), pd.array([1, None], dtype="Int64"), pd.offsets.MonthEnd(2),
    scipy.sparse.csr_matrix([[0, 1]]), scipy.sparse.coo_matrix([[0, 1]]),
]
if sys.argv[2] == "torch":
    import torch
    values = [torch.arange(3.0), {"t": (torch.ones(2, 2), torch.tensor(1))}, torch.tensor([True])]
lost = []
for value in values:
    try:
        file = io.BytesIO()
        plain.Pickler(file, 4).dump(value)
        back = plain.Unpickler(io.BytesIO(file.getvalue())).load()
        if type(back) is not type(value) or repr(back) != repr(value):
            lost.append(f"{value!r} is now {back!r}")
    except Exception as error:
        lost.append(f"{value!r}: {error!r}")
print("; ".join(lost))
"""


@pytest.mark.parametrize("libraries", [("pandas", "scipy"), ("torch",)], ids=["pandas", "torch"])
def test_results_of_the_libraries_are_plain_data(libraries):
    """Plain data survives writing and loading. In a separate process, because torch and MindSpore do not mix."""
    if lacking := [name for name in libraries if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(lacking)}")
    words = [sys.executable, "-c", HONEST, str(INSIDE), libraries[0]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


@pytest.fixture
def plain(monkeypatch):
    """The module of the sandbox that writes and reads results."""
    monkeypatch.syspath_prepend(str(INSIDE))
    return importlib.import_module("plain")


def test_an_iterator_travels_as_its_items_and_equals_nothing(plain):
    file = io.BytesIO()
    plain.Pickler(file, 4).dump(filter(None, [0, 3, 4]))
    found = plain.Unpickler(io.BytesIO(file.getvalue())).load()
    assert set(found) == {3, 4} and found != [3, 4] and found != found


def named(module, name):
    words = (b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + b"".join(words) + b"\x93."


HOSTILE = {
    "a class is changed": b"\x80\x02ccollections\nCounter\nN}U\x06__eq__cbuiltins\nstr\ns\x86b)R.",
    "a class that was made is changed": b"\x80\x02cbuiltins\nobject\n}U\x06__eq__cbuiltins\nstr\nsb.",
    "an instance is called": b"\x80\x02ccollections\nCounter\n)R)R.",
    "a class of another library": b"\x80\x02cnumpy.ma.core\nMaskError\n(i" + b"functools\npartial\n.",
    "numpy.testing's import": named("numpy.testing._private.utils", "StringIO"),
    "os.system": named("os", "system"),
    "eval": named("builtins", "eval"),
    "getattr": named("builtins", "getattr"),
    "numpy.load": named("numpy", "load"),
    "numpy.memmap": named("numpy", "memmap"),
    "pandas.read_pickle": named("pandas", "read_pickle"),
    "DataFrame.eval": named("pandas.core.frame", "DataFrame.eval"),
    "the program's class": named("__main__", "Same"),
    "partial": named("functools", "partial"),
    "attrgetter": named("operator", "attrgetter"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_names_or_does_anything_else_is_not_loaded(name, plain):
    with pytest.raises(pickle.UnpicklingError, match=r"plain data|not an instance"):
        plain.Unpickler(io.BytesIO(HOSTILE[name])).load()
