"""The report on several runs: what it reads and refuses, what it shows, and how the page behaves."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from misc import report_page
from misc.cli import DataError, UsageError
from misc.histories import read_logged
from scripts import create_report
from tests import tiny
from tests.test_plot_history import record, write_run

NASTY = '<script>document.title="bad"</script> \'"&amp; \ud800 \u202e ' + 'w' * 300
IMAGES = [11, 12, 13, 14, 15, 16]


def write_results(folder, name, shift=0.0, ids=IMAGES, **changes):
    """Write NAME_test.json, whose image scores rise by `shift` and wobble; returns its path."""
    rows = [{'image_id': image, 'caption': f'a {name} thing {image}', 'CIDEr': 1.0 + shift * (1 + image % 3),
             'ROUGE_L': 0.5 + 0.01 * (image % 4)} for image in ids]
    overall = {score: float(np.mean([row[score] for row in rows])) for score in ('CIDEr', 'ROUGE_L')}
    content = {'overall': overall, 'images': rows, 'options': {'split': 'test', 'beam_size': 2}, **changes}
    path = folder / f'{name}_test.json'
    path.write_text(json.dumps(content))
    return path


def write_references(folder, texts=('people said this', 'and that')):
    """Write talk.json with references of the images, and a picture of each but the last."""
    (folder / 'pictures' / 'val2014').mkdir(parents=True, exist_ok=True)
    entries = []
    for image in IMAGES:
        entries.append({'id': image, 'split': 'test', 'file_path': f'val2014/{image}.png',
                        'captions': list(texts)})
        if image != IMAGES[-1]:
            Image.new('RGB', (400, 200), (image, 99, 200)).save(folder / 'pictures' / 'val2014' / f'{image}.png')
    (folder / 'talk.json').write_text(json.dumps({'ix_to_word': {}, 'images': entries}))
    return folder / 'talk.json'


def report(folder, *arguments):
    """The text of the page that is made of `arguments`."""
    tiny.run(create_report, ['--draws', 200, '--output', folder / 'out' / 'page.html', *arguments])
    return (folder / 'out' / 'page.html').read_text(encoding='utf-8')


@pytest.fixture
def two(tmp_path):
    """The paths of the results of two runs."""
    return [write_results(tmp_path, 'A'), write_results(tmp_path, 'B', shift=0.2)]


def test_the_page_has_scores_differences_examples_and_curves(tmp_path, two, capsys):
    talk = write_references(tmp_path)
    run = write_run(tmp_path / 'B', 'B', records=[record(5), record(90, CIDEr=0.7)])
    page = report(tmp_path, *two, '--runs', run, '--input_json', talk, '--image_root', tmp_path / 'pictures')
    assert re.search('class="best">1.400<', page) and 'Each run is compared to' in page
    assert '+0.400' in page and '+40.0 %' in page and '6, 0' in page
    assert 'people said this' in page and 'a <mark>B</mark> thing 14' in page
    assert page.count('background-image:url(data:image/jpeg;base64') == 5
    assert '1 of 6 pictures cannot be shown' in page and '16.png: there is no such file' in page
    assert 'aria-label="cross-entropy loss: B, last 2.5"' in page and 'iteration 90: 0.7' in page
    out, err = capsys.readouterr()
    assert 'B - A: CIDEr +0.4000 [' in out and re.search(r'B - A: ROUGE_L .* not told apart', out)
    assert 'wrote ' in err and 'note: 1 of 6 pictures' in err


def test_each_flag_does_what_it_says(tmp_path, two, capsys, monkeypatch):
    talk = write_references(tmp_path)
    plain = report(tmp_path, *two)
    assert report(tmp_path, *two) == plain
    assert report(tmp_path, *two, '--seed', 7) != plain and '200 draws from seed 1' in plain
    assert '100 draws from seed 1' in report(tmp_path, *two, '--draws', 100)
    assert 'with 90 % intervals' in report(tmp_path, *two, '--confidence', 90)
    assert plain.count('<li><div class="told">') == 6
    assert report(tmp_path, *two, '--examples', 2).count('<li><div class="told">') == 2
    assert 'Largest wins' not in report(tmp_path, *two, '--examples', 0)
    assert 'people said' not in plain and 'people said this' in report(tmp_path, *two, '--input_json', talk)
    coco = tmp_path / 'coco.json'
    coco.write_text(json.dumps({
        'annotations': [{'image_id': image, 'caption': 'as annotated'} for image in IMAGES],
        'images': [{'id': image, 'file_name': f'val2014/{image}.png'} for image in IMAGES]}))
    told = report(tmp_path, *two, '--coco_json', coco, '--input_json', talk, '--image_root', tmp_path / 'pictures')
    assert 'as annotated' in told and 'people said' not in told and 'class="picture' in told
    capsys.readouterr()
    report(tmp_path, *two, '--baseline', 'B')
    assert 'A - B: CIDEr -0.4000' in capsys.readouterr().out
    with pytest.raises(UsageError, match='--baseline: there is no run C; there are A, B'):
        report(tmp_path, *two, '--baseline', 'C')
    with pytest.raises(UsageError, match='--image_root needs --input_json'):
        report(tmp_path, *two, '--image_root', tmp_path)

    asked = []
    monkeypatch.setattr(create_report, 'meteor_counts', lambda captions, known, seconds: asked.append(seconds))
    rows = [{'image_id': image, 'caption': 'a', 'METEOR': image / 100} for image in IMAGES]
    meteor = write_results(tmp_path, 'M', overall={'METEOR': 0.2}, images=rows)
    assert 'mean of images 0.135' in report(tmp_path, meteor, '--input_json', talk, '--java_timeout', 9)
    report(tmp_path, meteor, '--input_json', talk, '--use_java', 0)
    assert asked == [9]


def test_files_of_different_images_are_refused_or_compared_on_those_they_share(tmp_path, two):
    short = write_results(tmp_path, 'C', shift=0.1, ids=IMAGES[1:4])
    with pytest.raises(UsageError, match=r'(?s)6 in A \(split test\), 3 in C .*3 are in all.*--common 1'):
        report(tmp_path, two[0], short)
    page = report(tmp_path, two[0], short, '--common', 1)
    assert 'Only the 3 images that all files have' in page and '3, 0' in page and '>1.200' in page
    other = write_results(tmp_path, 'D', ids=[1, 2], options={'split': 'val'})
    with pytest.raises(DataError, match=r'D_test.json \(split val\) have no image in common'):
        report(tmp_path, two[0], other, '--common', 1)


def rows(**cell):
    return [{'image_id': image, 'caption': 'a', **cell} for image in IMAGES]


@pytest.mark.parametrize('content, says', [
    ([], 'is not a results file: it should hold overall'), ({'images': []}, 'it has no overall'),
    ({'overall': {}, 'images': []}, 'holds no images'),
    ({'overall': {}, 'images': [{'caption': 'a'}]}, 'no image_id'),
    ({'overall': {}, 'images': rows() + rows()}, 'has 6 images twice'),
    ({'overall': {}, 'images': rows(), 'options': 3}, 'not a results file'),
    ({'overall': {'CIDEr': 10 ** 400}, 'images': rows()}, 'not a results file')])
def test_a_file_of_something_else_is_refused_in_words(tmp_path, two, content, says):
    path = tmp_path / 'X_test.json'
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=says):
        report(tmp_path, two[0], path)
    assert not (tmp_path / 'out').exists()


def test_what_a_run_lacks_is_named_and_the_rest_compared(tmp_path, two):
    silent = write_results(tmp_path, 'S', **{'images': [
        {'image_id': image, 'CIDEr': 0.5, **({'SPICE': 0.1} if image > 12 else {})} for image in IMAGES]})
    alone = write_results(tmp_path, 'L', overall={}, loss=2.5, **{'images': rows()})
    page = report(tmp_path, *two, silent, alone, '--input_json', write_references(tmp_path))
    assert 'S has no caption for 6 of 6 images' in page and '<em>no caption</em>' in page
    assert 'SPICE is left out of the comparison of images, since 2 of 6 images lack it' in page
    assert 'L has no scores per image' in page and '>2.500' in page and '>–<' in page
    assert 'No run has scores per image that the baseline has' in report(tmp_path, two[0], alone)
    with pytest.raises(DataError, match='have no reference captions in .*, 11 for one'):
        (tmp_path / 'talk.json').write_text(json.dumps({'images': [
            {'id': 1, 'split': 'test', 'captions': ['a']}]}))
        report(tmp_path, *two, '--input_json', tmp_path / 'talk.json')


def test_runs_with_one_name_are_told_apart_by_their_folders(tmp_path, two):
    (tmp_path / 'other').mkdir()
    again = write_results(tmp_path / 'other', 'A', shift=0.1)
    page = report(tmp_path, two[0], again, again)
    assert 'other/A_test</bdi>' in page and 'other/A_test (2)</bdi>' in page
    one = report(tmp_path, two[0])
    assert 'whether they are more than chance' not in one and '<h1>A</h1>' in one


def test_no_pickle_is_opened_and_curves_come_from_events(tmp_path, monkeypatch):
    from tensorboardX import SummaryWriter
    folder = write_run(tmp_path / 'run', 'a', records=[record(30, CIDEr=0.5)])
    monkeypatch.setattr('misc.pickles.load', lambda *_: pytest.fail('a pickle was read'))
    writer = SummaryWriter(str(folder))
    for step in range(10, 60, 10):
        writer.add_scalar('train_loss', 5.0 - step / 100, step)
    writer.close()
    again = SummaryWriter(str(folder), purge_step=35, filename_suffix='.later')  # resumed from iteration 34
    for step in (35, 45):
        again.add_scalar('train_loss', -0.5, step)
        again.add_scalar('self_critical_reward', 0.9, step)
    again.close()
    history = read_logged(folder)
    assert history.losses == pytest.approx({10: 4.9, 20: 4.8, 30: 4.7, 35: -0.5, 45: -0.5})
    assert history.self_critical_after == 30 and history.scores[30]['CIDEr'] == 0.5
    last = sorted(folder.glob('events*'))[-1]
    last.write_bytes(last.read_bytes()[:-3])  # as a run that is being trained may leave it
    assert max(read_logged(folder).rewards) == 35 or max(read_logged(folder).losses) == 45
    last.write_bytes(b'no events at all, only text')
    with pytest.raises(DataError, match='is not a TensorBoard events file'):
        read_logged(folder)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='holds no run: neither TensorBoard events nor validations.jsonl'):
        read_logged(tmp_path / 'empty')
    with pytest.raises(DataError, match='there is no folder'):
        read_logged(tmp_path / 'gone')


def nasty_page(folder):
    """A page on runs whose names, captions, references and options are a stranger's."""
    paths = []
    for number, shift in enumerate((0.0, 0.2, -0.1)):
        paths.append(write_results(folder, f'<img src=x onerror=alert(1)>{number}', shift, **{
            'images': [{'image_id': f'"><b>{image}', 'caption': f'{NASTY} {number}', 'CIDEr': 1 + shift * image,
                        '</style><script>': 0.5} for image in IMAGES],
            'overall': {'CIDEr': 1 + shift * float(np.mean(IMAGES)), '</style><script>': 0.5},
            'options': {'split': 'test', '<u>': f'<u>{number}'}}))
    talk = folder / 'talk.json'
    talk.write_text(json.dumps({'images': [{'id': f'"><b>{image}', 'split': 'test', 'captions': [NASTY]}
                                           for image in IMAGES]}))
    run = write_run(folder / '<svg onload=x>', 'a', records=[record(5), record(90, CIDEr=0.7)])
    report(folder, *paths, '--input_json', talk, '--runs', run)
    return folder / 'out' / 'page.html'


def test_what_strangers_wrote_is_shown_as_text(tmp_path, visit):
    path = nasty_page(tmp_path)
    text = path.read_text(encoding='utf-8')
    assert text.count('<script>') == 1 and '<img' not in text and '<b>' not in text.replace('<b>iter', '').replace(
        '<figcaption><b>', '') and '<u>' not in text and '<svg onload' not in text
    page = visit(path, viewport={'width': 400, 'height': 700})
    assert page.title().startswith('Report on 3 runs')
    assert '<script>document.title="bad"</script>' in page.locator('.pair dd:visible').first.inner_text()
    assert page.locator('h2').count() == 5
    assert page.evaluate('document.documentElement.scrollWidth') == 400  # long words break
    assert page.locator('img').count() == 0


def test_the_page_sorts_by_keyboard_chooses_examples_and_needs_nothing_else(tmp_path, two, visit, served):
    third = write_results(tmp_path, 'C', shift=-0.1)
    run = write_run(tmp_path / 'B', 'B', after=200, records=[record(5, CIDEr=0.2), record(205, CIDEr=0.7)])
    report(tmp_path, *two, third, '--runs', run, '--input_json', write_references(tmp_path), '--image_root',
           tmp_path / 'pictures')
    path = tmp_path / 'out' / 'page.html'
    pages = [visit(path, viewport={'width': 1200, 'height': 900}), visit(served(path.parent) + 'page.html')]
    for page in pages:
        names = page.locator('table').first.locator('tbody th')
        assert names.all_inner_texts() == ['A', 'B', 'C']
        head = page.locator('table').first.get_by_role('button', name='CIDEr')
        head.focus()
        page.keyboard.press('Enter')
        assert names.all_inner_texts() == ['B', 'A', 'C']
        assert page.locator('th[aria-sort]').get_attribute('aria-sort') == 'descending'
        page.keyboard.press('Space')
        assert names.all_inner_texts() == ['C', 'A', 'B']
        page.locator('table').first.get_by_role('button', name='run').click()
        assert names.all_inner_texts() == ['A', 'B', 'C']
        assert page.locator('.pair:visible h3').all_inner_texts() == ['B: CIDEr']
        assert page.get_by_text('No image has a lower score.').first.is_visible()
        page.locator('select[name=run]').select_option('C')
        assert page.locator('.pair:visible h3').all_inner_texts() == ['C: CIDEr']
        assert page.locator('figure svg').count() == 2
    shot = pages[0].screenshot(path=tmp_path / 'page.png', full_page=True)
    assert len(shot) > 20000


def test_the_page_is_whole_without_its_script(tmp_path, two, visit):
    report(tmp_path, *two)
    page = visit(tmp_path / 'out' / 'page.html', java_script_enabled=False)
    assert page.locator('.pair:visible').count() == 1 and not page.locator('form').is_visible()


def test_a_differing_word_is_marked_in_both_captions():
    first, second = (report_page.joined([one]) for one in report_page.marked_words('a red <b> cat', 'a cat sat'))
    assert first == 'a <mark>red &lt;b&gt;</mark> cat ' and second == 'a cat <mark>sat</mark> '
