"""JupyterLab with the notebooks in headless Chromium: what a person sees and does, as functions."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKEN = "dino"
# What the page logs that says nothing about a notebook.
HARMLESS = ("favicon", "Failed to load resource", "downloadable font", "willReadFrequently", "ResizeObserver")

ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.outputArea).flatMap(
    cell => cell.model.outputs.toJSON().filter(o => o.output_type === 'error').map(o => o.traceback.join('\\n')))"""

STDERR = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.outputArea).flatMap(
    cell => cell.model.outputs.toJSON().filter(o => o.name === 'stderr').map(o => [o.text].flat().join('')))"""


def chromium():
    """The browser's path, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def jupyter(folder):
    """Serve copies of the notebooks from ``folder``; yields the address."""
    notebooks, settings = folder / "notebooks", folder / "settings"
    notebooks.mkdir(parents=True)
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        text = file.read_text(encoding="utf-8").replace('"EPOCHS = 0 ', '"EPOCHS = 2 ')  # a look, not a result
        (notebooks / file.name).write_text(text, encoding="utf-8")
    for name, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not in the page
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    port = _free_port()
    options = {
        "ServerApp.root_dir": notebooks,
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": TOKEN,
        "LabApp.user_settings_dir": settings,
        "LabApp.workspaces_dir": folder / "workspaces",
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": "",
        "ServerApp.log_level": "ERROR",
    }
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    env.pop("MPLBACKEND", None)  # notebooks bring their own
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api?token={TOKEN}", server, folder / "server.log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the kernels are in its group
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait_for(url, server, log):
    for _ in range(300):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended: {log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise RuntimeError("JupyterLab did not answer within a minute")


class Notebook:
    """A notebook in a page of the browser."""

    def __init__(self, context, address, name):
        self.console = []
        self.page = context.new_page()
        self.page.on("console", lambda m: self.console.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.goto(f"{address}/doc/workspaces/{name}/tree/{name}.ipynb?token={TOKEN}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=60_000,
        )

    def run_all(self, timeout):
        """Run all cells, wait for the last one; returns the text of each error output."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        self.page.wait_for_function(
            f"""() => {{
                const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.outputArea);
                return cells.every(cell => cell.model.executionCount && !/\\*/.test(cell.promptNode.textContent))
                    || ({ERRORS})().length;
            }}""",
            timeout=timeout * 1000,
        )
        self.page.wait_for_timeout(700)  # widgets draw themselves
        return self.page.evaluate(ERRORS)

    def noise(self):
        """Texts that cells wrote to stderr and that are longer than a few lines."""
        return [text for text in self.page.evaluate(STDERR) if len(text) > 1500]

    def save(self):
        """Save the notebook with its outputs."""
        self.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save'); }")

    def sides(self, cell, selector):
        """(left, right) of each part of a cell that ``selector`` finds and that is shown, in pixels of the page."""
        boxes = [part.bounding_box() for part in cell.locator(selector).all() if part.is_visible()]
        return [(box["x"], box["x"] + box["width"]) for box in boxes]

    def complaints(self):
        """What the page logged as an error, noise of JupyterLab itself left out."""
        return [text for text in self.console if not any(word in text for word in HARMLESS)]

    def cell(self, tag):
        """The code cell with that tag."""
        number = self.page.evaluate(
            """tag => window.jupyterapp.shell.currentWidget.content.widgets.findIndex(
                cell => (cell.model.getMetadata('tags') || []).includes(tag))""",
            tag,
        )
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def slider(self, cell, label):
        """The handle of the slider with that label in a cell."""
        box = cell.locator(".widget-inline-hbox", has=self.page.locator(f'.widget-label:text-is("{label}")')).first
        box.scroll_into_view_if_needed()
        return box.locator(".noUi-handle").first

    def shown(self, cell):
        """What a cell shows now: its text, and the addresses of its images and what its drawings are made of."""
        images = cell.locator(".jp-OutputArea img, .jp-OutputArea svg").evaluate_all(
            "found => found.map(image => image.src || image.innerHTML)"
        )
        return cell.locator(".jp-OutputArea").first.inner_text(), images

    def changes(self, cell, act, seconds=10):
        """Do ``act`` and wait until the cell shows something else; returns what it shows then."""
        before = self.shown(cell)
        act()
        for _ in range(seconds * 10):
            if (after := self.shown(cell))[0] != before[0] and after[1] != before[1]:
                return after
            self.page.wait_for_timeout(100)
        raise AssertionError(f"text or image did not change: {before[0]!r} -> {after[0]!r}")

    def screenshot(self, path, width=1280):
        """The whole notebook as an image, as it is in a window of that width."""
        self.page.evaluate("() => { document.querySelector('.jp-Notebook .jp-WindowedPanel-outer').scrollTop = 0 }")
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.wait_for_timeout(300)
        tall = "() => document.querySelector('.jp-Notebook .jp-WindowedPanel-outer').scrollHeight + 150"
        self.page.set_viewport_size({"width": width, "height": min(self.page.evaluate(tall), 16_000)})
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=str(path))
        self.page.set_viewport_size({"width": width, "height": 900})

    def theme(self, kind):
        """Switch to the ``light`` or the ``dark`` theme."""
        name = f"JupyterLab {kind.capitalize()}"
        self.page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name)
        self.page.wait_for_selector(f'body[data-jp-theme-light="{str(kind == "light").lower()}"]', state="attached")

    def close(self):
        """End the kernel and close the page."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
