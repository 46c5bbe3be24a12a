"""The six languages of HumanEval-X: what they are called where."""

from __future__ import annotations

from dataclasses import dataclass

from ms_codegeex.data.languages import find_language


@dataclass(frozen=True)
class Language:
    """One of the six.

    Attributes:
        name: on the command line, in labels and in file names.
        prefix: of its problems' ids, as in `CPP/12`.
        title: in a translation prompt.
        keys: what its rows have beside the keys that all rows have and we read.
    """

    name: str
    prefix: str
    title: str
    keys: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """CodeGeeX's tag line, without its newline."""
        return find_language(self.name).tag


LANGUAGES = {
    language.name: language
    for language in (
        Language("python", "Python", "Python"),
        Language("cpp", "CPP", "C++"),
        Language("java", "Java", "Java"),
        Language("js", "JavaScript", "JavaScript"),
        Language("go", "Go", "Go", ("import", "test_setup")),
        Language("rust", "Rust", "Rust"),
    )
}
BY_PREFIX = {language.prefix: language for language in LANGUAGES.values()}
