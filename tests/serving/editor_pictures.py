"""Makes the pictures of docs/editors.md: `python tests/serving/editor_pictures.py`.

It needs what test_editor_vscode.py needs.
They show our application with made-up answers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "serving")]

from code_server import Editor, browser_page, code_server  # noqa: E402
from fake_backend import FakeBackend  # noqa: E402
from over_http import served  # noqa: E402

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


class Made(FakeBackend):
    """Answers with a candidate after another; later, with the explanation."""

    explaining = False

    def _begin(self, answer):
        number = sum(other.ids == answer.ids for other in self.asked)
        self.texts.append(EXPLANATION if self.explaining else CANDIDATES[number % 3] + "\n\n")
        super()._begin(answer)


def main() -> None:
    """Make them."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made, served(lambda: Made(slots=3)) as server:
        directory, extension = Path(made), ROOT / "editors" / "vscode"
        vsix = directory / "extension.vsix"
        subprocess.run(["npm", "run", "package", "--", "--out", vsix], cwd=extension, check=True, capture_output=True)
        settings = {"msCodegeex.server": server.url, "workbench.activityBar.location": "hidden"}
        with code_server(directory / "vscode", vsix, settings) as address, browser_page(1200, 400) as page:
            editor = Editor(page, directory / "vscode" / "work" / "averages.py")
            editor.file.write_text("")
            editor.open(address)
            editor.press("Control+b")  # no side bar
            page.locator(".editor-instance .monaco-editor .view-lines").first.click()
            editor.type(START)
            editor.ghost_text("return averages")
            page.screenshot(path=IMAGES / "vscode-suggestion.png")
            editor.press("Control+Enter")
            editor.frame("button[aria-label='Insert candidate 3']").locator("button:focus").wait_for()
            page.mouse.move(5, 5)
            editor.press("ArrowDown")
            page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / "vscode-candidates.png")
            editor.press("ArrowUp")
            editor.press("Enter")
            editor.save((START + CANDIDATES[0]).rstrip())
            server.backend.explaining = True
            editor.press("Control+a")
            editor.press("Alt+t")
            page.locator(".quick-input-list .monaco-list-row.focused", has_text="Explain").wait_for()
            editor.press("Enter")
            page.locator(".view-line", has_text="values in it").wait_for()
            page.wait_for_timeout(1000)
            page.screenshot(path=IMAGES / "vscode-explanation.png")


if __name__ == "__main__":
    main()
