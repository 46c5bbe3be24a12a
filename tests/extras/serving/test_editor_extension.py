"""The VS Code extension in editors/vscode as far as it goes without an editor: its own tests, its types, its names."""

import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT

from ms_codegeex.data.languages import find_language

EXTENSION = ROOT / "editors" / "vscode"
SOURCES = sorted((EXTENSION / "src").rglob("*.js"))
MANIFEST = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))


def node_version() -> int:
    """The major version of Node, 0 if there is none."""
    if not shutil.which("node"):
        return 0
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=60).stdout
    return int(re.match(r"v(\d+)", found)[1])


def test_its_logic():
    if node_version() < 20:
        pytest.skip("needs Node 20 or later")
    files = sorted(map(str, (EXTENSION / "test").glob("*.test.js")))
    result = subprocess.run(["node", "--test", *files], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout
    assert int(re.search(r"^# pass (\d+)", result.stdout, re.M)[1]) >= 140


@pytest.mark.slow
def test_its_types():
    if not (EXTENSION / "node_modules" / ".bin" / "tsc").exists():
        pytest.skip("its tools are not installed: cd editors/vscode && npm ci --ignore-scripts")
    result = subprocess.run(["npm", "run", "check"], cwd=EXTENSION, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout


def test_its_languages_are_ours():
    names = json.loads((EXTENSION / "src" / "logic" / "languages.json").read_text(encoding="utf-8"))
    assert {name: find_language(name).name for name in names.values()} == {name: name for name in names.values()}


def test_every_command_and_setting_that_the_manifest_names_exists():
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    contributed = MANIFEST["contributes"]
    commands = {entry["command"].removeprefix("msCodegeex.") for entry in contributed["commands"]}
    registered = re.search(r"const commands = \{\n(.*?)\n  \};", text, re.S)[1]
    assert set(re.findall(r"^    (\w+): ", registered, re.M)) == commands
    named = {entry["command"] for entry in (*contributed["keybindings"], *contributed["menus"]["commandPalette"])}
    assert {name.removeprefix("msCodegeex.") for name in named} <= commands
    settings = {name.removeprefix("msCodegeex.") for name in contributed["configuration"]["properties"]}
    assert set(re.findall(r"get\('(\w+)'\)", text)) == settings


def words(name: str) -> dict[str, str]:
    return json.loads((EXTENSION / name).read_text(encoding="utf-8"))


def test_the_manifest_is_in_english_and_chinese():
    used = set(re.findall(r'"%([\w.]+)%"', (EXTENSION / "package.json").read_text(encoding="utf-8")))
    english, chinese = words("package.nls.json"), words("package.nls.zh-cn.json")
    assert used == set(english) == set(chinese)
    assert all(re.search(r"[\u4e00-\u9fff]", text) for text in chinese.values())
    titles = [entry["title"] for entry in MANIFEST["contributes"]["commands"]]
    titles += [
        entry["markdownDescription"] for entry in MANIFEST["contributes"]["configuration"]["properties"].values()
    ]
    assert all(title.startswith("%") for title in titles)


def test_every_message_is_there_in_chinese_with_its_parts():
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    said = {single or double for single, double in re.findall(r"""\bt\(\s*(?:'([^']+)'|"([^"]+)")""", text)}
    own = re.search(r"const LINES = \{\n(.*?)\n\};", text, re.S)[1]  # of errors, translated where they are shown
    said |= set(re.findall(r": '([^']+)',", own))
    chinese = words("l10n/bundle.l10n.zh-cn.json")
    assert said == set(chinese)
    for english, translated in chinese.items():
        assert sorted(re.findall(r"\{\d\}", english)) == sorted(re.findall(r"\{\d\}", translated)), english


def test_no_message_is_shown_untranslated():
    shown = re.compile(r"""(?:show\w+Message\(|title: |label: )['"`](?!CodeGeeX: \$)[A-Za-z]{3,}""")
    for path in SOURCES:
        assert not shown.search(path.read_text(encoding="utf-8")), path


def test_it_has_no_telemetry_and_no_dependency():
    """The only address is that of the setting, the only request is the client's."""
    assert "dependencies" not in MANIFEST
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        said = text.replace("it must begin with http:// or https://", "")
        assert not re.search(r"https?://", said), path
        if path.name != "client.js":
            assert not re.search(r"\bfetch\(|XMLHttpRequest|require\('(?:node:)?(?:https?|net)'\)", text), path


def test_where_code_goes_is_no_folders_choice():
    assert MANIFEST["contributes"]["configuration"]["properties"]["msCodegeex.server"]["scope"] == "application"


def test_a_folder_that_is_not_trusted_does_not_choose_what_is_sent():
    """VS Code reads `restrictedConfigurations` only where the support is limited."""
    support = MANIFEST["capabilities"]["untrustedWorkspaces"]
    assert support["supported"] == "limited"
    names = {name.removeprefix("msCodegeex.") for name in support["restrictedConfigurations"]}
    assert names == {"contextCharacters", "enable", "disabledFor", "countAcceptance"}


def test_the_lock_file_names_no_machine():
    lock = json.loads((EXTENSION / "package-lock.json").read_text(encoding="utf-8"))
    for name, package in lock["packages"].items():
        address = package.get("resolved", "https://registry.npmjs.org/")
        assert address.startswith("https://registry.npmjs.org/"), name
        assert not name or "integrity" in package, name
