"""One JupyterLab and one Chromium for all browser tests of a process; what they measured is printed at the end."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for lab.py, which lies here
pytest.register_assert_rewrite("lab")
from lab import CHROMIUM_OPTIONS, COUNT_CONTEXTS, Lab, Tab  # noqa: E402

ROOT = HERE.parent.parent
SCREENSHOTS = ROOT / "build/screenshots"
SETTINGS = {  # JupyterLab asks nothing, and does not save a notebook that another test opens
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "docmanager-extension/plugin": '{"autosave": false}',
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    if (found := next(filter(None, map(shutil.which, BROWSERS)), None)) is None:
        pytest.fail("the browser tests need Chromium or Chrome. Debian: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@contextlib.contextmanager
def window(browser):
    """A tab of 1280 × 800 pixels that reaches nothing but this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(COUNT_CONTEXTS)
    context.set_default_timeout(60_000)
    try:
        yield Tab(context)
    finally:
        context.close()


@pytest.fixture
def leave(request):
    """Call with a tab at the end of a test: a screenshot stays of how the test left it, and the page has not
    complained.
    """

    def leave(tab):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        tab.page.screenshot(path=SCREENSHOTS / f"{request.node.name.replace('/', '-')}.png")
        complaints = tab.complaints()
        tab.lines.clear()
        assert complaints == []

    return leave


@pytest.fixture
def tab(browser, leave):
    """A window that nobody has used."""
    with window(browser) as tab:
        yield tab
        leave(tab)


@pytest.fixture(scope="module")
def desk(browser):
    """A window that the tests of a module have one after the other: JupyterLab takes 15 s of processor to load, and 1 s to
    open another notebook.
    """
    with window(browser) as tab:
        yield tab


@pytest.fixture
def run(lab, desk, leave, measured, request):
    """Call with a notebook's name: it is opened at the desk and run, and its kernel ends with the test. After a test that
    failed the next one finds an empty page.
    """
    opened, failed = [], request.session.testsfailed

    def open_and_run(name):
        opened.append(lab.open(desk, name))
        measured(f"{name}: all cells in {opened[-1].run():.0f} s")
        return opened[-1]

    yield open_and_run
    try:
        for notebook in opened:
            assert notebook.errors() == []
        leave(desk)
        for notebook in opened:
            notebook.close()
    except BaseException:
        desk.renew()
        raise
    if request.session.testsfailed > failed:
        desk.renew()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks, with the settings of a first visit but for SETTINGS."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "root/notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ROOT / "data", home / "root/data")
    for plugin, settings in SETTINGS.items():
        path = home / f"settings/@jupyterlab/{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(settings)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",  # which notebooks are trusted: none
        "IPYTHONDIR": "ipython",
    }
    env = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    token = secrets.token_hex()
    options = [
        f"--port={port}",
        "--ServerApp.port_retries=0",  # another process may have taken it: then this one says so
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={home / 'root'}",
        "--no-browser",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
    ]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], cwd=home, env=env, stdout=log, stderr=log
        )
    lab = Lab(f"http://localhost:{port}", token, home / "root")
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{lab.address}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"JupyterLab did not start:\n{(home / 'log').read_text()[-3000:]}", pytrace=False)
        yield lab
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def measured(request):
    """Call with a line for the summary of the tests."""
    return lambda line: request.node.user_properties.append(("measured", line))


def pytest_collection_modifyitems(items):
    """No test of a page waits longer than this, whatever its waits are for."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(240))


def pytest_terminal_summary(terminalreporter):
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    if lines := [line for report in reports for name, line in report.user_properties if name == "measured"]:
        terminalreporter.section("measured in the browser")
        for line in lines:
            terminalreporter.line(line)
