"""The six languages of HumanEval-X and their names in files, ids and prompts."""

from __future__ import annotations

from dataclasses import dataclass

from ms_codegeex.data.languages import find_language


@dataclass(frozen=True)
class BenchmarkLanguage:
    """One of the six languages.

    Attributes:
        name: on the command line, in labels and in file names.
        prefix: of its problems' ids, as in `CPP/12`.
        title: in a translation prompt.
        keys: the keys of its rows that we read in addition to the common ones.
    """

    name: str
    prefix: str
    title: str
    keys: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """CodeGeeX's tag line, without the line break."""
        return find_language(self.name).tag


LANGUAGES = {
    language.name: language
    for language in (
        BenchmarkLanguage("python", "Python", "Python"),
        BenchmarkLanguage("cpp", "CPP", "C++"),
        BenchmarkLanguage("java", "Java", "Java"),
        BenchmarkLanguage("js", "JavaScript", "JavaScript"),
        BenchmarkLanguage("go", "Go", "Go", ("import", "test_setup")),
        BenchmarkLanguage("rust", "Rust", "Rust"),
    )
}
BY_PREFIX = {language.prefix: language for language in LANGUAGES.values()}
