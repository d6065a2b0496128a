"""The page in a browser: searching, sorting, opening, highlighting, by mouse and by keyboard, and untrusted text."""

import io

import numpy as np
import pytest
from PIL import Image

from misc.page.data import Entry, Facts
from misc.page.page import write_page
from tests.helpers.browser import barriers
from tests.helpers.pages import FACTS, HOSTILE, SIDE, draw_picture, made_up, read_page, write_sample

COUNT = 60
WIDE = {'viewport': {'width': 1280, 'height': 800}}
PHONE = {'viewport': {'width': 390, 'height': 800}, 'has_touch': True, 'is_mobile': True}


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    """(folder of a page, its entries, the function that returns their boxes and grid vectors)."""
    return write_sample(tmp_path_factory.mktemp('sample'), COUNT)


@pytest.fixture
def page(sample, visit):
    """The page, opened from disk."""
    return visit(sample[0] / 'index.html', **WIDE)


def captions(page, count=3):
    """The captions of the first cards, in reading order."""
    return page.locator('.card:not([hidden]) .caption').all_inner_texts()[:count]


def in_order(entries, name):
    return [' '.join(entry.words) for entry in sorted(entries, key=lambda entry: entry.scores[name])]


@pytest.mark.parametrize('source', ['disk', 'server'])
def test_it_loads_from_disk_and_from_a_server_and_shows_an_image(sample, visit, served, source, tmp_path):
    folder, entries, _ = sample
    page = visit(folder / 'index.html' if source == 'disk' else served(folder), **WIDE)
    assert page.title() == FACTS.title and page.locator('#count').inner_text() == f'{COUNT} images'
    assert captions(page) == [' '.join(entry.words) for entry in entries[:3]]
    page.locator('.card a').nth(1).click()
    page.locator('.word').first.wait_for()
    assert page.locator('.word').all_inner_texts() == entries[1].words
    assert page.locator('.references li').all_inner_texts() == entries[1].references
    assert page.locator('.picture img').evaluate('image => image.decode().then(() => image.naturalWidth)') == 320
    shot = page.screenshot(path=tmp_path / 'page.png')
    assert len(shot) > 20000 and page.url.endswith('#2') and entries[1].words[0] in page.title()


def test_it_sorts_by_scores_and_by_length(page, sample):
    entries = sample[1]
    for score in ('CIDEr', 'Bleu_4', 'log_prob'):
        page.select_option('#score', score)
        expected = in_order(entries, score)
        page.select_option('#order', 'low')
        assert captions(page) == expected[:3]
        page.select_option('#order', 'high')
        assert captions(page) == expected[::-1][:3]
        shown = page.locator('.card .score').first.inner_text()
        assert f'{max(entry.scores[score] for entry in entries):.3f}'[:4] in shown
    page.select_option('#order', 'short')
    assert captions(page, 1)[0].count(' ') == min(len(entry.words) for entry in entries) - 1


def test_it_filters_by_words_and_ranges_of_scores(page, sample):
    entries, count = sample[1], page.locator('#count')
    page.fill('#query', 'dog KITE')
    text = [' '.join([*entry.words, '\n', *entry.references]) for entry in entries]
    found = sum('dog' in one and 'kite' in one for one in text)
    page.wait_for_function(f'document.getElementById("count").textContent.startsWith("{found} of")')
    page.fill('#query', 'val2014/7.jpg')
    page.wait_for_function('document.getElementById("count").textContent.startsWith("1 of")')
    assert captions(page) == [' '.join(entries[7].words)]
    page.fill('#query', 'no such words')
    page.locator('#nothing').wait_for()
    page.click('#reset')
    assert count.inner_text() == f'{COUNT} images'
    page.focus('#least')
    for _ in range(30):
        page.keyboard.press('ArrowRight')
    scores = [entry.scores['CIDEr'] for entry in entries]
    bound = min(scores) + 0.3 * (max(scores) - min(scores))
    found = sum(score >= bound for score in scores)
    page.wait_for_function(f'document.getElementById("count").textContent.startsWith("{found} of")')
    assert page.locator('#bounds').inner_text().startswith(f'{bound:.3f}')


def test_images_without_the_score_come_last_in_either_order(visit, tmp_path):
    (tmp_path / 'pictures').mkdir()
    entries, places = made_up(tmp_path / 'pictures', 5)
    for entry, score in zip(entries, (0.5, None, 0.1, None, 0.9)):
        entry.scores = {'CIDEr': score, 'log_prob': 1.0}
    write_page(tmp_path / 'vis', FACTS, entries, places)
    page = visit(tmp_path / 'vis' / 'index.html', **WIDE)
    for order, expected in (('low', [2, 0, 4, 1, 3]), ('high', [4, 0, 2, 1, 3])):
        page.select_option('#order', order)
        assert captions(page, 5) == [' '.join(entries[place].words) for place in expected]


def test_the_lower_slider_at_its_maximum_leaves_the_best_image(visit, tmp_path):
    (tmp_path / 'pictures').mkdir()
    entries, places = made_up(tmp_path / 'pictures', 3)
    low, high = 0.91, 1.97
    assert low + (high - low) * 100 / 100 > high  # by rounding
    for entry, score in zip(entries, (low, high, 1.2)):
        entry.scores = {'CIDEr': score}
    write_page(tmp_path / 'vis', FACTS, entries, places)
    page = visit(tmp_path / 'vis' / 'index.html', **WIDE)
    page.focus('#least')
    page.keyboard.press('End')
    page.wait_for_function('document.getElementById("count").textContent === "1 of 3 images"')
    assert captions(page) == [' '.join(entries[1].words)]


def test_an_empty_caption_has_no_attention(visit, tmp_path):
    entries, places = made_up(tmp_path, 1, pictures=[draw_picture(tmp_path / 'picture.jpg', 0)])
    entries[0].words, entries[0].attention = [], {'mean': np.zeros((0, 8))}
    write_page(tmp_path / 'vis', FACTS, entries, places)
    page = visit((tmp_path / 'vis' / 'index.html').resolve().as_uri() + '#1', **WIDE)
    page.locator('.region').first.wait_for()
    text = page.locator('#side').inner_text()
    assert page.locator('.sentence').inner_text() == '(no words)' and 'NaN' not in text
    assert page.locator('.region').count() == 8 and '8 regions' in text and 'Point at a word' not in text


def test_an_image_has_a_url_and_neighbours(sample, visit):
    page = visit((sample[0] / 'index.html').resolve().as_uri() + '#40', **WIDE)
    page.locator('.word').first.wait_for()
    assert page.locator('.position').inner_text() == f'40 of {COUNT}'
    assert page.locator('.card.chosen .caption').inner_text() == ' '.join(sample[1][39].words)  # scrolled into view
    page.get_by_role('button', name='Next').click()
    page.keyboard.press('n')
    assert page.url.endswith('#42')
    page.keyboard.press('p')
    assert page.locator('.position').inner_text() == f'41 of {COUNT}'
    page.go_back()
    assert page.locator('.position').inner_text() == f'42 of {COUNT}'
    page.keyboard.press('Escape')
    assert '#' not in page.url and page.get_by_text('Choose an image').is_visible()


def lit_boxes(page):
    """Rectangles of the outlined boxes, the largest weight last."""
    return page.locator('.box.lit').evaluate_all(
        'boxes => boxes.map(box => ["x", "y", "width", "height"].map(name => Number(box.getAttribute(name))))')


def test_boxes_are_highlighted_for_a_word_by_mouse_and_by_keyboard(page, sample):
    _, entries, places = sample
    page.locator('.card a').nth(2).click()
    words, (boxes, _) = page.locator('.word'), places(2)

    def is_lit(word, layer='mean'):
        weights = entries[2].attention[layer][word]
        best = boxes[np.argmax(weights)]
        found = lit_boxes(page)[-1]
        assert np.allclose(found, [*best[:2], *(best[2:] - best[:2])], atol=1e-4)
        assert page.locator('.word.lit').inner_text() == entries[2].words[word]
        share = 100 * weights.max()
        percent = f'{share:.0f}\u00a0%' if share >= 9.95 else f'{share:.1f}\u00a0%'
        assert percent in page.locator('.legend').inner_text()
        assert page.locator('[aria-live]').inner_text().startswith(
            f'{entries[2].words[word]}: region {np.argmax(weights) + 1}, {percent}')

    words.first.wait_for()
    assert page.locator('.box.plain').count() == len(boxes)
    words.nth(1).hover()
    is_lit(1)
    page.locator('h1').hover()
    assert not lit_boxes(page)
    words.nth(1).focus()
    page.keyboard.press('ArrowRight')
    is_lit(2)
    page.keyboard.press('End')
    is_lit(len(entries[2].words) - 1)
    page.get_by_text('last layer').click()
    is_lit(len(entries[2].words) - 1, 'last')
    page.get_by_text(f'{SIDE} × {SIDE} grid').click()
    assert page.locator('.picture .grid').count() == 2 * (SIDE - 1) and not lit_boxes(page)
    words.nth(0).focus()
    page.keyboard.press('Escape')  # deselects the word, keeps the image open
    assert page.locator('.word.lit').count() == 0 and page.url.endswith('#3')


def test_a_region_shows_what_it_covers_of_the_grid(page, sample):
    page.locator('.card a').first.click()
    page.locator('.word').first.wait_for()
    boxes, grids = sample[2](0)
    smallest = int(np.argmin((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])))
    frame = page.locator('.picture').bounding_box()
    x, y = (boxes[smallest, :2] + boxes[smallest, 2:]) / 2
    page.mouse.move(frame['x'] + x * frame['width'], frame['y'] + y * frame['height'])
    assert page.get_by_text(f'Grid coverage of region {smallest + 1}').is_visible()
    shares = page.locator('.coverage .full[fill-opacity]').evaluate_all(
        'cells => cells.map(cell => Number(cell.getAttribute("fill-opacity")))')
    assert np.allclose(shares, grids[smallest], atol=0.005)
    page.locator('.region').first.focus()
    page.keyboard.press('ArrowDown')
    second = page.locator('.region').nth(1)
    assert second.evaluate('node => node === document.activeElement')
    assert page.get_by_text(f'Grid coverage of region {second.get_attribute("data-region")}').count() == 0
    assert page.get_by_text(f'Grid coverage of region {int(second.get_attribute("data-region")) + 1}').is_visible()


def test_everything_can_be_reached_by_keyboard_with_a_visible_focus(page):
    page.keyboard.press('/')
    assert page.evaluate('document.activeElement.id') == 'query'
    reached = []
    for _ in range(12):
        page.keyboard.press('Tab')
        reached.append(page.evaluate('document.activeElement.id || document.activeElement.className '
                                     '|| document.activeElement.closest("li").className'))
        if reached[-1] == 'card':
            break
    assert reached == ['score', 'order', 'least', 'most', 'card']
    page.keyboard.press('ArrowDown')
    page.keyboard.press('ArrowRight')
    outline = page.evaluate('getComputedStyle(document.activeElement).outlineStyle')
    index = page.evaluate('document.activeElement.closest("li").index')
    assert outline == 'solid' and index > 1
    page.keyboard.press('Enter')
    page.locator('.word.lit').wait_for()  # the first word has the focus
    page.keyboard.press('Escape')
    page.keyboard.press('Escape')
    assert page.evaluate('document.activeElement.closest("li").index') == index
    page.keyboard.press('End')
    assert page.evaluate('document.activeElement.closest("li").index') == COUNT - 1
    names = page.evaluate('''[...document.querySelectorAll("button, a, input, select")].filter(
        node => node.checkVisibility()).map(node => node.labels?.length || node.getAttribute("aria-label")
        || node.textContent.trim())''')
    assert all(names)


def hostile(folder):
    """Entries whose words, names, ids and references are all untrusted text."""
    folder.mkdir()
    picture = str(draw_picture(folder / 'picture.jpg', 0))
    ids = ['__proto__', '<b>', 'a/b?c#d%20"\'', '%', *HOSTILE[4:]]
    return [Entry(image_id, HOSTILE, picture, text, references=[text, ' '.join(HOSTILE)],
                  scores={'<i>CIDEr</i>': number, 'constructor': 1}, others=HOSTILE,
                  attention={'mean': np.full((len(HOSTILE), 3), 1 / 3)})
            for number, (image_id, text) in enumerate(zip(ids, HOSTILE))]


def test_untrusted_text_stays_text(visit, tmp_path):
    entries = hostile(tmp_path / 'pictures')
    facts = Facts(HOSTILE[0], [(HOSTILE[1], HOSTILE[0])], {HOSTILE[1]: 1.0}, HOSTILE[0], HOSTILE[1])
    boxes = np.array([[0, 0, 1, 1], [0.2, 0.2, 0.5, 0.5], [0.1, 0.6, 0.1, 0.6]])
    write_page(tmp_path / 'vis', facts, entries, lambda place: (boxes, None))
    page = visit(tmp_path / 'vis' / 'index.html', viewport={'width': 900, 'height': 700})
    assert page.locator('h1').inner_text() == HOSTILE[0] and HOSTILE[1] in page.locator('.about').inner_text()
    for number in range(len(entries)):
        page.evaluate(f'go({number})')
        page.locator('.word').first.wait_for()
        assert page.locator('.word').evaluate_all('words => words.map(word => word.textContent)') == [
            word.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') for word in HOSTILE]
        image_id = str(entries[number].image_id).replace('\ud800', '?')
        assert page.locator('.file').text_content().endswith(f'image {image_id}')
        page.reload()  # by its address
        page.locator('.word').first.wait_for()
        assert page.evaluate('side.entry') == number
        wide = page.evaluate('[...document.querySelectorAll("#side, #scroller, html")].filter('
                             'node => node.scrollWidth > node.clientWidth).map(node => node.id)')
        assert wide == []
    assert page.locator('.scores dt').all_text_contents() == ['<i>CIDEr</i>', 'constructor']
    assert page.evaluate('window.hacked') is None
    assert page.locator('#page script, #page b b, #page i i, .references img').count() == 0


@pytest.mark.parametrize('missing', ['boxes', 'places', 'attention', 'all'])
def test_the_page_works_without_unknown_parts(visit, tmp_path, missing):
    folder, entries, places = write_sample(tmp_path, 2, layers=() if missing in ('attention', 'all') else ('mean',))
    if missing == 'all':
        (tmp_path / 'pictures' / '0.jpg').write_bytes(b'no picture')
        for entry in entries:
            entry.references, entry.scores, entry.words = [], {}, []

    def known(place):
        boxes, grids = places(place)
        return {'boxes': (None, grids), 'attention': (boxes, None)}.get(missing, (None, None))
    write_page(folder, FACTS, entries, known)
    page = visit(folder / 'index.html', **WIDE)
    page.locator('.card a').first.click()
    if missing == 'boxes':
        page.locator('.word').nth(1).hover()
        assert len(lit_boxes(page)) and page.locator('.coverage').count() == 0
        page.locator('.region').first.hover()
        assert page.locator('.picture .covered').count() and page.locator('.coverage').is_visible()
    elif missing == 'places':
        page.locator('.word').nth(1).hover()
        assert 'positions of the regions are unknown' in page.locator('#side').inner_text() and not lit_boxes(page)
        assert page.locator('.region').count() == 8
    elif missing == 'attention':
        page.get_by_text(FACTS.attention).wait_for()
        page.locator('.chips .region').nth(1).hover()
        assert page.locator('.box.picked').count() == 1 and page.locator('.word').count() == 0
    else:
        page.get_by_text('This picture could not be read.').wait_for()
        text = page.locator('#side').inner_text()
        assert 'no references' in text and 'The regions of this image are unknown' in text and '(no words)' in text
        assert not page.locator('#score').is_visible() and not page.locator('#range').is_visible()


def test_a_page_that_was_rewritten_while_open_says_so(browser, tmp_path):
    folder, entries, places = write_sample(tmp_path, 2)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((folder / 'index.html').as_uri())
        entries[0].words = ['other']
        write_page(folder, FACTS, entries, places)
        page.locator('.card a').first.click()
        page.get_by_text('reload it').wait_for()


def test_a_narrow_window_shows_the_list_or_the_image(sample, visit):
    page = visit(sample[0] / 'index.html', viewport={'width': 390, 'height': 800}, color_scheme='dark')
    assert not page.locator('#side').is_visible()
    page.locator('.card a').first.click()
    page.locator('.word').first.wait_for()
    assert page.evaluate('document.getElementById("browse").inert')
    assert page.evaluate('document.documentElement.scrollWidth') == 390
    dark = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert max(map(int, dark.removeprefix('rgb(').removesuffix(')').split(','))) < 60
    page.get_by_role('button', name='Close').click()
    assert page.locator('.card a').first.evaluate('node => node === document.activeElement')


def test_where_there_is_no_mouse_words_and_regions_are_tapped(sample, visit):
    said = []
    for options in (WIDE, PHONE):
        page = visit(sample[0] / 'index.html', **options)
        page.get_by_text('About this page').click()
        said.append(page.locator('#side').inner_text())
        page.evaluate('go(0)')
        page.locator('.word').first.wait_for()
        said[-1] += page.locator('#side').inner_text()
    mouse, touch = said
    assert mouse.count('Point at a') == 3 and 'Keys' in mouse and 'Tap' not in mouse
    assert touch.count('Tap a') == 3 and 'Keys' not in touch and 'Point' not in touch and '←, ' not in touch
    page.locator('.word').nth(1).tap()
    assert page.locator('.word.lit').inner_text() == sample[1][0].words[1]
    page.locator('.region').nth(1).tap()
    assert page.locator('.region.picked').count() == page.locator('.box.picked').count() == 1


def test_a_narrow_window_shows_the_description_with_the_scores_and_goes_back(sample, visit):
    page = visit(sample[0] / 'index.html', viewport={'width': 390, 'height': 800})
    page.get_by_text('About this page').click()
    assert page.locator('.scores dd').first.inner_text() == '1.500'
    assert page.evaluate('document.getElementById("browse").inert')
    assert page.locator('.bar button:visible').all_inner_texts() == ['Close']
    page.reload()
    page.get_by_role('button', name='Close').click()
    assert not page.locator('#side').is_visible() and page.get_by_text('About this page').evaluate(
        'node => node === document.activeElement')


@pytest.fixture(scope='module')
def cells(tmp_path_factory):
    """The folder of a page whose regions are the cells of its grid; words attend to neighbours, the first most of all
    to cell 14."""
    folder = tmp_path_factory.mktemp('cells')
    entries, places = made_up(folder, 1, regions=SIDE * SIDE, pictures=[draw_picture(folder / 'picture.jpg', 3)])
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    boxes = np.stack([columns, rows, columns + 1, rows + 1], 1) / SIDE
    entries[0].words = [f'word{n}' for n in range(8)]
    weights = [np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 1.5)
               for row, column in [(2, 2), (0, 0), (0, 5), (5, 0), (5, 5), (0, 3), (3, 0), (4, 4)]]
    entries[0].attention = {'mean': np.array([one / one.sum() for one in weights])}
    write_page(folder / 'vis', FACTS, entries, lambda place: (boxes, np.eye(SIDE * SIDE)))
    return folder / 'vis'


@pytest.mark.parametrize('width', [390, 1280])
def test_labels_cover_neither_outlined_regions_nor_one_another(cells, visit, width):
    page = visit((cells / 'index.html').as_uri() + '#1', viewport={'width': width, 'height': 800})
    page.locator('.word').first.wait_for()
    for number in range(8):
        page.locator('.word').nth(number).click()
        labels, boxes = ([[box['x'], box['y'], box['x'] + box['width'], box['y'] + box['height']]
                          for box in (one.bounding_box() for one in page.locator(selector).all())]
                         for selector in ('.labels span', '.box.lit'))
        assert labels and len(boxes) > 2
        for place, one in enumerate(labels):
            for other in (*boxes, *labels[:place]):
                assert min(one[2], other[2]) - max(one[0], other[0]) < 1.5 or (
                    min(one[3], other[3]) - max(one[1], other[1]) < 1.5)


def test_what_the_model_attended_to_keeps_its_colours_and_the_rest_is_only_darker(cells, visit):
    page = visit((cells / 'index.html').as_uri() + '#1', **WIDE)
    page.locator('.word').first.wait_for()
    page.locator('.picture img').evaluate('image => image.decode()')

    def shown():
        image = Image.open(io.BytesIO(page.locator('.picture').screenshot())).convert('RGB')
        # The middles of the cells, away from lines.
        return np.array([[image.getpixel((int((column + 0.5) / SIDE * image.width),
                                          int((row + 0.5) / SIDE * image.height))) for column in range(SIDE)]
                         for row in range(SIDE)], float)

    plain = shown()
    page.locator('.word').first.focus()
    for step in ('boxes', 'cells', 'region'):
        if step == 'cells':
            page.get_by_text(f'{SIDE} × {SIDE} grid').click()
        if step == 'region':
            page.locator('.region').first.hover()  # cell 14
        found = shown()
        assert abs(found[2, 2] - plain[2, 2]).max() <= 2, step
        assert abs(found[5, 5] - 0.32 * plain[5, 5] - 0.68 * np.array([18, 16, 14])).max() <= 3, step  # darkened


def test_the_legend_stays_on_one_line(sample, visit):
    page = visit((sample[0] / 'index.html').as_uri() + '#1', viewport={'width': 390, 'height': 800})
    page.locator('.word').first.click()
    for _ in range(2):
        lines = page.locator('.legend span').evaluate_all(
            'nodes => nodes.filter(node => node.textContent).map(node => [node.getClientRects().length, '
            'node.getBoundingClientRect().bottom, node.getBoundingClientRect().right])')
        assert len(lines) > 1 and {one[0] for one in lines} == {1} and len({one[1] for one in lines}) == 1
        assert max(one[2] for one in lines) <= 390
        page.get_by_text(f'{SIDE} × {SIDE} grid').click()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1280])
def test_it_has_no_serious_barrier(sample, visit, width, scheme):
    page = visit(sample[0] / 'index.html', viewport={'width': width, 'height': 800}, color_scheme=scheme)
    assert barriers(page) == []
    page.get_by_text('About this page').click()
    assert barriers(page) == []
    page.evaluate('go(0)')
    page.locator('.word').nth(1).click()
    page.locator('.region').nth(1).hover()
    assert barriers(page) == []


def test_of_many_images_only_the_visible_ones_are_in_the_document(visit, tmp_path):
    picture = draw_picture(tmp_path / 'picture.jpg', 0)
    entries, places = made_up(tmp_path, 2000, regions=2, pictures=[picture])
    write_page(tmp_path / 'vis', FACTS, entries, places)
    assert len(read_page(tmp_path / 'vis')[1]) == 2000
    page = visit(tmp_path / 'vis' / 'index.html', **WIDE)
    page.locator('.card a').first.focus()
    page.keyboard.press('End')
    last = page.locator('.card:not([hidden])').last
    assert last.locator('.caption').inner_text() == ' '.join(entries[-1].words)
    assert page.locator('.card').count() < 60
    page.keyboard.press('Enter')
    page.locator('.word').first.wait_for()
    assert page.locator('.word').all_inner_texts() == entries[-1].words
    assert page.evaluate('Object.keys(PAGE.details).length') == 1
