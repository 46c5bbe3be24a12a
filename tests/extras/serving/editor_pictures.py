"""Makes the pictures of docs/clients.md: `python tests/extras/serving/editor_pictures.py`.

It needs what test_editor_vscode.py needs.
They show our application with made-up answers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "extras" / "serving")]

from code_server import Editor, browser_page, code_server  # noqa: E402
from fake_backend import FakeBackend, fake_model  # noqa: E402
from over_http import served  # noqa: E402

from ms_codegeex.data.conversations import TEMPLATES  # noqa: E402

IMAGES = ROOT / "docs" / "images"
START = "def moving_average(values, width):\n"
CANDIDATES = (
    """\
    total, averages = 0.0, []
    for place, value in enumerate(values):
        total += value
        if place >= width:
            total -= values[place - width]
        averages.append(total / min(place + 1, width))
    return averages
""",
    """\
    averages = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - width) : end]
        averages.append(sum(window) / len(window))
    return averages
""",
    """\
    return [
        sum(values[max(0, end - width) : end]) / min(end, width)
        for end in range(1, len(values) + 1)
    ]
""",
)
EXPLANATION = """ The function returns the moving averages of a list.
# `total` is the sum of the last `width` values.
# Each new value is added, and the one that leaves is taken off.
# A sum is divided by the number of values in it.
"""


ANSWER = """The sum is kept from one window to the next:
```python
def moving_average(values, width):
    total = sum(values[:width])
    averages = [total / width]
    for old, new in zip(values, values[width:]):
        total += new - old
        averages.append(total / width)
    return averages
```
Each step takes one addition and one subtraction.
"""


class Made(FakeBackend):
    """Answers with a candidate after another; later, with `said`."""

    said = ""

    def _begin(self, answer):
        number = sum(other.ids == answer.ids for other in self.asked)
        self.texts.append(self.said or CANDIDATES[number % 3] + "\n\n")
        super()._begin(answer)


def made() -> Made:
    """A server's model, which is tuned for conversations."""
    model = fake_model(name="codegeex2-6b", context=8192, chat=TEMPLATES["codegeex2"])
    return Made(model=model, slots=3)


def main() -> None:
    """Make them."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(made) as server:
        directory, extension = Path(folder), ROOT / "editors" / "vscode"
        vsix = directory / "extension.vsix"
        subprocess.run(["npm", "run", "package", "--", "--out", vsix], cwd=extension, check=True, capture_output=True)
        settings = {"msCodegeex.server": server.url, "workbench.activityBar.location": "hidden"}
        with code_server(directory / "vscode", vsix, settings) as address, browser_page(1200, 400) as page:
            editor = Editor(page, directory / "vscode" / "work" / "averages.py")
            editor.file.write_text("")
            editor.open(address)
            editor.press("Control+b")  # no side bar
            editor.focus()
            editor.suggested(START, "return averages")
            page.screenshot(path=IMAGES / "vscode-suggestion.png")
            editor.press("Control+Enter")
            editor.frame("button[aria-label='Insert candidate 3']").locator("button:focus").wait_for()
            page.mouse.move(5, 5)
            editor.press("ArrowDown")
            page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / "vscode-candidates.png")
            editor.press("ArrowUp", "Enter")
            editor.save((START + CANDIDATES[0]).rstrip())
            server.backend.said = EXPLANATION
            editor.press("Control+a", "Alt+t")
            editor.pick("Explain")
            page.locator(".view-line", has_text="values in it").wait_for()
            page.wait_for_timeout(1000)
            page.screenshot(path=IMAGES / "vscode-explanation.png")
            draw_panels(editor, server)


def draw_panels(editor: Editor, server) -> None:
    """The conversation and the first page."""
    page = editor.page
    page.set_viewport_size({"width": 1200, "height": 560})
    editor.press("Escape")
    editor.command("View: Close Editors in Other Groups")
    editor.focus()
    server.backend.said = ANSWER
    editor.press("Control+a")
    editor.command("CodeGeeX: Chat")
    panel = editor.frame("#question")
    panel.locator("#about", has_text="lines").wait_for()
    panel.locator("#question").fill("Can this be faster?")
    panel.locator("#question").press("Enter")
    panel.locator("article.assistant p", has_text="Each step").wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / "vscode-chat.png")
    server.backend.said = " first + second\n"
    editor.command("CodeGeeX: Connect to a Server")
    editor.frame("#server").locator("button.action").click()
    editor.frame("#next").locator("#next").wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / "vscode-connect.png")


if __name__ == "__main__":
    main()
