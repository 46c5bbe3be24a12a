"""Which part of the package may import which: `ARROWS` is the complete table, and no imports form a cycle.

Every import counts, also one inside a function or under TYPE_CHECKING: a reader of the file needs the other one.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from ms_codegeex.base.extras import extra
from ms_codegeex.cli import VERBS
from ms_codegeex.extras.entries import ENTRIES

BASE = {  # files of the lowest folder, which every other may import, by what they import from it themselves
    "": "errors host nested locks interrupts json_reading digests appending",
    "errors": "hardware mesh installed options extras",
    "options": "verb_options",
    "errors nested": "webpage printing",
    "printing": "progress",
    "errors printing": "ending",
    "errors json_reading": "reading processes",
    "errors reading json_reading": "yaml_reading quarantine",
    "errors yaml_reading": "shipped",
    "errors shipped": "kinds",
    "errors reading shipped": "lookalikes",
    "errors locks": "files",
    "errors files locks": "cache",
}
LOWEST = {f"base.{name}": {f"base.{x}" for x in seen.split()} for seen, names in BASE.items() for name in names.split()}
CORE = {  # what a folder of the core may import besides the files of `base`, lowest first
    "base.cuda": "",
    "kernels": "",
    "models": "",
    "config": "models",
    "data": "config",
    "formats": "models config data",
    "parallel": "models config",
    "training": "kernels models config data formats parallel",
    "planning": "models config parallel",
    "generation": "kernels base.cuda models data formats",
    "runs": "base.cuda models config data formats parallel planning training",
    "commands": "kernels base.cuda models config data formats generation runs",
    "cli": "commands",
}
WING = {  # the same for the extras, which may import the core
    "extras.entries": "",
    "extras.shared": "",
    "extras.corpus": "config data extras.shared",
    "extras.exchange": "models config data formats training extras.corpus",
    "extras.jobs": "config runs",
    "extras.cluster": "base.cuda models config data formats parallel training planning runs commands",
    "extras.evaluation": "kernels config data formats generation runs extras.shared extras.corpus",
    "extras.ray_engines": "extras.shared extras.evaluation",
    "extras.serving": "kernels base.cuda data generation",
    "extras.terminal": "kernels data generation extras.shared extras.serving",
}
NAMES = {  # that users type; what they stand for lies elsewhere
    "cuda": "base.cuda",
    "evaluation": "extras.evaluation",
    "mindformers_bridge": "extras.exchange",
}
FOLDERS = CORE | WING | NAMES
ARROWS = LOWEST | {name: {*LOWEST, *seen.split()} for name, seen in FOLDERS.items()}


def imports_of(package: Path) -> set[tuple[str, str]]:
    """(importer, imported) for all files of a package, by their dotted names inside it; the package itself is ""."""
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = set()
    for importer, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: write the whole name of what is imported"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name == package.name or name.startswith(f"{package.name}."):
                    inside = name[len(package.name) + 1 :]
                    imported = inside if inside in files else inside.rpartition(".")[0]  # a name in a file
                    found.add((importer, imported))
    return {(importer, imported) for importer, imported in found if importer != imported}


def circle(imports: set[tuple[str, str]]) -> list[str] | None:
    """One circle of imports, None if there is none."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported in imports:
        sorter.add(importer, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return None


def circle_of_folders(imports: set[tuple[str, str]]) -> list[str] | None:
    """One circle between the files and folders that lie in the same folder, None if there is none."""
    names = [name.split(".") for edge in imports for name in edge]
    for folder in {".".join(parts[:depth]) for parts in names for depth in range(1, len(parts))}:
        inner = [[name[len(folder) + 1 :] for name in edge if name.startswith(f"{folder}.")] for edge in imports]
        first = {tuple(name.partition(".")[0] for name in edge) for edge in inner if len(edge) == 2}
        if found := circle({(importer, imported) for importer, imported in first if importer != imported}):
            return [f"{folder}.{name}" for name in found]
    return None


def part(name: str) -> str:
    """The file of `base`, or the folder, that ARROWS names."""
    top, _, rest = name.partition(".")
    if top == "base":
        return "base.cuda" if rest.startswith("cuda") else name
    if top == "extras":
        return ".".join(name.split(".")[:2])
    return top


def upward(imports: set[tuple[str, str]]) -> list[str]:
    """Imports between the parts of the package that no arrow allows."""
    return sorted(
        f"{importer} imports {imported}"
        for importer, imported in imports
        if imported and (top := part(importer)) != (below := part(imported)) and below not in ARROWS.get(top, ())
    )


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    return imports_of(ROOT / "ms_codegeex")


PROGRAMS = yaml.safe_load((ROOT / "tests" / "programs.yaml").read_text(encoding="utf-8"))


def programs(package: Path) -> set[str]:
    """What is started by itself, by its dotted name: the verbs, what the wing has registered for them, and all files
    that run as a program. Those in `inside` run without the package."""
    files = [path for path in package.rglob("*.py") if "inside" not in path.parts]
    started = [path for path in files if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    added = {entry.partition(":")[0] for entries in ENTRIES.values() for entry in entries.values()}
    verbs = [package / place.replace(".", "/") / f"{verb.replace('-', '_')}.py" for verb, place in VERBS.items()]
    found = {".".join(path.relative_to(package).with_suffix("").parts) for path in [*started, *verbs]}
    return found | {f"extras.{name}" for name in added}


def test_every_program_is_in_the_table():
    assert programs(ROOT / "ms_codegeex") == PROGRAMS.keys()


def test_a_new_program_is_found(tmp_path):
    (tmp_path / "inside").mkdir()
    for name in "started", "imported", "inside/in_the_sandbox":
        ending = "" if name == "imported" else 'if __name__ == "__main__":\n    run()\n'
        (tmp_path / f"{name}.py").write_text(f"def run(): ...\n{ending}")
    assert {name for name in programs(tmp_path) if "." not in name} == {"started"}


def reached(program: str, imports: set[tuple[str, str]]) -> set[str]:
    """The files that a program imports, itself included, by their dotted names. Imports inside functions count."""
    below: dict[str, set[str]] = {}
    for importer, imported in imports:
        below.setdefault(importer, set()).add(imported)
    found, todo = set(), [program]
    while todo:
        name = todo.pop()
        if name and name not in found:
            found.add(name)
            todo += below.get(name, ())
    return found


def size(names: set[str]) -> list[int]:
    """The number of these files and that of their lines."""
    paths = [ROOT / "ms_codegeex" / (name.replace(".", "/") + ".py") for name in names]
    return [len(paths), sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths if path.is_file())]


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_reaches_is_written_down(program, imports):
    """Who changes the program may have to know these files."""
    files, lines = size(reached(program, imports))
    most_files, most_lines = PROGRAMS[program]
    assert files <= most_files and lines <= most_lines, f"{program}: [{files}, {lines}]"


PARSERS = {"json": {"load", "loads", "JSONDecoder", "decoder", "scanner"}, "yaml": {"*"}}
PARSING = {  # files that may parse JSON or YAML themselves, and why; all others call `parse_json` or `parse_yaml`
    "base/json_reading.py": "the one reader of JSON",
    "base/yaml_reading.py": "the one reader of YAML",
    "generation/devices/messages.py": "from a process that this one started",
    "data/inside/chat_renderer.py": "runs without this package",
    "extras/serving/messages.py": "from the engine's process, many times a second",
    "extras/evaluation/judging/inside/compare.py": "runs in the sandbox, without this package",
    "extras/evaluation/judging/inside/compare_calls.py": "runs in the sandbox, without this package",
}


def parsing(path: Path) -> list[str]:
    """The lines of a file that parse JSON or YAML with the libraries' functions. Writing does not count, nor
    `json.loads(json.dumps(x))`."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    copies = {id(call.func) for call in calls if call.args and ast.unparse(call.args[0]).startswith("json.dumps(")}
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and id(node) not in copies:
            library, name = node.value.id, node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            library, _, rest = node.module.partition(".")
            name = rest or node.names[0].name
        if name and (name in PARSERS.get(library, ()) or (library == "yaml" and not name.endswith("dump"))):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Import) and any(x.name.split(".")[0] in PARSERS and x.asname for x in node.names):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_json_and_yaml_are_parsed_in_one_place():
    package = ROOT / "ms_codegeex"
    found = {path.relative_to(package).as_posix(): parsing(path) for path in package.rglob("*.py")}
    assert [line for name, lines in found.items() if name not in PARSING for line in lines] == []
    assert [name for name in PARSING if not found[name]] == []  # no longer needed in the table


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import json\njson.load(x)\njson.dumps(x)", 1),
        ("import json\njson.loads(json.dumps(x))", 0),
        ("import json\nlist(map(json.loads, x))", 1),
        ("import json as j\nj.loads(x)", 1),
        ("from json.decoder import JSONDecoder", 1),
        ("import yaml\nyaml.load_all(x, yaml.FullLoader)\nyaml.safe_dump(x)", 2),
        ("from yaml import safe_load", 1),
    ],
)
def test_parsing_is_found_in_any_form(tmp_path, text, count):
    (tmp_path / "a.py").write_text(text)
    assert len(parsing(tmp_path / "a.py")) == count


def test_no_files_and_no_folders_import_in_a_circle(imports):
    assert circle(imports) is None and circle_of_folders(imports) is None


def test_parts_of_the_package_import_only_what_lies_below_them(imports):
    assert {part(name) for edge in imports for name in edge} - {""} <= set(ARROWS)
    assert upward(imports) == []
    assert circle({(name, below) for name, seen in ARROWS.items() for below in seen}) is None


@pytest.mark.parametrize(
    "statement",
    [
        "from pack.runs.node import Node",
        "import pack.runs.node",
        "def late():\n    from pack.runs import node",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.runs.node import Node",
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(tmp_path, statement):
    empty = ("__init__", "base/__init__", "base/errors", "config/__init__", "runs/__init__", "runs/inner/__init__")
    for name, text in {
        **dict.fromkeys(empty, ""),
        "config/run": "from pack.base.errors import UserError",
        "runs/node": "from pack.config.run import RunConfig",
    }.items():
        path = tmp_path / "pack" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sound = imports_of(tmp_path / "pack")
    assert sound == {("config.run", "base.errors"), ("runs.node", "config.run")}
    assert circle(sound) is None and upward(sound) == []
    (tmp_path / "pack" / "config" / "run.py").write_text(statement)
    wrong = imports_of(tmp_path / "pack")
    assert upward(wrong) == ["config.run imports runs.node"]
    found = circle(wrong)
    assert found[0] == found[-1] and set(pairwise(found)) <= wrong


def test_folders_in_a_circle_are_found_though_no_files_are():
    imports = {("data.corpus.build", "data.order.shuffle"), ("data.order.table", "data.corpus.names")}
    assert circle(imports) is None
    found = circle_of_folders(imports)
    assert found[0] == found[-1] and set(found) == {"data.corpus", "data.order"}


def listed_files() -> list[str]:
    """The files that contributing.md says to read first, in its order."""
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    section = page.partition("## Read these files first")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `(\S+)`", section, re.MULTILINE)


def test_the_files_to_read_first_are_short_and_begin_with_the_road_from_the_command_to_the_step():
    """Of which each imports the next one, or starts it by its name."""
    files = listed_files()
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in files]
    assert len(files) == 12 and [name for name, x in zip(files, texts, strict=True) if x.count("\n") >= 350] == []
    names = [name.removesuffix(".py").replace("/", ".") for name in files[:6]]
    assert (names[0], names[-1]) == ("ms_codegeex.commands.train", "ms_codegeex.training.step")
    for text, following in zip(texts, names[1:], strict=False):
        assert following.removesuffix(".__main__") in text, following


UNREACHED = {  # files of the core that no program of it imports: beginnings of their names, and who needs them
    "models.": "by the name of a family (models/registry.py)",
    "data.tokenizer.exported.": "run by transformers, from a model's directory",
    "formats.exported.": "run by transformers, from a model's directory",
    "data.inside.": "run by a process without this package",
    **{f"{name}.": "a name that users type, whose program lies in the wing or in base/" for name in NAMES},
}


def unreached(files: set[str], imports: set[tuple[str, str]], programs: Iterable[str]) -> set[str]:
    """Files of the core that none of its programs imports: only the wing needs them, or nobody."""
    of_core = [name for name in programs if not name.startswith("extras.") and name not in NAMES]
    found = set[str]().union(*(reached(program, imports) for program in of_core))
    return {name for name in files if not name.startswith("extras.")} - found


def test_a_program_of_the_core_needs_every_file_of_it(imports):
    """What only extras need belongs into theirs, or into `extras/shared`."""
    package = ROOT / "ms_codegeex"
    paths = [path for path in package.rglob("*.py") if path.stem != "__init__"]
    files = {".".join(path.relative_to(package).with_suffix("").parts) for path in paths}
    found = unreached(files, imports, PROGRAMS)
    assert [name for name in found if not f"{name}.".startswith(tuple(UNREACHED))] == []
    assert [start for start in UNREACHED if not any(f"{name}.".startswith(start) for name in found)] == []


def test_a_file_that_only_the_wing_needs_is_found():
    imports = {("cli", "base.errors"), ("extras.jobs.files", "base.tables"), ("base.tables", "base.errors")}
    files = {"cli", "base.errors", "base.tables", "base.nobody", "extras.jobs.files"}
    assert unreached(files, imports, ["cli", "extras.jobs.files"]) == {"base.tables", "base.nobody"}


NAMED = re.compile(r"(ms_codegeex\.)?extras\.\w+")
# The table of the verbs, the reader of the table of entries, and the names of users.
MAY_NAME = ("cli.py", "base/extras.py", *(f"{name}.py" for name in NAMES))


def named(text: str) -> list[str]:
    """Strings that name a module of the wing, which the core could import by them. Documentation may."""
    tree = ast.parse(text)
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in constants if NAMED.fullmatch(node.value.partition(":")[0].rpartition(".")[0])]


def test_the_core_names_no_extra_either():
    package = ROOT / "ms_codegeex"
    for path in package.rglob("*.py"):
        if (name := path.relative_to(package).as_posix()) not in MAY_NAME and not name.startswith("extras/"):
            assert named(path.read_text(encoding="utf-8")) == [], name


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('importlib.import_module("ms_codegeex.extras.jobs.job_files")', 1),
        ('MODULE = "extras.jobs.job_files:servers_of"', 1),
        ('def f():\n    """See `extras/jobs` and extras.jobs.job_files."""', 0),
        ('extra("train --job", "slurm")', 0),
    ],
)
def test_a_name_of_an_extra_is_found(text, count):
    assert len(named(text)) == count


@pytest.mark.parametrize(("place", "name"), [(place, name) for place, names in ENTRIES.items() for name in names])
def test_what_is_registered_exists_and_is_asked_for(place, name):
    """By a verb that the place begins with: a row that no verb reads would be dead."""
    assert extra(place, name) is not None
    verb = place.split()[0]
    asking = [
        ROOT / "ms_codegeex" / VERBS[verb].replace(".", "/") / f"{verb}.py",
        *(path for folder in ("commands", "runs") for path in (ROOT / "ms_codegeex" / folder).glob("*.py")),
    ]
    assert any(f'"{place}"' in path.read_text(encoding="utf-8") for path in asking)


def test_the_core_works_without_the_wing():
    """Its verbs parse their command lines; what an extra adds is refused in one line."""
    code = (
        "import sys; sys.modules['ms_codegeex.extras'] = None\n"
        "from ms_codegeex.cli import main, parse\n"
        "for line in ('train --config a', 'convert --model a --to hf --output b', 'generate --model a --prompt b'):\n"
        "    parse(line.split())\n"
        "sys.exit(main(['train', '--config', 'codegeex_tiny', '--job', 'slurm']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--job slurm: ms_codegeex.extras is not installed" in done.stderr, done.stderr


def test_no_two_folders_have_a_class_of_the_same_name():
    """Files in `exported/` go into model directories, with the names that transformers expects."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "ms_codegeex").rglob("*.py"):
        if "exported" not in path.parts:
            for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
                found.setdefault(name, []).append(path.relative_to(ROOT / "ms_codegeex").as_posix())
    several = {name: files for name, files in found.items() if len(files) > 1}
    assert all("commands/" in file for file in several.pop("Arguments"))
    assert several == {}
