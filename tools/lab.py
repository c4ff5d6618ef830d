"""Show notebooks in a real JupyterLab, as a reader has them who opens the file and has run nothing yet.

python tools/lab.py OUT [03 ...]    photograph them all, or the named chapters; --dark: in the dark theme
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chapters
import screenshots
from playwright.sync_api import Browser, Page, Response, Route

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"  # the one thing that a notebook fetches
OWN_BADGE = chapters.BOOK / "_static" / "open-in-colab.svg"
START_SECONDS = 60
RENDER_SECONDS = 30
RUN_SECONDS = 600
OFF = (
    "lsp-extension",
    "terminal-extension",
    "extensionmanager-extension",
    "apputils-extension:announcements",
)

SERVER = {
    "ServerApp": {
        "open_browser": False,
        "ip": "127.0.0.1",
        "allow_root": True,  # in a container
        "jpserver_extensions": {"jupyter_lsp": False, "jupyter_server_terminals": False},
    },
    "LabApp": {
        "expose_app_in_browser": True,  # as window.jupyterapp
        "extension_manager": "readonly",
        "news_url": None,
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    },
}
SETTINGS = {
    # Cells out of sight are rendered as well.
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    "apputils-extension/themes": {"adaptive-theme": True},  # dark where the browser asks for it
    "docmanager-extension/plugin": {"autosave": False},
}
CONFIGURATION: dict[str, dict[str, Any]] = {  # the files of the server's configuration folder
    "jupyter_server_config.json": SERVER,
    "labconfig/page_config.json": {"disabledExtensions": {f"@jupyterlab/{name}": True for name in OFF}},
    **{
        f"lab/user-settings/@jupyterlab/{name}.jupyterlab-settings": values
        for name, values in SETTINGS.items()
    },
}

CLOSE = """async () => {
  await window.panel?.context.sessionContext.shutdown();
  window.panel?.dispose();
}"""
OPEN = """async ([path, shouldStart]) => {
  window.panel = await jupyterapp.commands.execute("docmanager:open", {path, kernelPreference: {shouldStart}});
  await panel.context.ready;
  await panel.revealed;
  await panel.content.rendermime.latexTypesetter.mathDocument();
}"""
# Markdown is rendered cell by cell, mathematics after it: done when everything is there and nothing has changed lately.
RENDERED = """() => {
  const place = panel.content.node;
  const missing = [...place.querySelectorAll(".jp-RenderedMarkdown")].some((part) => !part.textContent)
    || [...place.querySelectorAll("img")].some((image) => !image.complete);
  const now = `${place.querySelectorAll("*").length} ${place.scrollHeight}`;
  window.looks = !missing && now === window.last ? (window.looks ?? 0) + 1 : 0;
  window.last = now;
  return window.looks > 2;
}"""
RUN = """(command) => {
  window.outcome = null;
  jupyterapp.commands.execute(command).then((fine) => window.outcome = [fine], (error) => window.outcome = [error]);
}"""
FINISHED = "() => outcome && panel.context.sessionContext.session.kernel.status === 'idle'"
LAST_ERROR = """() => [...panel.model.cells].flatMap((cell) => cell.outputs?.toJSON() ?? []).filter((output) =>
  output.output_type === "error").map(({ ename, evalue }) => `${ename}: ${evalue}`).at(-1)"""
SCROLLER = ".jp-WindowedPanel-outer"


@contextmanager
def server(folder: Path, **variables: str) -> Iterator[str]:
    """Run a JupyterLab that shows a folder, and yield its address, token included.

    Settings, signatures of trusted notebooks, kernels and IPython's history are in a temporary folder: the user's are
    neither read nor changed, nor are packages beside the environment's.

    Args:
        folder: what the server shows.
        variables: what its kernels find in their environment beside what is there.

    Raises:
        RuntimeError: it did not start; its output says why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        places = {name: Path(scratch, name) for name in ("CONFIG", "DATA", "RUNTIME")}
        for name, values in CONFIGURATION.items():
            file = places["CONFIG"] / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values), encoding="utf-8")
        environment = {name: text for name, text in os.environ.items() if not name.startswith("JUPYTER")}
        environment |= {f"JUPYTER_{name}_DIR": str(place) for name, place in places.items()}
        environment |= {"IPYTHONDIR": str(Path(scratch, "ipython")), "PYTHONNOUSERSITE": "1", **variables}
        command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}"]
        log = Path(scratch, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - JupyterLab, on a folder that was named
                command, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield _address(process, places["RUNTIME"], log)
        finally:
            process.terminate()  # it ends its kernels before itself
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen, runtime: Path, log: Path) -> str:
    """Wait for the file in which a server writes where it is."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        for file in runtime.glob("jpserver-*.json"):
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError:  # it is being written
                continue
            return f"{found['url']}doc?token={found['token']}"
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


class Lab(screenshots.Tab):
    """A tab with a JupyterLab, which shows one notebook at a time.

    `errors` and `outside` are of the notebook that was shown last: console errors with requests that failed, and
    addresses outside the server that were asked for in vain. The page's scripts have the notebook as `panel`.
    """

    def __init__(self, chromium: Browser, address: str, look: str = "light") -> None:
        self.origin = address.partition("/doc")[0]
        super().__init__(chromium)
        self.page.on("response", self._note)
        self.page.on("websocket", lambda socket: self._belongs(socket.url) or self.outside.append(socket.url))
        self.open(address, look)
        self.page.wait_for_function("window.jupyterapp")
        self.page.evaluate("jupyterapp.restored.then(() => null)")

    def show(self, path: str, kernel: bool = False) -> Page:
        """Open a notebook in place of the one before, whose kernel ends; return the page once all is rendered.

        Args:
            path: of the notebook, from the folder that the server shows.
            kernel: whether to start a kernel.
        """
        self.page.evaluate(CLOSE)
        for record in (self.errors, self.outside, self.asked):
            record.clear()
        self.page.evaluate(OPEN, [path, kernel])
        if kernel:
            self.page.wait_for_function("panel.context.sessionContext.isReady", timeout=1000 * START_SECONDS)
        self.wait_until_rendered()
        return self.page

    def wait_until_rendered(self) -> None:
        """Wait until text, mathematics and pictures are there, and move no more."""
        self.page.wait_for_function(RENDERED, polling=100, timeout=1000 * RENDER_SECONDS)

    def run(self, command: str = "runmenu:run-all") -> None:
        """Run cells by a command of JupyterLab, and wait until the kernel is idle again.

        Raises:
            RuntimeError: a cell failed, and what came after it did not run.
        """
        self.page.evaluate(RUN, command)
        self.page.wait_for_function(FINISHED, polling=100, timeout=1000 * RUN_SECONDS)
        if self.page.evaluate("outcome") != [True]:
            raise RuntimeError(
                f"{command} stopped: {self.page.evaluate(LAST_ERROR) or 'JupyterLab did not run it'}"
            )
        self.wait_until_rendered()

    def type_into(self, cell: int, source: str) -> None:
        """Replace what stands in a cell, key by key, as the editor's own indentation and brackets allow."""
        self.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".cm-content").click()
        keys = self.page.keyboard
        keys.press("ControlOrMeta+a")
        for number, line in enumerate(source.splitlines()):
            if number:
                keys.press("Enter")
                keys.press("Shift+Home")  # what is typed replaces the editor's indentation
            keys.type(line) if line else keys.press("Delete")

    def save(self) -> None:
        """Save the notebook, as JupyterLab does."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save').then(() => null)")

    def photograph(self, out: Path, height: int) -> list[Path]:
        """Photograph the notebook from its top to its end, a window of this height at a time."""
        bars = self.page.evaluate(f"innerHeight - document.querySelector('{SCROLLER}').clientHeight")
        self.page.set_viewport_size({"width": screenshots.LOOKS["light"][1], "height": height + bars})
        self.wait_until_rendered()
        place, pictures = self.page.locator(SCROLLER), []
        for top in range(0, place.evaluate("place => place.scrollHeight"), height):
            place.evaluate("(place, top) => place.scrollTop = top", top)
            pictures.append(out.with_name(f"{out.name}-{len(pictures) + 1:02d}.png"))
            place.screenshot(path=pictures[-1])
        return pictures

    def _belongs(self, url: str) -> bool:
        return url.replace("ws:", "http:", 1).startswith((self.origin, "data:", "blob:"))

    def _gate(self, route: Route) -> None:
        self.asked.add(route.request.url)
        if route.request.url == BADGE:
            route.fulfill(path=OWN_BADGE)
        elif self._belongs(route.request.url):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def _note(self, response: Response) -> None:
        if response.status >= 400:
            self.errors.append(f"{response.status} {response.url}")


def copied(notebook: Path, folder: Path) -> str:
    """Copy a notebook into an empty folder of its own; return its path from the folder around it."""
    empty = tempfile.mkdtemp(dir=folder)
    return Path(shutil.copy(notebook, empty)).relative_to(folder).as_posix()


def main() -> None:
    """Write OUT/<notebook>-<look>-<part>.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument(
        "chapters", nargs="*", help="numbers of chapters (default: all, and the other notebooks)"
    )
    parser.add_argument("--dark", action="store_true", help="in JupyterLab's dark theme")
    parser.add_argument(
        "--height", type=int, default=1600, help="of a picture, in pixels (default: %(default)s)"
    )
    arguments = parser.parse_args()
    notebooks = chapters.chapters(arguments.chapters) + ([] if arguments.chapters else chapters.pages())
    look = "dark" if arguments.dark else "light"
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as address,
        screenshots.browser() as chromium,
        Lab(chromium, address, look) as lab,
    ):
        for notebook in notebooks:
            lab.show(copied(notebook, Path(folder)))
            pictures = lab.photograph(arguments.out / f"{notebook.stem}-{look}", arguments.height)
            print(pictures[0], f"and {len(pictures) - 1} more", *lab.errors, *lab.outside)


if __name__ == "__main__":
    main()
