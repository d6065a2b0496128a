"""The fixtures for pages: they open a page, and fail on its errors."""

import pytest

from tests.helpers.browser import checked_pages

PAGE = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>one</title>'


def test_a_page_is_shown_from_disk_and_from_a_server(visit, served, tmp_path):
    (tmp_path / 'index.html').write_text(PAGE + '<script>document.title += " two"</script>')
    assert visit(tmp_path / 'index.html').title() == visit(served(tmp_path)).title() == 'one two'


@pytest.mark.parametrize('wrong', [
    '<script>throw Error("broken")</script>', '<script>console.error("broken")</script>',
    '<img src="https://localhost:1/broken.png">', '<script src="broken.js"></script>'])
def test_errors_of_a_page_fail_the_test(browser, tmp_path, wrong):
    (tmp_path / 'index.html').write_text(PAGE + wrong)
    with pytest.raises(AssertionError, match='broken|ERR_'), checked_pages(browser) as open_page:
        open_page(tmp_path / 'index.html')
