"""Measure a page of 5,000 made-up images: how fast it opens and scrolls, and how much memory it takes.

    python -m tests.stress.page_5000 [--images N] [--pictures FOLDER]
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from misc.cli import Parser, number_in, run_command
from misc.page.page import write_page
from tests.helpers.browser import FLAGS
from tests.helpers.pages import FACTS, draw_picture, made_up

OPENED = 'document.querySelectorAll(".card:not([hidden]) img").length > 0'
SCROLL = '''(seconds) => new Promise((resolve) => {
  const node = document.getElementById("scroller"), frames = [], begun = performance.now();
  let last = begun;
  const step = (now) => {
    frames.push(now - last);
    last = now;
    node.scrollTop += 60;   // 3,600 pixels a second at 60 frames a second
    if (now - begun < 1000 * seconds) requestAnimationFrame(step); else resolve(frames.slice(1));
  };
  requestAnimationFrame(step);
})'''


def memory_of(folder: Path) -> tuple[float, float]:
    """Proportional memory, in MB, of the Chromium whose profile is in `folder`: of all its processes, and of the one
    that renders the page."""
    found = []
    for line in subprocess.run(['ps', '-eo', 'pid,args'], capture_output=True, text=True).stdout.splitlines():
        pid, _, command = line.strip().partition(' ')
        if str(folder) in command:
            try:
                lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
            except OSError:
                continue
            size = next(int(one.split()[1]) for one in lines if one.startswith('Pss:')) / 1024
            found.append((size, '--type=renderer' in command))
    return sum(size for size, _ in found), max((size for size, renders in found if renders), default=0)


def measure(page_file: Path, profile: Path) -> None:
    """Open the page, scroll it, open images, search; print the times."""
    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path='/usr/bin/chromium', args=FLAGS, viewport={'width': 1440, 'height': 900})
        page = context.pages[0]
        page.on('pageerror', lambda error: print('error:', error))
        seconds = []
        for _ in range(5):
            page.goto('about:blank')
            started = time.perf_counter()
            page.goto(page_file.as_uri())
            page.wait_for_function(OPENED)
            seconds.append(time.perf_counter() - started)
        print(f'opens in {statistics.median(seconds):.2f} s (median of 5, the longest {max(seconds):.2f} s)')
        frames = sorted(page.evaluate(SCROLL, 10))
        print(f'scrolling for 10 s: {len(frames) / 10:.0f} frames a second, half of them within '
              f'{frames[len(frames) // 2]:.0f} ms, 99 % within {frames[len(frames) * 99 // 100]:.0f} ms, the longest '
              f'{frames[-1]:.0f} ms')
        started = time.perf_counter()
        for step in range(20):
            page.evaluate(f'go({step * 211 % len(page.evaluate("PAGE.ids"))})')
            page.locator('.word').first.wait_for()
        print(f'an image opens in {(time.perf_counter() - started) / 20:.2f} s (mean of 20 in 20 data files)')
        started = time.perf_counter()
        page.fill('#query', 'dog kite')
        page.wait_for_function('document.getElementById("count").textContent.includes(" of ")')
        print(f'a search takes {time.perf_counter() - started:.2f} s, of which 0.12 s are the pause after typing')
        total, renderer = memory_of(profile)
        print(f'memory: {renderer:.0f} MB in the process of the page, {total:.0f} MB in all of Chromium')
        context.close()


def main() -> None:
    """Make the page in a temporary folder and measure it."""
    parser = Parser(description=__doc__)
    parser.add_argument('--images', type=number_in(int, 1), default=5000, help='images on the page')
    parser.add_argument('--pictures', help='folder of JPEGs to show in turn (default: 100 made-up ones)')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.pictures:
            pictures = sorted(map(str, Path(options.pictures).rglob('*.jpg')))
        else:
            pictures = [str(draw_picture(folder / f'{number}.jpg', number, (640, 480))) for number in range(100)]
        entries, places = made_up(folder, options.images, regions=36, pictures=pictures)
        started = time.perf_counter()
        write_page(folder / 'vis', FACTS, entries, places)
        size = sum(path.stat().st_size for path in (folder / 'vis' / 'data').rglob('*.js')) / 2 ** 20
        print(f'{options.images} images, 36 regions each: written in {time.perf_counter() - started:.1f} s, '
              f'{size:.1f} MB of data')
        measure(folder / 'vis' / 'index.html', folder / 'profile')


if __name__ == '__main__':
    run_command(main)
