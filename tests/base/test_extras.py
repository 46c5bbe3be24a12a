"""An extra or a package of it that the installation lacks is one clear line; another missing module is the error that
it is."""

import dataclasses
import sys

import pytest

from ms_codegeex.base import extras
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import extra, registered
from ms_codegeex.commands import convert as convert_verb
from ms_codegeex.extras import entries
from ms_codegeex.formats.convert import TARGETS


@pytest.fixture
def entry(monkeypatch, tmp_path):
    """Registers a module for `--many`, `odd` being one that can be imported and cannot import what it needs."""
    (tmp_path / "odd.py").write_text("import no_such_library\n")
    monkeypatch.setattr(
        sys.modules["ms_codegeex.extras"], "__path__", [*sys.modules["ms_codegeex.extras"].__path__, str(tmp_path)]
    )
    return lambda name, where: monkeypatch.setattr(entries, "ENTRIES", {"train --many": {name: where}})


def test_an_entry_is_a_module_or_what_is_in_it():
    job_files = extra("train --job", "slurm")
    assert job_files is sys.modules["ms_codegeex.extras.jobs.job_files"]
    export = extra("convert --to", "gguf")
    assert export is sys.modules["ms_codegeex.extras.exchange.gguf_files.writing"].GGUFOutput
    assert "gguf" in registered("convert --to")


def test_what_is_not_installed_is_named_with_its_option(entry):
    entry("x", "no_such_room.network")
    with pytest.raises(UserError, match=r"^--many x: ms_codegeex\.extras\.no_such_room is not installed; "):
        extra("train --many", "x")


def test_without_the_wing_nothing_is_registered(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ms_codegeex.extras")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert registered("convert --to") == {}
    with pytest.raises(UserError, match=r"^--to gguf: ms_codegeex\.extras is not installed; "):
        extra("convert --to", "gguf")


def test_what_an_extra_lacks_itself_is_not_hidden(entry):
    entry("x", "odd")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        extra("train --many", "x")


def test_the_verb_offers_every_target():
    """Those of the core's table, except what `--layout` chooses, and those of the extras."""
    assert {*convert_verb.TARGETS} == {*TARGETS, *registered("convert --to")} - {"mindformers"}
    words = next(field for field in dataclasses.fields(convert_verb.Arguments) if field.name == "to").metadata
    assert all(f"{name}: " in str(words) for name in convert_verb.TARGETS)


LISTED = [
    "numpy",
    'numpy<2; extra == "one"',
    'no-such-a>=1,<2; extra == "one"',
    'no.such_b[fast]<2; platform_machine == "abacus" and extra == "one"',
    'no_such_c<2; (python_version > "3" and sys_platform != "abacus") and extra == "two"',
    'ms-codegeex[one,two]; extra == "both"',
    'no-such-b; sys_platform == "abacus" and extra == "three"',
]


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A folder in which packages are installed."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "gone"), str(site), *sys.path])
    for cached in (extras._installed, extras._required):
        cached.cache_clear()
    yield site
    for cached in (extras._installed, extras._required):
        cached.cache_clear()


@pytest.fixture
def listed(site):
    """The lists of an installed package."""
    (site / "ms_codegeex-9.dist-info").mkdir()
    lines = "".join(f"Requires-Dist: {line}\n" for line in LISTED)
    (site / "ms_codegeex-9.dist-info" / "METADATA").write_text(
        f'Name: ms-codegeex\n{lines}\nRequires-Dist: no-such-text; extra == "one"\n'
    )
    return site


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("one", ["no-such-a"]),
        ("two", ["no_such_c"]),
        ("both", ["no-such-a", "no_such_c"]),
        ("three", []),  # on other machines only
        ("four", []),
    ],
)
def test_the_packages_that_an_extra_lacks(listed, name, missing):
    assert extras.missing_packages(name) == missing


@pytest.mark.parametrize("name", ["no_such_a-1.0.dist-info", "No.Such_A-1.0-py3.11.egg-info"])
def test_an_installed_package_is_not_missed(listed, name):
    (listed / name).mkdir()
    assert extras.missing_packages("one") == []  # the other one of its list is for no machine


def test_where_the_package_is_not_installed_nothing_is_missed(site, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(site)])
    assert extras.missing_packages("corpus") == []


@pytest.mark.parametrize(("module", "name"), [("no_such_a.inner", "one"), ("no_such_c", "two")])
def test_a_failed_import_says_which_extra_has_the_package(listed, module, name):
    error = extras.explained(ModuleNotFoundError("No module", name=module))
    package = module.partition(".")[0].replace("_", "-")
    assert isinstance(error, UserError)
    assert str(error) == f"{package} is not installed; run `pip install 'ms-codegeex[{name}]'`"


@pytest.mark.parametrize("error", [ModuleNotFoundError("x", name="no_such_d"), ModuleNotFoundError(), ValueError()])
def test_another_error_stays_as_it_is(listed, error):
    assert extras.explained(error) is error
