"""Worked examples for the few-shot prompts of the assistant tasks, one for each of five languages.

Each is the same function. Its second to fifth line and the one that returns have a remark in English and Chinese.
"""

from __future__ import annotations

from dataclasses import dataclass

LOCALES = ("en", "zh")
SUMMARY = {"en": "Returns the largest of some numbers.", "zh": "返回一组数中最大的数。"}
REMARKS = (
    ("start with the first number", "从第一个数开始"),
    ("look at every number", "逐个查看每个数"),
    ("a larger number was found", "找到了更大的数"),
    ("remember it", "把它记下来"),
    ("return the largest number", "返回最大的数"),
)


@dataclass(frozen=True)
class TaskExample:
    """The function in one language."""

    code: str

    @property
    def faulty(self) -> str:
        """The function with its mistake."""
        return self.code.replace("number > best", "number < best")

    def commented(self, sign: str, locale: str) -> str:
        """The function with a comment before each line that has one."""
        parts, remarks = [], iter(REMARKS)
        for number, line in enumerate(self.code.split("\n")):
            if 1 <= number <= 4 or "return" in line:
                indent = line[: len(line) - len(line.lstrip())]
                parts.append(f"{indent}{sign} {next(remarks)[LOCALES.index(locale)]}")
            parts.append(line)
        return "\n".join(parts)


def _braced(head: str, first: str, loop: str) -> TaskExample:
    """The function in a language with C's blocks, which differ in these lines."""
    return TaskExample(f"""\
{head} {{
    {first}
    {loop} {{
        if (number > best) {{
            best = number;
        }}
    }}
    return best;
}}""")


EXAMPLES: dict[str, TaskExample] = {
    "Python": TaskExample("""\
def largest(numbers):
    best = numbers[0]
    for number in numbers:
        if number > best:
            best = number
    return best"""),
    "C++": _braced(
        "int largest(const std::vector<int>& numbers)", "int best = numbers[0];", "for (int number : numbers)"
    ),
    "Java": _braced("static int largest(int[] numbers)", "int best = numbers[0];", "for (int number : numbers)"),
    "JavaScript": _braced("function largest(numbers)", "let best = numbers[0];", "for (const number of numbers)"),
    "Go": TaskExample("""\
func largest(numbers []int) int {
\tbest := numbers[0]
\tfor _, number := range numbers {
\t\tif number > best {
\t\t\tbest = number
\t\t}
\t}
\treturn best
}"""),
}
