"""HumanEval-X: 164 problems in Python, C++, Java, JavaScript, Go and Rust (CodeGeeX, KDD 2023, section 4)."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "HumanEval-X: 164 problems in six languages, and their translation",
    keys=("languages", "translate_from", "tag", "rules"),
    options=("timeout",),
    references_first=True,
    places=("cache:huggingface/hub/datasets--THUDM--humaneval-x",),
)
