"""The web demo in a real browser: Playwright drives headless Chromium against a server with made-up answers."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from code_server import chromium
from fake_backend import TEXT, fake_model, key_file
from over_http import served
from run_processes import wait_for

CHROMIUM = chromium() or ""
FLAGS = [  # no sandbox: tests may run as root; the rest: it looks nothing up on its own
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
HOSTILE = (
    '<img src=x onerror="window.broken = 1"><script>window.broken = 2</script>\n'
    "</pre><a href='javascript:window.broken = 3'>x</a> \u202eevil\u202c &lt;b&gt; \x1b[31m\u3164\U000e0041\n"
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt install chromium)")]
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")


@pytest.fixture(scope="module")
def server():
    with served(demo=True, model=fake_model(context=2048), slots=4) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


expect = playwright.expect


class Demo:
    """A page of the demo, and what went wrong in it: requests to other hosts, errors in the console."""

    def __init__(self, browser, url, **options):
        self.url = url
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.hosts, self.errors, self.requests = set(), [], []
        self.page.on("request", self._note)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def _note(self, request):
        self.hosts.add(request.url.split("/")[2])
        if request.method == "POST":
            self.requests.append((request.url.removeprefix(self.url), request.post_data_json))

    def loaded(self):
        expect(self.page.locator("#model")).to_contain_text("tokens of context")
        return self

    def talk(self):
        """Choose the adapter for conversations."""
        self.page.locator("#adapter").select_option("talk")
        self.page.get_by_role("tab", name="Chat").click()

    def bodies(self, path):
        """Of the requests to this path."""
        return [body for asked, body in self.requests if asked == path]

    def panel(self, task="complete"):
        return self.page.locator(f"#panel-{task}")

    def ask(self, text, task="complete", wait=True, **settings):
        """Fill the editor and press the button, with these decoding settings."""
        self.page.locator(f"#{task}-code").fill(text)
        self.start(task, wait, **settings)

    def start(self, task="complete", wait=True, **settings):
        for name, value in settings.items():
            self.page.locator(f"#{name}").fill(str(value))
        self.panel(task).locator(".primary").click()
        if wait:
            expect(self.panel(task).locator(".status")).to_contain_text("Done")

    def text(self, task="complete", card=0):
        return self.panel(task).locator(".card pre").nth(card).text_content()

    def forgive(self, status):
        """Chromium reports the status of an answer as an error."""
        self.errors[:] = [error for error in self.errors if status not in error]

    def close(self):
        self.context.close()
        assert self.hosts == {self.url.split("/")[2]}
        assert self.errors == []


@pytest.fixture
def demo(browser, server):
    with contextlib.closing(Demo(browser, server.url).loaded()) as demo:
        yield demo
    server.backend.text, server.backend.step_seconds = TEXT, 0.0
    server.backend.asked.clear()


def test_a_prompt_is_continued_with_its_languages_tag_and_highlighted(demo, server):
    demo.page.locator("#complete-language").select_option("Python")
    demo.page.get_by_label("Prompt", exact=True).fill("def add(first, second):\n")
    demo.start(length=64, temperature=0, seed=7)
    assert demo.text() == TEXT
    (answer,) = server.backend.asked
    assert server.backend.model.tokenizer.decode(answer.ids) == "# language: Python\ndef add(first, second):\n"
    assert answer.settings.max_new_tokens == 64 and answer.settings.temperature == 0 and answer.settings.seed == 7
    card = demo.panel().locator(".card")
    assert card.locator(".keyword").all_text_contents() == ["return", "def", "pass"]
    assert card.locator(".comment").all_text_contents() == ["# 和"]
    assert card.locator(".finish").text_content() == "complete"
    assert "tokens" in demo.panel().locator(".status").text_content()


def test_no_language_adds_no_tag_and_an_error_is_shown(demo, server):
    demo.page.locator("#complete-language").select_option("")
    demo.ask("x = ")
    assert server.backend.prompt(0) == "x = "
    demo.ask("word " * 3000, wait=False)
    expect(demo.panel().get_by_role("alert")).to_contain_text("and the model's context is 2048: shorten the text.")
    demo.forgive("400")


def test_text_streams_in_and_stop_frees_the_server(demo, server):
    server.backend.text, server.backend.step_seconds = "word = 1\n" * 200, 0.03
    demo.ask("x", wait=False, length=1000)
    stop = demo.panel().locator(".stop")
    expect(stop).to_be_focused()  # the button that was pressed is off now
    expect(demo.panel().locator(".card pre")).to_contain_text("word = 1\nword")
    assert not server.backend.idle
    stop.click()
    expect(demo.panel().locator(".status")).to_contain_text("Stopped")
    expect(demo.panel().locator(".finish")).to_have_text("stopped")
    expect(demo.panel().locator(".primary")).to_be_focused()
    wait_for(lambda: server.backend.idle)
    assert server.backend.counters.cancelled
    assert len(demo.text()) < len(server.backend.text) / 2


def test_clearing_stops_the_answer_and_leaves_no_message(demo, server):
    server.backend.text, server.backend.step_seconds = "word = 1\n" * 200, 0.03
    demo.ask("x", wait=False, length=1000)
    expect(demo.panel().locator(".card pre")).to_contain_text("word = 1\nword")
    demo.panel().locator(".clear").click()
    expect(demo.panel().locator(".primary")).to_be_enabled()
    assert demo.panel().locator(".status").text_content() == ""
    assert demo.panel().locator(".card").count() == 0
    assert demo.page.locator("#complete-code").input_value() == ""


def test_candidates_stand_side_by_side_and_can_be_copied_and_appended(demo, server):
    demo.context.grant_permissions(["clipboard-read", "clipboard-write"])
    server.backend.texts = ["    first\n", "    second\n"]
    demo.ask("def f():\n", candidates=2)
    cards = demo.panel().locator(".card")
    assert sorted(demo.text(card=number) for number in (0, 1)) == ["    first\n", "    second\n"]
    boxes = [cards.nth(number).bounding_box() for number in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    demo.page.get_by_role("button", name="Copy: Completion 2 of 2").click()
    expect(demo.page.locator("#spoken")).to_have_text("Completion 2 of 2 copied")
    assert demo.page.evaluate("navigator.clipboard.readText()") == demo.text(card=1)
    demo.page.get_by_role("button", name="Append to the prompt: Completion 1 of 2").click()
    assert demo.page.locator("#complete-code").input_value() == "def f():\n" + demo.text(card=0)


def test_probabilities_show_on_hover_and_with_arrow_keys(demo, server):
    demo.page.locator("#complete-code").fill("def add(first, second):\n")
    demo.page.get_by_label("Token probabilities").check()
    server.backend.text = answer = TEXT + "# 😀 two UTF-16 units, one character 🎉 end\n"
    demo.start()
    assert demo.text() == answer
    tokens = server.backend.model.tokenizer.encode(answer)
    third = server.backend.model.tokenizer.decode(tokens[2:3])
    node, chance = demo.panel().locator("[data-token='2']").first, 100 * math.exp(-3 / 8)
    node.hover()
    tip = demo.page.get_by_role("tooltip")
    expect(tip).to_contain_text(f"{chance:.1f} %")
    assert tip.locator("li.chosen code").text_content() == third.replace(" ", "␣")
    assert tip.locator("li").count() == 5
    demo.page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    pre = demo.panel().locator(".card pre")
    pre.focus()
    for _ in range(3):
        demo.page.keyboard.press("ArrowRight")
    expect(demo.page.locator("#spoken")).to_contain_text(f"{third.replace(' ', '␣')}, {chance:.1f} %; else")
    assert demo.panel().locator(".current").first.get_attribute("data-token") == "2"
    nodes = demo.panel().locator("[data-token]")
    seen = nodes.evaluate_all("nodes => nodes.map(node => [node.dataset.token, node.className, node.textContent])")
    texts = {}
    for number, names, text in seen:
        token = int(number)
        shade = sum(math.exp(-(token + 1) / 8) < border for border in (0.9, 0.5, 0.1))
        assert (f"shade-{shade}" in names) if shade else ("shade" not in names), token
        texts[token] = texts.get(token, "") + text
    assert "".join(texts.values()) == answer
    for token, text in texts.items():
        alone = server.backend.model.tokenizer.decode(tokens[token : token + 1])
        assert text == alone or "\ufffd" in alone  # part of a character


def test_translation_and_explanation_ask_their_routes(demo, server):
    server.backend.texts = ["let x = 1;\n"]
    demo.page.get_by_role("tab", name="Translate").click()
    demo.page.get_by_label("From").select_option("Python")
    demo.page.get_by_label("To", exact=True).select_option("Rust")
    demo.page.get_by_label("Code to translate").fill("x = 1")
    demo.start("translate")
    path, body = demo.requests[-1]
    assert path == "/v1/code/translate" and body["code"] == "x = 1" and body["stream"] is True
    assert (body["source_language"], body["target_language"]) == ("Python", "Rust")
    assert demo.text("translate") == "let x = 1;\n"
    assert demo.panel("translate").locator(".keyword").all_text_contents() == ["let"]
    demo.page.get_by_role("button", name="Swap").click()
    assert demo.page.get_by_label("From").input_value() == "Rust"
    assert demo.page.get_by_label("Code to translate").input_value() == "let x = 1;\n"

    server.backend.texts = [" Sets x.\nx = 2\n"]
    demo.page.get_by_role("tab", name="Explain").click()
    demo.page.locator("#explain-code").fill("x = 1")
    demo.page.get_by_label("Answer in").select_option("zh")
    demo.start("explain")
    path, body = demo.requests[-1]
    assert path == "/v1/code/explain" and (body["language"], body["locale"]) == ("Python", "zh")
    assert demo.text("explain").strip() == "Sets x."
    demo.page.get_by_label("Task", exact=True).select_option("fix")
    demo.start("explain")
    assert demo.requests[-1][0] == "/v1/code/fix"
    expect(demo.panel("explain").locator(".primary")).to_have_text("Correct")


def test_text_after_the_gap_is_sent_if_there_is_any(demo, server):
    demo.ask("x = (")
    demo.page.locator(".suffix summary").click()
    expect(demo.page.locator("#suffix-hint")).to_contain_text("continues the prompt")
    demo.page.locator("#complete-suffix").fill(")\nprint(x)")
    demo.start()
    first, second = demo.bodies("/v1/completions")
    assert "suffix" not in first and second["suffix"] == ")\nprint(x)"
    assert first["model"] == "fake"
    demo.panel().get_by_role("button", name="Clear").click()
    assert demo.page.locator("#complete-suffix").input_value() == ""


@pytest.fixture
def demo_of_adapters(browser, tmp_path):
    """The demo of a base model with two adapters, of which `talk` is for conversations, and its server."""
    for name in ("sql", "talk"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "talk" / "serving.json").write_text(json.dumps({"chat": "codegeex2"}))
    adapters = tuple((name, tmp_path / name) for name in ("sql", "talk"))
    with (
        served(demo=True, adapter=adapters, model=fake_model(context=2048)) as server,
        contextlib.closing(Demo(browser, server.url).loaded()) as demo,
    ):
        yield demo, server


def test_an_adapter_can_be_chosen_and_one_for_conversations_talks(demo_of_adapters):
    demo, server = demo_of_adapters
    chat, panel = demo.page.get_by_role("tab", name="Chat"), demo.panel("chat")
    assert demo.page.locator("#adapter option").all_text_contents() == ["fake", "sql", "talk"]
    expect(chat).to_be_hidden()
    demo.page.locator("#adapter").select_option("sql")
    demo.ask("x")
    assert server.backend.asked[-1].settings.adapter == "sql"
    demo.talk()
    server.backend.text = HOSTILE
    for question in ("What is it?", "And why?"):
        demo.ask(question, "chat")
        server.backend.text = TEXT
    assert panel.locator(".question").all_text_contents() == ["What is it?", "And why?"]
    assert demo.page.locator("#chat-code").input_value() == ""
    bodies = demo.bodies("/v1/chat/completions")
    assert [[turn["role"] for turn in body["messages"]] for body in bodies] == [["user"], ["user", "assistant", "user"]]
    assert bodies[1]["messages"][0]["content"] == "What is it?" and bodies[1]["messages"][1]["content"] == HOSTILE
    assert demo.page.evaluate("window.broken") is None and panel.locator(".card img, .card a").count() == 0
    panel.get_by_role("button", name="New conversation").click()
    expect(panel.locator(".question")).to_have_count(0)
    demo.page.locator("#adapter").select_option("fake")
    expect(chat).to_be_hidden()
    expect(demo.panel()).to_be_visible()


def test_a_question_without_an_answer_can_be_asked_again(demo_of_adapters):
    demo, _ = demo_of_adapters
    demo.talk()
    demo.ask("word " * 3000, "chat", wait=False)
    expect(demo.panel("chat").get_by_role("alert")).to_contain_text("shorten the text")
    assert demo.page.locator("#chat-code").input_value() == "word " * 3000
    assert demo.panel("chat").locator(".question, .card").count() == 0
    demo.forgive("400")


def test_another_model_ends_the_answer_of_a_conversation_and_leaves_no_turn(demo_of_adapters):
    demo, server = demo_of_adapters
    demo.talk()
    server.backend.step_seconds = 0.05
    demo.ask("first", "chat", wait=False)
    expect(demo.panel("chat").locator(".card pre")).not_to_be_empty()
    demo.page.locator("#adapter").select_option("sql")
    expect(demo.panel().locator(".primary")).to_be_enabled()
    server.backend.step_seconds = 0.0
    demo.talk()
    assert demo.panel("chat").locator(".status").text_content() == ""
    demo.ask("second", "chat")
    bodies = demo.bodies("/v1/chat/completions")
    assert [turn["content"] for turn in bodies[-1]["messages"]] == ["second"]


def test_reading_the_models_again_keeps_the_choice_and_its_conversation(demo_of_adapters):
    demo, _ = demo_of_adapters
    demo.talk()
    demo.ask("first", "chat")
    demo.page.evaluate("document.getElementById('key-change').click()")
    demo.page.locator("#key-value").fill("k")
    with demo.page.expect_response("**/demo/examples"):
        demo.page.locator("#key").get_by_role("button", name="Use").click()
    demo.ask("second", "chat")
    assert demo.page.locator("#adapter").input_value() == "talk"
    bodies = demo.bodies("/v1/chat/completions")
    assert [turn["role"] for turn in bodies[-1]["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    "status,error,words",
    [
        (401, {"message": "send Authorization: Bearer KEY"}, "The server asks for a key."),
        (429, {"code": "queue_full", "message": "the queue is full"}, "The server is busy. Try again in 2 s."),
        (404, {"code": "model_not_found"}, "The server no longer has this model: load the page again."),
        (503, {"message": "draining", "code": "draining"}, "The server cannot answer at present."),
        (
            400,
            {
                "param": "prompt",
                "message": "This model's maximum context length is 64 tokens. "
                "However, your prompt and suffix resulted in more than 63 tokens. x",
            },
            "The text has more than 63 tokens, and the model's context is 64: shorten the text.",
        ),
        (
            400,
            {
                "param": "max_tokens",
                "message": "max_tokens: 64 leave no room for a prompt, the model's context is 64 tokens",
            },
            "Length: it leaves no room for a text, the model's context is 64 tokens.",
        ),
        (400, {"param": "top_p", "message": "top_p: 2 is more than 1"}, "Top-p: 2 is more than 1"),
        (400, {"message": "other words"}, "other words"),
        (500, None, "The server answered with an error."),
    ],
)
def test_errors_are_told_in_the_words_of_the_page(demo, status, error, words):
    wait = 2 if status == 429 else None
    call = "async given => (await import('./demo/assets/words.js')).inWords(given[0], given[1], false, given[2])"
    assert demo.page.evaluate(call, [status, error, wait]) == words


def test_a_wrong_setting_is_shown_even_if_the_settings_are_folded(demo, server):
    demo.page.locator("#complete-code").fill("x")
    demo.page.locator("#top-p").fill("7")
    demo.page.locator("#settings summary").click()
    expect(demo.page.locator("#top-p")).to_be_hidden()
    demo.panel().locator(".primary").click()
    expect(demo.page.locator("#top-p")).to_be_focused()
    assert server.backend.asked == [] and demo.requests == []


def test_all_of_it_works_with_the_keyboard_alone(demo, server):
    press = demo.page.keyboard.press
    focused = lambda: demo.page.evaluate("document.activeElement.id || document.activeElement.textContent")  # noqa: E731
    press("Tab")
    assert focused() == "Skip to the prompt"
    press("Enter")
    seen = []
    while "complete-code" not in seen and len(seen) < 30:
        press("Tab")
        seen.append(focused())
    assert seen[0] == "tab-complete" and seen[-1] == "complete-code"
    assert "tab-translate" not in seen  # one stop for all tabs
    demo.page.keyboard.type("x")
    server.backend.step_seconds = 0.05
    press("Control+Enter")
    expect(demo.panel().locator(".status")).to_have_text("Generating…")
    expect(demo.panel().locator(".card pre")).to_contain_text("return")
    press("Escape")
    expect(demo.panel().locator(".status")).to_contain_text("Stopped")
    assert focused() == "complete-code"
    demo.page.locator("#tab-complete").focus()
    press("ArrowRight")
    assert focused() == "tab-translate" and demo.panel("translate").is_visible() and not demo.panel().is_visible()
    press("End")
    assert focused() == "tab-explain" and demo.panel("explain").is_visible()


def test_a_hostile_answer_is_text_and_nothing_else(demo, server):
    server.backend.text = HOSTILE
    demo.page.locator("#complete-code").fill("x")
    for box in ("#probabilities", None):
        if box:
            demo.page.locator(box).check()
        demo.start(length=200)
        assert demo.text() == HOSTILE
        card = demo.panel().locator(".card")
        assert card.locator("img, script, a, b").count() == 0
        assert demo.page.evaluate("window.broken") is None
        marks = card.locator(".hidden-character")
        numbers = marks.evaluate_all("nodes => nodes.map(node => node.dataset.number)")
        assert numbers == ["U+202E", "U+202C", "U+001B", "U+3164", "U+E0041"]
        styles = marks.evaluate_all("nodes => nodes.map(node => getComputedStyle(node).unicodeBidi)")
        assert set(styles) == {"isolate"}
        demo.page.locator("#probabilities").uncheck()


def test_the_policy_stops_a_script_and_a_request_that_get_in_all_the_same(demo):
    violated = demo.page.evaluate(
        """() => new Promise(resolve => {
            const found = [];
            document.addEventListener("securitypolicyviolation", event => {
                found.push(event.effectiveDirective);
                if (found.length === 2) resolve(found);
            });
            const script = document.createElement("script");
            script.textContent = "window.broken = 4";
            document.body.append(script);
            fetch("http://127.0.0.2:9/").catch(() => 0);
            setTimeout(resolve, 10_000, found);
        })"""
    )
    assert sorted(violated) == ["connect-src", "script-src-elem"]
    assert demo.page.evaluate("window.broken") is None
    demo.errors.clear()


LABELS = """() => [...document.querySelectorAll("input, select, textarea, button")]
    .map(node => [node.id || node.className, node.labels?.length
        ? node.labels[0].textContent.trim() : node.getAttribute("aria-label") || node.textContent.trim()])"""
CONTRASTS = """() => {
    const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const parsed = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const [r, g, b, alpha = 1] = parsed(getComputedStyle(node).backgroundColor);
            if (alpha) return [r, g, b];
        }
    };
    const found = [];
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
        if (!own && !node.matches("input, textarea, select")) continue;
        if (!node.checkVisibility() || node.matches(":disabled, .spoken, .skip, option, noscript")) continue;
        const pair = [light(parsed(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
        found.push([`${node.tagName}.${node.className} ${node.textContent.slice(0, 20)}`,
            (pair[0] + 0.05) / (pair[1] + 0.05)]);
    }
    return found;
}"""


def test_everything_has_a_name_and_every_id_is_single(demo):
    demo.ask("x")
    assert [place for place, name in demo.page.evaluate(LABELS) if not name] == []
    ids = demo.page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len({*ids})
    pointed = demo.page.evaluate(
        "['for', 'aria-controls', 'aria-labelledby', 'aria-describedby'].flatMap(name => "
        "[...document.querySelectorAll(`[${name}]`)].map(node => node.getAttribute(name)))"
    )
    assert pointed and {*pointed} <= {*ids}
    tree = demo.page.locator("body").aria_snapshot()
    for words in ("banner", "main", "contentinfo", 'tab "Complete" [selected]', 'tabpanel "Complete"', "status"):
        assert words in tree
    levels = demo.page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(node => node.tagName)")
    assert levels[0] == "H1" and "H2" in levels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(browser, server, scheme):
    """WCAG 2.2 AA: 4.5 to 1, measured on the computed colours."""
    with contextlib.closing(Demo(browser, server.url, color_scheme=scheme).loaded()) as demo:
        server.backend.text = 'def f(x):\n    """Text."""\n    return Thing(g(x), 12)  # why\n' + "word " * 30
        demo.page.locator("#complete-code").fill("x")
        for shaded in (False, True):
            demo.page.locator("#probabilities").set_checked(shaded)
            demo.start()
            found = demo.page.evaluate(CONTRASTS)
            assert len(found) > 40 and [pair for pair in found if pair[1] < 4.5] == []
        demo.panel().locator("[data-token='1']").first.hover()
        assert [pair for pair in demo.page.evaluate(CONTRASTS) if pair[1] < 4.5] == []
        server.backend.text = TEXT


def test_the_switch_of_colours_holds_against_the_system(demo):
    background = "getComputedStyle(document.body).backgroundColor"
    light = demo.page.evaluate(background)
    demo.page.get_by_label("Colours").select_option("dark")
    dark = demo.page.evaluate(background)
    assert light != dark
    demo.page.reload()
    assert demo.page.evaluate(background) == dark


@pytest.mark.parametrize("width", [320, 360, 768])
def test_small_screens_need_no_sideways_scrolling(browser, server, width):
    options = {"viewport": {"width": width, "height": 740}, "has_touch": True}
    with contextlib.closing(Demo(browser, server.url, **options).loaded()) as demo:
        for task in ("complete", "translate", "explain"):
            demo.page.locator(f"#tab-{task}").click()
            demo.page.locator(f"#{task}-example").select_option(index=1)
            demo.start(task)
            assert demo.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), task
            controls = demo.panel(task).locator("button, select, input:not([type=checkbox]), textarea")
            small = "nodes => nodes.filter(node => Math.min(node.clientWidth, node.clientHeight) < 24)"
            assert controls.evaluate_all(f"{small}.map(node => node.outerHTML)") == []


def test_a_key_is_asked_for_and_kept_in_this_tab_only(browser, tmp_path):
    keys = key_file(tmp_path / "keys", "me correct-horse-battery\n")
    with served(demo=True, api_key_file=keys) as server, contextlib.closing(Demo(browser, server.url)) as demo:
        dialog = demo.page.get_by_role("dialog", name="Key")
        expect(dialog).to_be_visible()
        assert demo.page.locator("#key-wrong").is_hidden()
        dialog.locator("#key-value").fill("wrong-horse-battery")
        demo.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("The server does not know this key.")
        dialog.locator("#key-value").fill("correct-horse-battery")
        dialog.get_by_role("button").click()
        demo.loaded()
        demo.ask("x")
        assert demo.text() == TEXT
        demo.page.reload()
        demo.loaded()
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie].map(place => ({...place})))"
        local, session, cookies = json.loads(demo.page.evaluate(kept))
        assert "correct-horse-battery" not in str([local, cookies]) and "correct-horse-battery" in str(session)
        other = Demo(browser, server.url)  # another tab asks again
        expect(other.page.get_by_role("dialog", name="Key")).to_be_visible()
        other.page.keyboard.press("Escape")
        expect(other.panel().get_by_role("alert")).to_have_text("The server asks for a key.")
        for one in (demo, other):
            one.forgive("401")
        other.close()
