"""A headless Chromium for the tests of pages, pages that must hold no error, and a server for them."""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
         '--disable-sync', '--no-first-run']


@contextlib.contextmanager
def launched() -> Iterator:
    """A Chromium driven by Playwright; skips the test where either is missing."""
    path = shutil.which('chromium')
    if path is None:
        pytest.skip('there is no chromium; Debian and Ubuntu have a package of that name')
    playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed; get it with: '
                                     'python -m pip install -r tests/requirements.txt')
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=path, args=FLAGS) as browser:
        yield browser


@contextlib.contextmanager
def checked_pages(browser) -> Iterator[Callable]:
    """A function that opens a URL, or the path of a file, and returns Playwright's page, each in a context of its
    own; keyword arguments are those of `Browser.new_context`, such as a viewport.

    On leaving, raises AssertionError if a page had an error in its console or an uncaught one, or requested
    anything from another origin than its own.
    """
    contexts, complaints = [], []

    def watch(page, home):
        page.on('console', lambda line: line.type == 'error' and complaints.append(line.text))
        page.on('pageerror', lambda error: complaints.append(str(error)))
        page.on('request', lambda request: request.url.startswith((home, 'data:', 'blob:', 'about:'))
                or complaints.append(f'asked for {request.url}'))

    def open_page(place: str | Path, **options):
        url = str(place) if '://' in str(place) else place.resolve().as_uri()
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        watch(page, '/'.join(url.split('/')[:3]) + '/')  # http://host:port/ or file:///
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, '\n'.join(complaints)


def barriers(page) -> list[str]:
    """The violations of accessibility rules on a page that axe-core calls serious or critical, a line each; skips the
    test where axe-core is missing."""
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe-core is not installed; get it '
                              'with: python -m pip install -r tests/requirements.txt')
    # Without `preload`, which would load style sheets again, and may not from the disk.
    found = axe.Axe().run(page, options={'resultTypes': ['violations'], 'preload': False}).response['violations']
    return [f'{one["id"]} at {node["target"]}: {node["failureSummary"]}' for one in found
            if one['impact'] in ('serious', 'critical') for node in one['nodes']]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """The handler of `python -m http.server`, without its log."""

    def log_message(self, *_) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder as `python -m http.server` would and returns its URL."""
    servers = []

    def serve(folder: Path) -> str:
        handler = functools.partial(QuietHandler, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}/'

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
