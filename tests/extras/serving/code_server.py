"""A real VS Code for tests: npm's code-server, shown by a headless Chromium. `install_code_server.sh` installs it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT

INSTALLED = ROOT / "build" / "code-server"
NODE = INSTALLED / "bin" / "node"
PROGRAM = INSTALLED / "node_modules" / "code-server" / "out" / "node" / "entry.js"
PATIENCE = 60_000  # milliseconds for what takes a moment
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
SETTINGS = {  # nothing may ask for the network, open a tab over the file, or suggest besides the extension under test
    "workbench.startupEditor": "none",
    "workbench.enableExperiments": False,
    "workbench.tips.enabled": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "security.workspace.trust.enabled": False,
    "chat.disableAIFeatures": True,
    "telemetry.telemetryLevel": "off",
    "update.mode": "none",
    "extensions.autoCheckUpdates": False,
    "extensions.autoUpdate": False,
    "editor.inlineSuggest.enabled": True,
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.parameterHints.enabled": False,
    "editor.minimap.enabled": False,
    "editor.accessibilitySupport": "off",
    "files.autoSave": "off",
}


def chromium() -> str | None:
    """The browser's program, None if there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def missing() -> str:
    """What the drive lacks on this machine, in words; empty if nothing."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "Playwright for Python is not installed"
    if chromium() is None:
        return "there is no Chromium"
    if not (NODE.exists() and PROGRAM.exists()):
        return "code-server is not installed: bash tests/extras/serving/install_code_server.sh"
    return ""


def _environment(home: Path) -> dict[str, str]:
    """Nothing of the user's own; no variable of an editor in whose terminal the tests run."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("VSCODE_", "CODE_SERVER"))}
    for name in ("PORT", "PASSWORD"):
        keep.pop(name, None)
    folders = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CONFIG", "DATA", "CACHE")}
    return {**keep, **folders, "HOME": str(home)}


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def code_server(directory: Path, extension: Path, settings: dict[str, Any], locale: str | None = None) -> Iterator[str]:
    """Its address. `directory`/work is the open folder; everything else that it writes is in `directory` too.

    Args:
        extension: a `.vsix` to install.
        settings: of the user, besides `SETTINGS`.
        locale: the language of the interface, if it is not English.
    """
    environment = _environment(directory / "home")
    for name in ("home", "user/User", "extensions", "work"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "user" / "User" / "settings.json").write_text(json.dumps({**SETTINGS, **settings}))
    command = [NODE, PROGRAM, "--user-data-dir", directory / "user", "--extensions-dir", directory / "extensions"]
    installation = subprocess.run(
        [*command, "--install-extension", extension], env=environment, capture_output=True, text=True, timeout=120
    )
    assert installation.returncode == 0, installation.stdout + installation.stderr
    port = free_port()
    quiet = ["--auth=none", "--disable-telemetry", "--disable-update-check", "--disable-workspace-trust"]
    if locale:
        _add_language(directory / "user", locale)
        quiet.append(f"--locale={locale}")
    log = directory / "code-server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, f"--bind-addr=127.0.0.1:{port}", *quiet, directory / "work"],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/healthz", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _add_language(user: Path, locale: str) -> None:
    """A language pack without words, as if it were installed: VS Code stays English, extensions speak the language."""
    words = user / "words.json"
    words.write_text(json.dumps({"": [], "version": "1.0.0", "contents": {}}))
    extension = {"extensionIdentifier": {"id": "tests.language"}, "version": "1.0.0"}
    pack = {"hash": "0", "label": locale, "extensions": [extension], "translations": {"vscode": str(words)}}
    (user / "languagepacks.json").write_text(json.dumps({locale: pack}))


def _wait_until_it_answers(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def address_of_file(server: str, folder: Path, file: Path) -> str:
    """The page that shows `folder` with `file` open."""
    remote = f"vscode-remote://{urllib.parse.urlsplit(server).netloc}{file}"
    payload = json.dumps([["openFile", remote], ["skipWelcome", "true"]])
    return f"{server}/?{urllib.parse.urlencode({'folder': str(folder), 'payload': payload})}"


class Editor:
    """One file in VS Code, as a user sees and types it."""

    def __init__(self, page: Any, file: Path):
        self.page, self.file = page, file

    def open(self, server: str) -> None:
        """Show the file, when its editor and the extension are there. It takes the place of an earlier file."""
        self.page.goto(address_of_file(server, self.file.parent, self.file))
        self.page.locator(".tabs-container .tab", has_text=self.file.name).wait_for()
        self.page.locator(".editor-instance .monaco-editor .view-lines").first.wait_for()
        self.page.locator(".statusbar-item", has_text="CodeGeeX").wait_for()
        self.focus()

    def focus(self) -> None:
        """Give the keyboard to the text."""
        self.page.locator(".editor-instance .monaco-editor .view-lines").first.click()

    def pick(self, name: str) -> None:
        """Choose the entry of a list that is shown."""
        self.page.locator(".quick-input-list .monaco-list-row.focused", has_text=name).wait_for()
        self.press("Enter")

    def answer(self, button: str) -> None:
        """Press the button of a message."""
        self.page.locator(".notification-list-item a", has_text=button).click()

    def suggested(self, typed: str, shown: str) -> str:
        """Type until a suggestion with these words is shown; it without white space."""
        self.type(typed)
        return self.ghost_text(shown)

    def complete(self, typed: str, shown: str, then: str) -> None:
        """Accept the suggestion that is shown: the file is this text then."""
        self.suggested(typed, shown)
        self.press("Tab")
        self.save(then)

    def switch(self, name: str) -> None:
        """Show another file of the folder in the same window."""
        self.press("Control+p")
        self.page.locator(".quick-input-box input").wait_for()
        self.page.keyboard.type(name)
        self.pick(name)
        self.page.locator(".tabs-container .tab.active", has_text=name).wait_for()
        self.focus()

    def command(self, name: str) -> None:
        """Run a command by its name."""
        self.press("F1")
        self.page.locator(".quick-input-box input").wait_for()
        self.page.keyboard.type(name)
        self.pick(name)

    def type(self, text: str) -> None:
        """As fast as a user does."""
        self.page.keyboard.type(text, delay=30)

    def press(self, *keys: str) -> None:
        """Keys, as Playwright names them, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def ghost_text(self, expected: str) -> str:
        """Wait until a suggestion with these words is shown; it without white space."""
        return self._shown("(shown, words) => shown.includes(words)", "".join(expected.split()))

    def other_ghost_text(self, than: str) -> str:
        """Wait until a suggestion other than this one is shown; it without white space."""
        return self._shown("(shown, words) => shown && shown !== words", than)

    def _shown(self, condition: str, words: str) -> str:
        parts = "[...document.querySelectorAll('.monaco-editor [class*=ghost-text]')].map(part => part.textContent)"
        shown = f"const shown = {parts}.join('').replace(/\\s/g, '')"
        check = f"words => {{ {shown}; return ({condition})(shown, words) ? shown : '' }}"
        return self.page.wait_for_function(check, arg=words).json_value()

    def save(self, expected: str) -> None:
        """Save until the file is this text: earlier keys may not have arrived yet."""
        deadline = time.monotonic() + PATIENCE / 1000
        while (found := self.file.read_text(encoding="utf-8")) != expected:
            assert time.monotonic() < deadline, f"{found!r} instead of {expected!r}"
            self.press("Control+s")
            time.sleep(0.2)

    def frame(self, selector: str) -> Any:
        """The frame that shows such an element: a panel's page is in a frame of a frame."""
        deadline = time.monotonic() + PATIENCE / 1000
        while True:
            for frame in self.page.frames:
                with contextlib.suppress(Exception):  # a frame may go while it is asked
                    if frame.locator(selector).count():
                        return frame
            assert time.monotonic() < deadline, f"no frame shows {selector}"
            time.sleep(0.1)


@contextlib.contextmanager
def browser_page(width: int = 1100, height: int = 620) -> Iterator[Any]:
    """An empty page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    switches = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=switches)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            browser.close()
