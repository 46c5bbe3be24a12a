"""Parse YAML within limits; only this module parses YAML. Plain scalars are read as in YAML 1.2. PyYAML follows 1.1, in
which 012 is ten, 12:30 is 750, `on` is true and a date is not text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.composer import Composer

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MAX_DIGITS, MAX_NESTING, MalformedText
from ms_codegeex.base.reading import read_regular, read_stream

MAX_BYTES = 1 << 20  # our largest file has 30 KB; the parser reads about 200 KB/s
MAX_VALUES = 20_000  # each alias counts as what it stands for; a resolved configuration has 300
TAG = "tag:yaml.org,2002:"
UNKNOWN = (f"{TAG}timestamp", f"{TAG}value")  # read as text
FORMS = {  # plain scalars that are not text; PyYAML quotes texts of these forms when it writes
    f"{TAG}bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"),
    f"{TAG}int": re.compile(r"-?(?:0|[1-9][0-9]*)$"),
    f"{TAG}float": re.compile(
        r"(?:(?:[-+]?[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class _Loader(Composer, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # libyaml, if it is there
    """PyYAML's loader, which refuses expensive or ambiguous input while it reads, not afterwards."""

    yaml_implicit_resolvers: ClassVar = {
        letter: [(tag, FORMS.get(tag, form)) for tag, form in forms if tag not in UNKNOWN]
        for letter, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__()
        super(Composer, self).__init__(text)
        self._depth, self._values, self._sizes = 0, 0, dict[str, int]()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._add(self._sizes.get(event.anchor, MAX_VALUES), event)  # an alias inside its own anchor never ends
            return super().compose_node(parent, index)
        if isinstance(event, yaml.ScalarEvent) and "\0" in event.value:
            raise _refused("a NUL character", event)  # no path can contain a NUL
        before = self._values
        self._add(1, event)
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise _refused(f"nested deeper than {MAX_NESTING} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._values - before
        return node

    def _add(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values, aliases counted as what they stand for", event)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise _refused(f"key {key.value!r} occurs twice", key)
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return node

    def construct_number(self, node: Any) -> Any:
        """Construct an int or a float. `!!int` may ask for base 60, which takes minutes for a long number."""
        if len(node.value) > MAX_DIGITS:
            raise _refused(f"a number of more than {MAX_DIGITS} digits", node)
        if node.tag == f"{TAG}int":
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


_Loader.add_constructor(f"{TAG}int", _Loader.construct_number)
_Loader.add_constructor(f"{TAG}float", _Loader.construct_number)


def _refused(reason: str, marked: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=marked.start_mark)


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML document (bytes: UTF-8). Raises `MalformedText` if it is not YAML, is too deep or too
    large, or has a number with too many digits, a duplicate key or a NUL."""
    if len(text) > MAX_BYTES:
        raise MalformedText(f"(larger than {MAX_BYTES:,} bytes)")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise MalformedText(f"(not UTF-8 at byte {error.start}; save it as UTF-8)") from None
    # values that do not fit their tags (!!bool x, an impossible date) raise errors of many classes
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "unknown place"
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        if "cannot start any token" in str(problem) and "\t" in text:  # type: ignore[operator] # it has been decoded
            problem = f"{problem}; indent with spaces, not with tabs"
        raise MalformedText(f"at {where} ({problem})") from None


def read_yaml_file(path: Path, pipe: bool = False) -> Any:
    """Return the value of a YAML file. `pipe`: the user named the file, which may be a pipe. Raises `FileNotFoundError`
    if there is none; `UserError` if it is not readable or not a regular file, or if `parse_yaml` refuses it."""
    try:
        return parse_yaml((read_stream if pipe else read_regular)(path, MAX_BYTES))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); restore it or choose another") from None
    except MalformedText as error:
        raise UserError(f"{path}: not valid YAML {error}; correct it") from None
