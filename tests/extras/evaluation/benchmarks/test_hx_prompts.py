"""Prompts, stop rules and clean-up."""

import itertools
from pathlib import Path

import pytest
from benchmark_data import benchmark
from humaneval_x_rows import ROWS, write
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x import build
from ms_codegeex.extras.evaluation.task import SampledAnswer


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    for language in ROWS:
        write(tmp_path, language)
    return tmp_path


def prompt_of(task, language: str) -> str:
    seen = []

    def complete(prompt, *, seed, stop=None, max_new_tokens=None):
        seen.append(prompt)
        return SampledAnswer("", "eos")

    (problem,) = (each for each in task.problems if each.labels["language"] == language)
    assert task.produce(problem, 0, 1, complete).prompt == seen[0]
    return seen[0]


@pytest.mark.parametrize(
    ("language", "tag"),
    [
        ("python", "# language: Python"),
        ("cpp", "// language: C++"),
        ("java", "// language: Java"),
        ("js", "// language: JavaScript"),
        ("go", "// language: Go"),
        ("rust", "// language: Rust"),
    ],
)
def test_generation_prompts(everything: Path, language: str, tag: str):
    prompt = ROWS[language]["prompt"]
    assert prompt_of(build(everything, [language], tag=True), language) == f"{tag}\n{prompt}"
    assert prompt_of(build(everything, [language]), language) == prompt.strip()


def test_translation_prompt(everything: Path):
    task = build(everything, ["cpp"], "python", tag=True)
    assert prompt_of(task, "cpp") == (
        "code translation\nPython:\ndef triple(number: int) -> int:\n\n    return 3 * number\nC++:\n"
        "#include<stdio.h>\nusing namespace std;\nint triple(int number){\n"
    )
    assert task.problems[0].id == "CPP/7"
    assert task.problems[0].labels == {"language": "cpp", "source": "python"}
    lines = prompt_of(build(everything, ["js"], "cpp"), "js").split("\n")
    assert lines[-4:] == ["JavaScript:", "", "const triple = (number) => {", ""]


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(ROWS, 2)))
def test_translation_between_any_two(everything: Path, source: str, target: str):
    """30 pairs, with the 20 of the paper's five languages; solutions without trailing white space."""
    lines = prompt_of(build(everything, [target], source), target)
    assert lines.startswith("code translation\n") and lines.endswith(ROWS[target]["declaration"])
    assert ROWS[source]["canonical_solution"].rstrip() + "\n" in lines


def test_translation_takes_what_both_have(everything: Path):
    write(everything, "python", ROWS["python"], {**ROWS["python"], "task_id": "Python/8"})
    assert [problem.id for problem in build(everything, ["python"], "go").problems] == ["Python/7"]
    assert {problem.labels["language"] for problem in build(everything, (), "go").problems} == set(ROWS) - {"go"}
    with pytest.raises(UserError, match="needs another language"):
        build(everything, ["go"], "go")
    with pytest.raises(UserError, match="needs two languages"):
        build(everything / "python.jsonl.gz", (), "go")


STOPS = [
    # language, rules, text, whether it stops
    ("python", "codegeex", "    return 1\n", False),
    ("python", "codegeex", "    return 1\n\n\n", False),
    ("python", "codegeex", "    return 1\n\nx", True),
    ("python", "codegeex", "\treturn 1\n#", True),
    ("python", "codegeex2", "    return 1\ndef f", True),
    ("python", "codegeex2", "\n    return 1\n    # more", False),
    ("cpp", "codegeex", "  if (x) { return 1; }\n", False),
    ("cpp", "codegeex", "  if (x) { return 1; }\n}", True),
    ("cpp", "codegeex", "  return 1; // int main(\nint main(", False),
    ("cpp", "codegeex2", "  return 1;\nint main(", True),
    ("java", "codegeex", "  return 1; }", True),
    ("java", "codegeex2", "  return 1; ", False),
    ("js", "codegeex", "  return {}; }", True),
    ("js", "codegeex2", "  return {};", False),
    ("go", "codegeex", "  return 1\nfunc main() {", False),
    ("go", "codegeex2", "  return 1\nfunc main() {", True),
    ("rust", "codegeex2", "  1\n}", True),
    ("rust", "codegeex2", "  1\nfn main() {", True),
]


@pytest.mark.parametrize(("language", "rule_set", "text", "stops"), STOPS)
def test_stop_rules(language: str, rule_set: str, text: str, stops: bool):
    rule = stop_rules.codegeex_stop(language, rule_set)
    assert rule is not None and rule(text) is stops


def test_codegeex_never_stops_rust():
    assert stop_rules.codegeex_stop("rust", "codegeex") is None


CLEANED = [
    # language, rules, text, what is left
    ("python", "codegeex", "    return 1\n\ndef f():\n    pass\n\ndef g():\n", "    return 1\n\ndef f():\n    pass\n"),
    ("python", "codegeex", "    return 1\nassert f() == 1\nassert x", "    return 1\nassert f() == 1"),
    ("python", "codegeex", "    x = 1\nif x:\n    print(x)\nprint(x)", "    x = 1"),
    ("python", "codegeex", "    return 1\nx = 2\n", "    return 1\nx = 2\n"),
    ("python", "codegeex2", "    return 1\nx = 2\n", "    return 1\n"),
    ("python", "codegeex2", "\n    return 1\n\ndef f():\n    pass\n", "\n    return 1\n\n"),
    ("python", "codegeex2", "    return 1\n", "    return 1\n"),
    ("cpp", "codegeex", "  return 1;\n}\nint main() {}\n// end", "  return 1;\n}\nint main() {}"),
    ("cpp", "codegeex2", "  return 1;\n}\n\nint main() {}\n// end", "  return 1;\n}"),
    ("cpp", "codegeex", "  return 1;", "  return 1;"),
    ("java", "codegeex", "  return 1;\n }\n public static void main(String[] a) { f(); } }", "  return 1;\n }\n}"),
    ("java", "codegeex", "  return 1;\n }", "  return 1;\n }\n}"),
    ("java", "codegeex2", "  return 1;\n }\n}\n// end", "  return 1;\n }\n}"),
    ("js", "codegeex", "  return {}\n}\nconsole.log(1)", "  return {}\n}"),
    ("js", "codegeex2", "  return {}\n}\nconsole.log(1)", "  return {}\n}"),
    ("go", "codegeex", "  return 1\n}\n// next\nfunc g() {}", "  return 1\n}"),
    ("go", "codegeex", "  return 1\n}\nfunc main() {}", "  return 1\n}"),
    ("go", "codegeex2", "  return 1\n}\n// next\nfunc g() {}", "  return 1\n}\n// next\nfunc g() {}"),
    ("go", "codegeex2", "  return 1\n}\nfunc main() {}", "  return 1\n}"),
    ("rust", "codegeex", "  1\n}\n// end", "  1\n}\n// end"),
    ("rust", "codegeex2", "  1\n}\nfn main() {}\n", "  1\n}\nfn main() {}"),
]


@pytest.mark.parametrize(("language", "rule_set", "text", "left"), CLEANED)
def test_clean_up(language: str, rule_set: str, text: str, left: str):
    assert stop_rules.CLEAN_UPS[rule_set][language](text) == left


def test_the_text_before_the_clean_up_is_kept(everything: Path):
    task = build(everything, ["cpp"])

    def complete(prompt, *, seed, stop=None, max_new_tokens=None):
        assert stop("return 1; }") and not stop("return 1;")
        return SampledAnswer("    return 3*number;\n}\nmore", "stop")

    sample = task.produce(task.problems[0], 4, 1, complete)
    assert (sample.generation, sample.extra) == ("    return 3*number;\n}", {"raw": "    return 3*number;\n}\nmore"})
    assert (sample.task_id, sample.completion_id, sample.finish) == ("CPP/7", 4, "stop")


PIECES = st.lists(st.sampled_from(["{", "}", "\n", " ", "x", "def", "#", "//", "func main(", "int main(", "if", "\t"]))


@given(PIECES.map("".join), st.sampled_from(list(ROWS)), st.sampled_from(list(stop_rules.CLEAN_UPS)))
def test_clean_up_cuts_and_only_java_adds(text: str, language: str, rule_set: str):
    left = stop_rules.CLEAN_UPS[rule_set][language](text)
    added = left.removesuffix("\n}") if language == "java" else left
    assert text.startswith(left) or text.startswith(added)


@given(PIECES.map("".join))
def test_python_stays_stopped(text: str):
    """Also later: a decoder may ask only after several tokens."""
    stopped = [stop_rules.python_stop(text[:size]) for size in range(len(text) + 1)]
    assert stopped == sorted(stopped)


@pytest.mark.parametrize("rule_set", list(stop_rules.CLEAN_UPS))
def test_canonical_solutions_are_their_own_answers(rule_set: str):
    """What follows a solution is removed. Java's solution closes its class, which a model's need not."""
    benchmark("humaneval-x")
    follow = {"python": "\n\ndef more():\n    pass\n", "js": "\n// x", "cpp": "\n// x", "go": "\n// x", "java": "\n\n"}
    for problem in build(benchmark("")).problems:
        row = problem.data
        if row.language == "rust":
            continue
        left = stop_rules.CLEAN_UPS[rule_set][row.language](row.solution + follow[row.language])
        if row.language == "python" and rule_set == "codegeex":
            left = left[: stop_rules.first_unindented(left)]
        # CPP/94's solution has a line after its last brace
        whole = row.solution if row.language == "python" else row.solution[: row.solution.rfind("}") + 1]
        assert left.rstrip() == whole.rstrip(), problem.id
