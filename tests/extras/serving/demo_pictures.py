"""Draws the pictures of docs/clients.md anew, in the environment of the tests:
`python tests/extras/serving/demo_pictures.py`.

The answers are written here; their probabilities come from a table by the kind of token.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1]), str(HERE)]

from fake_backend import FakeBackend, fake_model  # noqa: E402
from over_http import served  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402
from test_demo_browser import CHROMIUM, FLAGS, Demo  # noqa: E402

from ms_codegeex.generation.choice import ChosenToken  # noqa: E402

PICTURES = HERE.parents[2] / "docs" / "images"
MEANS = (
    "    means = []\n    total = sum(values[:width])\n    for place in range(width, len(values) + 1):\n"
    "        means.append(total / width)\n        if place < len(values):\n"
    "            total += values[place] - values[place - width]\n    return means\n",
    "    # each window is summed on its own\n    count = len(values) - width + 1\n"
    "    return [sum(values[i : i + width]) / width\n            for i in range(count)]\n",
)
QUESTIONS = {
    "What does `total` hold in moving_average?": "The sum of the last `width` values. It loses the oldest value and "
    "gains the next one in each step, so no window is summed twice.\n",
    "And if width is larger than the list?": "The loop runs no step, and the result is an empty list.\n",
}
GCD = "function gcd(a, b) {\n  while (b) {\n    [a, b] = [b, a % b];\n  }\n  return a;\n}\n"
LIKELY = {"=": 0.97, "(": 0.98, ")": 0.99, ":": 0.99, "\n": 0.96, "append": 0.07, "return": 0.94}
OTHERS = {"append": ("extend", "insert", "push", "add")}


class Drawn(FakeBackend):
    """Answers whose tokens have probabilities as a model's might be."""

    async def _play(self, answer):
        decode = self.model.tokenizer.decode
        seen = set()
        for number in self.model.tokenizer.encode(self.texts.pop(0) if self.texts else self.text):
            await asyncio.sleep(self.step_seconds)
            text = decode([number])
            first = text not in seen and text.strip().isalpha()
            seen.add(text)
            chance = LIKELY.get(text.strip() or text, (0.62, 0.31, 0.87, 0.07, 0.93)[number % 5] if first else 0.985)
            encode = self.model.tokenizer.encode
            others = [encode(word)[0] for word in OTHERS.get(text, (" values", " len", "(", " 0"))]
            rest = [(1 - chance) * share for share in (0.5, 0.2, 0.1, 0.05)]
            best = [(number, math.log(chance)), *((other, math.log(p)) for other, p in zip(others, rest, strict=True))]
            best = tuple(sorted(best, key=lambda pair: -pair[1])[: answer.settings.log_probabilities])
            self.feed(answer.number, [ChosenToken(number, math.log(chance), best)], None)
        self.feed(answer.number, [], "eos")


def draw(browser, url: str, name: str, backend: Drawn, task: str = "complete", **options) -> None:
    """One picture: an example of the page, answered."""
    width, height, scheme, shaded, count = options["shape"]
    shape = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    with closing(Demo(browser, url, **shape).loaded()) as demo:
        demo.page.locator(f"#tab-{task}").click()
        demo.page.locator(f"#{task}-example").select_option(index=1)
        backend.texts = [GCD] if task == "translate" else list(MEANS[:count])
        if count > 1:
            demo.page.locator("#candidates").fill(str(count))
        if shaded:
            demo.page.locator("#probabilities").check()
        demo.panel(task).locator(".primary").click()
        expect(demo.panel(task).locator(".status")).to_contain_text("Done")
        demo.page.mouse.move(0, 0)
        if shaded:
            demo.panel().locator("[class*=shade-3]").first.hover()
            demo.page.locator("#token").wait_for()
        PICTURES.mkdir(exist_ok=True)
        demo.page.screenshot(path=PICTURES / f"{name}.png", full_page=options.get("whole", False))


def draw_chat(browser) -> None:
    """The picture of a conversation with an adapter that is tuned for that."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "chat"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "serving.json").write_text('{"chat": "codegeex2"}')
        adapters = (("chat", adapter),)
        model = fake_model(name="codegeex2-6b", context=8192)
        with (
            served(Drawn, demo=True, adapter=adapters, model=model, slots=4) as server,
            closing(Demo(browser, server.url, viewport={"width": 1200, "height": 640}).loaded()) as demo,
        ):
            demo.page.locator("#adapter").select_option("chat")
            demo.page.locator("#tab-chat").click()
            demo.page.locator("#settings summary").click()
            for question, answer in QUESTIONS.items():
                server.backend.texts = [answer]
                demo.page.locator("#chat-code").fill(question)
                demo.start("chat")
            demo.page.mouse.move(0, 0)
            demo.page.screenshot(path=PICTURES / "demo-chat.png", full_page=True)


def main() -> None:
    """All pictures."""
    model = fake_model(name="codegeex-13b", context=2048)

    made = {"demo": True, "model": model, "slots": 4, "step_seconds": 0.03}
    with served(Drawn, **made) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        draw(browser, server.url, "demo-light", server.backend, shape=(1200, 810, "light", False, 2))
        draw(browser, server.url, "demo-dark", server.backend, shape=(1200, 810, "dark", True, 1))
        draw(browser, server.url, "demo-translate", server.backend, "translate", shape=(1200, 810, "light", False, 1))
        draw(browser, server.url, "demo-phone", server.backend, shape=(360, 780, "light", False, 1), whole=True)
        draw_chat(browser)
        browser.close()


if __name__ == "__main__":
    main()
