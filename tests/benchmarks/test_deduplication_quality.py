"""The benchmark of deduplication: its truth is that of comparing all pairs, and `prepare` agrees with it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import random
from deduplication import highest_similarities, jaccard, shingles

generator = random.Random(1)
words = [f"word{number}" for number in range(60)]
texts = []
for _ in range(300):
    items = list(generator.choice(texts)) if texts and generator.random() < 0.7 else generator.choices(words, k=80)
    for place in generator.sample(range(len(items)), generator.choice((0, 1, 2, 5))):
        items[place] = generator.choice(words)
    texts.append(items)
texts[5] = []
sets, kept = [shingles(" ".join(items)) for items in texts], [generator.random() < 0.8 for _ in texts]
kept[5] = False
wanted = [
    max((jaccard(own, sets[other]) for other in range(number) if own and kept[other]), default=0.0)
    for number, own in enumerate(sets)
]
found = highest_similarities(sets, kept, 0.5)
assert found == [value if value >= 0.5 else 0.0 for value in wanted]
print(sum(value > 0 for value in found))
"""


def run(*words, folder="."):
    done = subprocess.run([sys.executable, *words], cwd=ROOT / folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_truth_is_that_of_all_pairs():
    assert int(run("-c", SCRIPT, folder="benchmarks")) > 100


def test_quick():
    out = run("benchmarks/deduplication.py", "--quick", "--input", "ms_codegeex/data", "--workers", "1")
    assert "exact copies: recall 1.0000" in out and ", precision 1.0000" in out
    found = re.search(r"recall of J >= 0.90 ([\d.]+) .* precision at J >= 0.80 ([\d.]+)", out)
    assert float(found[1]) >= 0.95 and float(found[2]) >= 0.95, out
    by = dict(re.findall(r"20% of the names, by (words|tokens): (\d+) found, 0 lost with their copies", out))
    assert int(by["words"]) <= 1 and int(by["tokens"]) >= 3, out
