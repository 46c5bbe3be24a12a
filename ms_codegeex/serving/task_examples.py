"""Worked examples for the few-shot prompts of the assistant tasks, one for each of five languages.

Each is the same function: its lines, a comment on each in English and Chinese, and the number and text of the wrong
line in its faulty version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOCALES = ("en", "zh")
SUMMARY = {"en": "Returns the largest of some numbers.", "zh": "返回一组数中最大的数。"}
_START = ("start with the first number", "从第一个数开始")
_LOOP = ("look at every number", "逐个查看每个数")
_FOUND = ("a larger number was found", "找到了更大的数")
_KEEP = ("remember it", "把它记下来")
_RESULT = ("return the largest number", "返回最大的数")
Remark = tuple[str, str]


@dataclass(frozen=True)
class TaskExample:
    """A function: `lines` of code, the comment before each (None: none), and one line in a faulty version."""

    lines: Sequence[tuple[str, Remark | None]]
    fault: tuple[int, str]

    @property
    def code(self) -> str:
        """The function without comments."""
        return "\n".join(line for line, _ in self.lines)

    @property
    def faulty(self) -> str:
        """The function with its mistake."""
        place, wrong = self.fault
        return "\n".join(wrong if number == place else line for number, (line, _) in enumerate(self.lines))

    def commented(self, sign: str, locale: str) -> str:
        """The function with a comment before each line that has one."""
        parts = []
        for line, remark in self.lines:
            if remark is not None:
                indent = line[: len(line) - len(line.lstrip())]
                parts.append(f"{indent}{sign} {remark[LOCALES.index(locale)]}")
            parts.append(line)
        return "\n".join(parts)


def _braced(head: str, first: str, loop: str) -> TaskExample:
    """The function in a language with C's blocks, which differ in these lines."""
    return TaskExample(
        (
            (f"{head} {{", None),
            (f"    {first}", _START),
            (f"    {loop} {{", _LOOP),
            ("        if (number > best) {", _FOUND),
            ("            best = number;", _KEEP),
            ("        }", None),
            ("    }", None),
            ("    return best;", _RESULT),
            ("}", None),
        ),
        (3, "        if (number < best) {"),
    )


EXAMPLES: dict[str, TaskExample] = {
    "Python": TaskExample(
        (
            ("def largest(numbers):", None),
            ("    best = numbers[0]", _START),
            ("    for number in numbers:", _LOOP),
            ("        if number > best:", _FOUND),
            ("            best = number", _KEEP),
            ("    return best", _RESULT),
        ),
        (3, "        if number < best:"),
    ),
    "C++": _braced(
        "int largest(const std::vector<int>& numbers)", "int best = numbers[0];", "for (int number : numbers)"
    ),
    "Java": _braced("static int largest(int[] numbers)", "int best = numbers[0];", "for (int number : numbers)"),
    "JavaScript": _braced("function largest(numbers)", "let best = numbers[0];", "for (const number of numbers)"),
    "Go": TaskExample(
        (
            ("func largest(numbers []int) int {", None),
            ("\tbest := numbers[0]", _START),
            ("\tfor _, number := range numbers {", _LOOP),
            ("\t\tif number > best {", _FOUND),
            ("\t\t\tbest = number", _KEEP),
            ("\t\t}", None),
            ("\t}", None),
            ("\treturn best", _RESULT),
            ("}", None),
        ),
        (3, "\t\tif number < best {"),
    ),
}
