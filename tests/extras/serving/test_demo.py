"""The web demo without a browser: its files, their headers, examples, and the flags of CodeGeeX2's demo."""

import json
import re

import httpx
import pytest
from asking import running
from conftest import command_here
from fake_backend import FakeBackend, fake_settings

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import declared
from ms_codegeex.extras.serving.app import ASSETS, create_app, load_examples
from ms_codegeex.extras.serving.commands.serve import REPLACED, DemoFlags

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = sorted(path for path in ASSETS.iterdir() if path.suffix in TYPES)


def served(**changes):
    """What asks a server with these settings."""
    backend = FakeBackend(**changes)
    transport = httpx.ASGITransport(create_app(backend.settings, backend))

    async def asked(path):
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path)

    return lambda path: running(asked(path))


@pytest.fixture(scope="module")
def demo():
    """What asks a server with the demo."""
    return served(demo=True)


def test_there_is_no_page_unless_it_is_asked_for():
    plain = served()
    for path in ("/", "/demo/assets/main.js", "/demo/examples"):
        assert plain(path).status_code == 404


@pytest.mark.parametrize("path", ["/", *(f"/demo/assets/{file.name}" for file in FILES)])
def test_page_and_assets_are_served_with_their_type_and_the_policy(demo, path):
    response = demo(path)
    file = ASSETS / (path.rpartition("/")[2] or "index.html")
    assert response.status_code == 200 and response.content == file.read_bytes()
    assert response.headers["content-type"].split(";")[0] == TYPES[file.suffix]
    policy = [part.strip() for part in response.headers["content-security-policy"].split(";")]
    assert policy[0] == "default-src 'self'" and "frame-ancestors 'none'" in policy
    assert not any(word in " ".join(policy) for word in ("unsafe", "http", "*", "data:"))
    assert response.headers["x-content-type-options"] == "nosniff"


def test_other_names_are_no_assets(demo):
    for name in ("examples.jsonl", "nothing.js", "..%2frouter.py"):
        response = demo(f"/demo/assets/{name}")
        assert response.status_code == 404 and response.json()["error"]["message"]


def test_the_page_needs_no_file_of_another_host_and_has_no_script_of_its_own():
    for file in FILES:
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?:|//\w[\w-]*\.\w|@import|url\(", text), file.name
    page = (ASSETS / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|<style|\sstyle=|javascript:", page)
    names = {file.name for file in FILES} - {"index.html"}
    loaded = {*re.findall(r'(?:src|href)="demo/assets/([^"]+)"', page)}
    for name in [name for name in names if name.endswith(".js")]:
        loaded |= {*re.findall(r'from "\./([^"]+)"', (ASSETS / name).read_text("utf-8"))}
    assert loaded == names  # nothing is missing, nothing is left over


def test_no_script_makes_html_of_text():
    for file in ASSETS.glob("*.js"):
        text = file.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(", text), file


def test_our_examples_are_there_for_every_task(demo):
    found = demo("/demo/examples").json()
    assert {example["task"] for example in found} == {"complete", "translate", "explain"}
    assert len(found) >= 8 and all(example["code"] and example["title"] for example in found)


def test_examples_of_a_file_in_the_releases_form(tmp_path):
    path = tmp_path / "examples.jsonl"
    rows = [{"code": "\n# bubble sort\n", "langauge": "python"}, {"code": "int main() {", "language": "C++"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = served(demo=True, example_path=path)("/demo/examples").json()
    assert [(row["task"], row["language"], row["title"]) for row in found] == [
        ("complete", "Python", "# bubble sort"),
        ("complete", "C++", "int main() {"),
    ]


@pytest.mark.parametrize(
    "line,words",
    [
        ("{", ":1: not JSON"),
        ("[]", ":1: not a JSON object"),
        ('{"language": "Go"}', ":1: no text `code`"),
        ('{"code": "x"}', ":1: no text `language`"),
        ('{"code": "x", "language": "Pyton"}', "did you mean Python"),
        ('{"code": "x", "language": "Go", "task": "sing"}', "complete, translate, explain"),
    ],
)
def test_a_mistake_in_an_example_is_named(tmp_path, line, words):
    path = tmp_path / "examples.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match="--example-path") as caught:
        load_examples(path)
    assert words in str(caught.value)


def test_examples_without_the_demo_are_refused():
    with pytest.raises(UserError, match="add --demo"):
        fake_settings(example_path="examples.jsonl")


def test_flags_of_codegeex2s_demo_that_have_an_equal_mean_the_same():
    from ms_codegeex.cli import parse

    rest = ["--demo", "--example-path", "e"]
    own = parse(["serve", "--model", "m", "--bits", "8", "--host", "127.0.0.2", "--devices", "2", *rest])
    theirs = parse(
        ["serve", "--model-path", "m", "--quantize", "8", "--listen", "127.0.0.2", "--n-gpus", "2", "--cpu", *rest]
    )
    assert {**vars(theirs), "cpu": False, "parser": None} == {**vars(own), "parser": None}


@pytest.mark.parametrize("option", [each for each in declared(DemoFlags) if each.name != "cpu"], ids=lambda x: x.name)
def test_the_others_are_answered_with_what_replaces_them(option):
    flag, words = option.flag, [option.flag] if option.type is bool else [option.flag, "1"]
    result = command_here("serve", "--model-path", "nowhere", *words)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == f"ms-codegeex serve: {flag} is a flag of CodeGeeX2's demo: {REPLACED[flag]}\n"


def test_what_replaces_a_flag_exists():
    help_text = command_here("serve", "--help").stdout
    named = {flag for words in REPLACED.values() for flag in re.findall(r"--[a-z-]+", words)}
    assert named and all(f"{flag} " in help_text or f"{flag}\n" in help_text for flag in named), named
    assert not any(f"{each.flag} " in help_text for each in declared(DemoFlags))
