"""The VS Code extension, packaged, in a real VS Code against our server: what a user sees is what the server said."""

import contextlib
import dataclasses
import subprocess

import pytest
from code_server import Editor, browser_page, code_server, missing
from conftest import ROOT
from fake_backend import FakeBackend, fake_model, key_file
from over_http import served as served_over_http
from recited_model import save_recited
from run_processes import wait_for
from served import served

from ms_codegeex.data.conversations import TEMPLATES

pytestmark = [pytest.mark.slow]
EXTENSION = ROOT / "editors" / "vscode"
PROMPT, ANSWER = "def total(values):", "\n    return sum(x ** 2 for item in group)"
EXPLAINED = "import os.path"
KEY = "a-key-of-the-tests-0123456789"
QUICK = {"msCodegeex.delay": 50}
TEMPLATE = "# Example\nx = 1\n\n<INPUT>\n\n# Why?\n<INPUT:0,1>\n"
FOLDER = {"msCodegeex.candidates": 30, "msCodegeex.countAcceptance": True, "search.useIgnoreFiles": False}


ANSWERS = {  # by the end of the prompt; several take turns
    "import os": ["\nimport sys\n\nprint(os, sys)\n"],
    "first = ": ["1\n\n", "max(1, 2)\n\n", "1 + 1\n\n"],
    "thirty = ": [f"answer_{number}\n\n" for number in range(30)],
    "print(remembered": [" + 1)\n\n"],
    "Python:\n": ["value = 1\n\n"],
    "# use sums\ndef twice(x):\n": ["    return x + x\n\n\nprint(twice(1))\n"],
    "counted = ": ["1 + 1\n\n"],
    "print(": ['"hello")\n\n'],
    "# Why?\ndef twice(x):\n": ["    # twice: the sum\n    return x + x\n\n\nprint(twice(1))\n"],
    "explain": [" The name `os` is imported.\n# It is not used.\n\n"],
}


class Scripted(FakeBackend):
    """Answers with `ANSWERS`."""

    hostile = ""  # what it answers instead

    def _begin(self, answer):
        prompt = self.model.tokenizer.decode(answer.ids)
        end = "explain" if EXPLAINED in prompt and not prompt.endswith(EXPLAINED) else prompt
        found = next((texts for known, texts in ANSWERS.items() if end.endswith(known)), ["\n\n"])
        self.texts.append(self.hostile or found[sum(other.ids == answer.ids for other in self.asked) % len(found)])
        super()._begin(answer)


@pytest.fixture(scope="module")
def vsix(tmp_path_factory):
    """The extension as users install it."""
    if reason := missing():
        pytest.skip(reason)
    if not (EXTENSION / "node_modules").exists():
        pytest.skip("the extension's tools are not installed: cd editors/vscode && npm ci --ignore-scripts")
    file = tmp_path_factory.mktemp("vsix") / "extension.vsix"
    command = ["npm", "run", "package", "--", "--out", str(file)]
    result = subprocess.run(command, cwd=EXTENSION, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return file


@pytest.fixture(scope="module")
def server():
    """Our application with made-up answers."""
    with served_over_http(Scripted, model=fake_model(context=2048), slots=3) as found:
        yield found


@pytest.fixture(scope="module")
def page(vsix):
    """A browser's page."""
    with browser_page() as found:
        yield found


@pytest.fixture(scope="module")
def visual_studio(vsix, server, tmp_path_factory):
    """VS Code's address and its open folder."""
    directory = tmp_path_factory.mktemp("code-server")
    folder = directory / "work"
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / ".gitignore").write_text("ignored.py\n")
    template = directory / "template.txt"
    template.write_text(TEMPLATE)
    templates = {
        "msCodegeex.promptTemplates": {"Why": str(template)},
        "Codegeex.PromptTemplates(Experimental)": {"explanation": "", "Of the original": template.as_uri()},
    }
    with code_server(directory, vsix, {**QUICK, **FOLDER, **templates, "msCodegeex.server": server.url}) as address:
        yield address, folder


@pytest.fixture
def editor(visual_studio, page, request):
    """An empty Python file of this test."""
    address, folder = visual_studio
    editor = Editor(page, folder / f"{request.node.name}.py")
    editor.file.write_text("")
    editor.open(address)
    return editor


def test_a_suggestion_is_shown_and_tab_accepts_it(editor, server):
    asked = len(server.backend.asked)
    editor.complete("import os", "import sys", "import os\nimport sys")  # the paragraph, not what follows it
    prompts = [server.backend.model.tokenizer.decode(answer.ids) for answer in server.backend.asked[asked:]]
    assert "# language: Python\nimport os" in prompts


def test_typing_along_a_suggestion_asks_nobody(editor, server):
    editor.suggested("import os", "import sys")
    asked = len(server.backend.asked)
    editor.press("Enter")
    editor.complete("import s", "ys", "import os\nimport sys")
    assert len(server.backend.asked) == asked


def test_thirty_candidates_are_cycled_in_the_text(editor):
    first = shown = editor.suggested("thirty = ", "answer_")
    seen = [first]
    for _ in range(30):
        editor.press("Alt+]")
        shown = editor.other_ghost_text(shown)
        seen.append(shown)
    assert shown == first and len(set(seen)) == 30
    editor.press("Alt+[")
    assert editor.other_ghost_text(shown) == seen[29]
    editor.press("Tab")
    editor.save(f"thirty = {seen[29]}")


def test_a_bracket_that_the_editor_has_closed_is_not_doubled(editor):
    editor.complete("print(", '"hello"', 'print("hello")')


def test_a_suggestion_continues_the_chosen_entry_of_the_list_of_words(editor):
    editor.type("remembered = 1\nprint(rem")
    editor.press("Control+Space")
    editor.page.locator(".suggest-widget .monaco-list-row.focused", has_text="remembered").wait_for()
    editor.ghost_text("+ 1")
    editor.press("Tab")  # the entry
    editor.ghost_text("+ 1")
    editor.press("Tab")
    editor.save("remembered = 1\nprint(remembered + 1)")


def test_pieces_of_files_that_were_left_are_sent_but_never_secret_or_ignored_ones(editor, server):
    names = {"helper.py": "HELPER", "ignored.py": "IGNORED", ".env": "ENVIRONMENT", "token.py": "TOKEN"}
    for name, word in names.items():
        lines = [f"{word}_{number} = make_the_value_of({number})" for number in range(6)]
        lines.append(f"{word}_PASSWORD = 'swordfish'" * (word == "TOKEN"))
        (editor.file.parent / name).write_text("\n".join(lines))
    for name in names:
        editor.switch(name)
    editor.switch(editor.file.name)
    asked = len(server.backend.asked)
    editor.suggested("import os", "import sys")
    prompt = server.backend.prompt()
    assert len(server.backend.asked) > asked
    assert "# helper.py\nHELPER_0 = make_the_value_of(0)" in prompt
    assert prompt.endswith(f"# {editor.file.name}\nimport os")
    assert not any(word in prompt for word in ("IGNORED", "ENVIRONMENT", "TOKEN", "swordfish"))


def test_typing_on_cancels_at_the_server(editor, server):
    backend = server.backend
    backend.paused, cancelled, asked = True, backend.counters.cancelled, len(backend.asked)
    try:
        editor.type("import o")
        wait_for(lambda: len(backend.asked) > asked)
        first = backend.asked[asked]
        editor.type("s")
        wait_for(lambda: backend.counters.cancelled > cancelled)
        assert first.number not in backend._tasks
    finally:
        backend.paused = False
    editor.ghost_text("import sys")


def test_the_status_bar_turns_suggestions_off_and_on(editor, server):
    def click(then):
        editor.page.locator(".statusbar-item a", has_text="CodeGeeX").click()
        editor.page.locator(f"[aria-label='CodeGeeX: {then}']").first.wait_for()
        editor.focus()

    click("off")
    asked = len(server.backend.asked)
    editor.type("import os")
    editor.save("import os")
    assert len(server.backend.asked) == asked
    click("on")
    editor.press("Backspace")
    editor.suggested("s", "import sys")


def test_candidates_are_shown_side_by_side_and_enter_inserts_one(editor):
    editor.type("first = ")
    editor.press("Control+Enter")
    panel = editor.frame("button[aria-label='Insert candidate 3']")
    texts = panel.locator("button").all_inner_texts()
    assert texts == ["max(1, 2)", "1 + 1", "1"]
    panel.locator("button:focus", has_text="max").wait_for()
    editor.press("ArrowRight")
    panel.locator("button:focus", has_text="1 + 1").wait_for()
    editor.press("Enter")
    editor.save("first = 1 + 1")


def test_a_click_inserts_a_candidate(editor):
    editor.type("first = ")
    editor.press("Control+Enter")
    editor.frame("button").locator("button", has_text="max(1, 2)").click()
    editor.save("first = max(1, 2)")


def test_an_explanation_opens_next_to_the_code(editor):
    editor.type(EXPLAINED)
    editor.press("Control+a", "Alt+t")
    editor.pick("Explain")
    editor.page.locator(".tab", has_text="Explanation").wait_for()
    editor.page.locator(".view-line", has_text="The name `os` is imported.").wait_for()
    editor.page.locator(".view-line", has_text="It is not used.").wait_for()
    editor.save(EXPLAINED)  # unchanged, and the keyboard is still in it


@pytest.mark.parametrize("name", ["Why", "Of the original"])
def test_a_template_of_the_users_is_filled_and_continued(editor, server, name):
    code = "def twice(x):\n    return 2 * x"
    editor.type("def twice(x):\nreturn 2 * x")
    editor.save(code)
    editor.press("Escape", "Control+a", "Alt+t")
    editor.page.locator(".quick-input-list .monaco-list-row.focused", has_text="Explain").wait_for()
    editor.type(name)
    editor.pick(name)
    editor.answer("Replace Selection")
    editor.save("def twice(x):\n    # twice: the sum\n    return x + x")
    assert server.backend.prompt() == f"# language: Python\n# Example\nx = 1\n\n{code}\n\n# Why?\ndef twice(x):\n"


def test_a_wish_changes_the_selection(editor, server):
    editor.type("def twice(x):\nreturn 2 * x")
    editor.press("Escape", "Control+a")
    editor.command("CodeGeeX: Change Selection")
    editor.page.locator(".quick-input-title", has_text="changed").wait_for()
    editor.type("use sums")
    editor.press("Enter")
    editor.answer("Replace Selection")
    editor.save("def twice(x):\n    return x + x")


def test_the_first_page_connects_checks_and_tells_what_is_wrong(editor, server):
    editor.command("CodeGeeX: Connect to a Server")
    page = editor.frame("#server")
    page.locator("#server").fill("http://127.0.0.1:9")
    page.locator("button.action").click()
    editor.frame("li.failed").locator("li.failed", has_text="no server answers at http://127.0.0.1:9").wait_for()
    page = editor.frame("#server")
    page.locator("#server").fill(server.url)
    page.locator("button.action").click()
    page = editor.frame("#next")
    assert page.locator("li.passed").count() == 3
    assert "2048 tokens of context" in page.locator("li").nth(1).inner_text()
    editor.press("Control+w")
    editor.focus()
    editor.suggested("import os", "import sys")


def test_accepted_suggestions_are_counted_and_shown(editor):
    for _ in range(2):
        editor.suggested("counted = ", "1+1")
        editor.press("Tab", "Enter")
    editor.suggested("counted = ", "1+1")
    editor.command("CodeGeeX: Show Accepted Suggestions")
    cells = editor.frame("table").locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells[0] == "python" and int(cells[1]) >= int(cells[2]) >= 2 and int(cells[4]) >= 10


def test_a_translation_into_the_language_of_the_file_is_inserted_below(editor):
    editor.type("val value = 1")
    editor.press("Control+a", "Control+Alt+t")
    editor.page.locator(".quick-input-list .monaco-list-row").first.wait_for()
    editor.type("Kotlin")
    editor.press("Enter")
    editor.page.locator(".quick-input-title", has_text="from Kotlin to").wait_for()
    editor.press("Enter")  # Python, the first
    editor.page.locator(".tab", has_text="Translation").wait_for()
    editor.answer("Insert Below")
    editor.save("val value = 1\nvalue = 1")


HOSTILE_CODE = "x = '</pre><img src=x onerror=alert(1)>'  # [a](command:workbench.action.quit) \u202e"
HOSTILE_PROSE = "<script>alert(1)</script> [a](command:workbench.action.quit) https://x.test/ $(rm -rf x)"
HOSTILE = f"{HOSTILE_PROSE}\n```python\n{HOSTILE_CODE}\n```\nDone."


@pytest.fixture
def talking(editor, server):
    """An editor whose server has a model for conversations, which answers in a hostile way."""
    model, backend = server.backend.model, server.backend
    backend.model = backend.models[model.name] = dataclasses.replace(model, chat=TEMPLATES["codegeex2"])
    answers, backend.hostile = backend.hostile, HOSTILE
    dialogs = []
    editor.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    yield editor
    backend.model = backend.models[model.name] = model
    backend.hostile = answers
    assert dialogs == []


def test_a_conversation_about_the_selection_and_code_that_enters_only_by_a_click(talking, server):
    editor = talking
    editor.type("old = 1\n")
    editor.press("Control+a")
    editor.command("CodeGeeX: Chat")
    panel = editor.frame("#question")
    panel.locator("#about", has_text="2 lines").wait_for()
    panel.locator("#question").fill("Make it better")
    panel.locator("#question").press("Enter")
    panel.locator("article.assistant p", has_text="Done.").wait_for()
    assert panel.locator("article.assistant p").first.inner_text().startswith("<script>alert(1)</script> [a](command:")
    assert "[U+202E]" in panel.locator("article.assistant pre").inner_text()
    assert panel.locator("article a, article img, article script").count() == 0
    assert "Make it better\n\n```python\nold = 1\n\n```" in server.backend.prompt()
    assert editor.file.read_text() == ""
    panel.locator("article.assistant button", has_text="Replace Selection").click()
    editor.save(HOSTILE_CODE)


def test_a_model_that_only_continues_code_is_not_asked_questions(editor):
    editor.command("CodeGeeX: Chat")
    panel = editor.frame("#question")
    panel.locator("#note", has_text="does not answer questions").wait_for()
    assert panel.locator("#ask").is_disabled() and panel.locator("#question").is_disabled()


def test_a_hostile_text_in_a_suggestion_candidates_and_an_explanation_does_nothing(talking):
    editor = talking
    editor.suggested("hostile = ", "<script>alert(1)</script>")
    editor.press("Control+Enter")
    panel = editor.frame("button[aria-label='Insert candidate 1']")
    assert panel.locator("button").inner_text().startswith("<script>alert(1)</script>")
    assert panel.locator("ol a, ol img, ol script").count() == 0
    editor.press("Control+w")
    editor.focus()
    editor.press("Control+a")
    editor.command("CodeGeeX: Explain Selection")
    editor.page.locator(".view-line", has_text="<script>alert(1)</script>").last.wait_for()
    editor.focus()
    editor.press("Control+End")
    editor.type("\n# https://y.test/")
    editor.page.locator(".detected-link").first.wait_for()  # so links are looked for
    assert editor.page.locator("[data-uri^='ms-codegeex'] .view-line", has_text="x.test").count() == 1
    assert editor.page.locator("[data-uri^='ms-codegeex'] .detected-link").count() == 0
    assert editor.page.locator(".notification-list-item a[href^=command]").count() == 0


def test_the_interface_is_chinese_where_vs_code_is(vsix, page, server, tmp_path):
    """Of VS Code's own words, which need a language pack, only ours are translated."""
    with code_server(tmp_path, vsix, {**QUICK, "msCodegeex.server": server.url}, locale="zh-cn") as address:
        editor = Editor(page, tmp_path / "work" / "a.py")
        editor.file.write_text("")
        editor.open(address)
        editor.command("CodeGeeX: 连接服务器")
        form = editor.frame("#server")
        assert form.locator("h1").inner_text() == "连接服务器"
        form.locator("button.action", has_text="连接并检查").click()
        editor.frame("#next").locator("li.passed", has_text="服务器有应答").wait_for()


def test_a_model_served_by_our_command_with_a_key_completes_code_and_its_end_is_told_once(vsix, page, tmp_path):
    model = save_recited(tmp_path / "model", PROMPT, ANSWER)
    directory, keys = tmp_path / "vscode", key_file(tmp_path / "keys", f"me {KEY}\n")
    with contextlib.ExitStack() as stack:
        with served(model, tmp_path / "serve.log", "--api-key-file", keys) as server:
            address = stack.enter_context(code_server(directory, vsix, {**QUICK, "msCodegeex.server": server.url}))
            editor = Editor(page, directory / "work" / "a.py")
            editor.file.write_text("")
            editor.open(address)
            editor.type("def total(")
            editor.answer("Set API Key")
            page.locator(".quick-input-box input[type=password]").wait_for()
            editor.type(KEY)
            editor.press("Enter")
            editor.focus()
            editor.press("Control+a")
            editor.complete(PROMPT, ANSWER, PROMPT + ANSWER)
            assert server.end() == 0
        shown = page.locator(".notification-list-item", has_text="no server answers at")
        for _ in range(3):
            editor.press("Enter")
            editor.type("x = 1")
            shown.first.wait_for()
        page.locator(".statusbar-item.warning-kind", has_text="CodeGeeX").wait_for()
        assert shown.count() == 1
