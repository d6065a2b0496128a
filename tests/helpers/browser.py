"""A headless Chromium for the tests of pages, and pages that hold no error."""

import functools
import http.server
import shutil
import threading

import pytest

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
         '--disable-sync', '--no-first-run']


@pytest.fixture(scope='session')
def browser():
    """One Chromium for all tests, driven by Playwright; tests that need it skip where either is absent."""
    path = shutil.which('chromium')
    if path is None:
        pytest.skip('there is no chromium; Debian and Ubuntu have a package of that name')
    playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed; get it with: '
                                     'python -m pip install -r tests/requirements.txt')
    with playwright.sync_playwright() as driver:
        with driver.chromium.launch(executable_path=path, args=FLAGS) as found:
            yield found


@pytest.fixture
def visit(browser):
    """Call with a URL (or the path of a file) for a page of Playwright's that shows it, in a window of its
    own; more arguments are those of `Browser.new_context`, say a viewport.

    When the test is over, no page may have had an error in its console or an uncaught one, or have asked for
    anything from another place than its own.
    """
    contexts, complaints = [], []

    def watch(page, home):
        page.on('console', lambda line: line.type == 'error' and complaints.append(line.text))
        page.on('pageerror', lambda error: complaints.append(str(error)))
        page.on('request', lambda request: request.url.startswith((home, 'data:', 'blob:', 'about:'))
                or complaints.append(f'asked for {request.url}'))

    def open_page(place, **options):
        url = str(place) if '://' in str(place) else place.resolve().as_uri()
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        # What `http://host:port/...` and `file:///...` have in common with their neighbours.
        watch(page, '/'.join(url.split('/')[:3]) + '/')
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, '\n'.join(complaints)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """What `python -m http.server` serves with, without its log."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def served():
    """Call with a folder for the URL at which it is served, as `python -m http.server` would."""
    servers = []

    def serve(folder):
        handler = functools.partial(QuietHandler, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}/'

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
