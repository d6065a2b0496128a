"""The report on several runs: what it reads and refuses, what it shows, how the page behaves."""

import base64
import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from misc.cli import DataError, UsageError
from misc.compare import examples, sections
from misc.compare.comparison import Comparison, Difference
from misc.compare.report import FILES, environment
from misc.pictures import images
from misc.run.histories import read_logged
from scripts import create_report
from tests.helpers import tiny
from tests.helpers.browser import barriers
from tests.helpers.histories import record, write_run

NASTY = '<script>document.title="bad"</script> \'"&amp; \ud800 \u202e ' + 'w' * 300
IMAGES = list(range(11, 23))


def write_results(folder, name, shift=0.0, ids=IMAGES, **changes):
    """Write NAME_test.json, whose image scores vary and grow with `shift`; returns its path."""
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
    """The text of the page that create_report.py writes for `arguments`."""
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
    assert re.search('class="best">1.400<', page) and 'Each run is compared with' in page
    assert '+0.400' in page and '+40.0%' in page and '12 / 0' in page
    assert 'people said this' in page and 'a <mark>B</mark> thing 14' in page
    assert page.count('background-image:url(data:image/jpeg;base64') == 7
    assert '1 of 8 pictures cannot be shown' in page and '22.png: there is no such file' in page
    assert 'aria-label="cross-entropy loss: B, last 2.5"' in page and 'iteration 90: 0.7' in page
    out, err = capsys.readouterr()
    assert 'B - A: CIDEr +0.4000 [' in out and re.search(r'B - A: ROUGE_L .* not significant', out)
    assert 'wrote ' in err and 'note: 1 of 8 pictures' in err


def test_each_flag_does_what_it_says(tmp_path, two, capsys, monkeypatch):
    talk = write_references(tmp_path)
    plain = report(tmp_path, *two)
    assert report(tmp_path, *two) == plain
    assert report(tmp_path, *two, '--seed', 7) != plain and '200 resamples, seed 1' in plain
    assert '100 resamples, seed 1' in report(tmp_path, *two, '--draws', 100)
    assert 'with 90% confidence intervals' in report(tmp_path, *two, '--confidence', 90)
    assert plain.count('<div class="example">') == 8
    assert report(tmp_path, *two, '--examples', 2).count('<div class="example">') == 2
    assert 'Largest wins' not in report(tmp_path, *two, '--examples', 0)
    assert 'people said' not in plain and 'people said this' in report(tmp_path, *two, '--input_json', talk)
    coco = tmp_path / 'coco.json'
    coco.write_text(json.dumps({
        'annotations': [{'image_id': image, 'caption': 'as annotated'} for image in IMAGES],
        'images': [{'id': image, 'file_name': f'val2014/{image}.png'} for image in IMAGES]}))
    annotated = report(tmp_path, *two, '--coco_json', coco, '--input_json', talk,
                       '--image_root', tmp_path / 'pictures')
    assert 'as annotated' in annotated and 'people said' not in annotated and 'class="picture' in annotated
    capsys.readouterr()
    report(tmp_path, *two, '--baseline', 'B')
    assert 'A - B: CIDEr -0.4000' in capsys.readouterr().out
    with pytest.raises(UsageError, match='--baseline: there is no run C; the runs are A, B'):
        report(tmp_path, *two, '--baseline', 'C')
    with pytest.raises(UsageError, match='--image_root needs --input_json'):
        report(tmp_path, *two, '--image_root', tmp_path)

    asked = []
    monkeypatch.setattr(create_report, 'meteor_counts',
                        lambda captions, known, seconds, kind: asked.append(seconds))
    rows = [{'image_id': image, 'caption': 'a', 'METEOR': image / 100} for image in IMAGES]
    meteor = write_results(tmp_path, 'M', overall={'METEOR': 0.2}, images=rows)
    assert 'mean over images 0.165' in report(tmp_path, meteor, '--input_json', talk, '--java_timeout', 9)
    report(tmp_path, meteor, '--input_json', talk, '--use_java', 0)
    assert asked == [9]


def test_places_and_wording_have_sections_and_are_printed(tmp_path, capsys):
    ids = list(range(30))
    texts = {'A': 'a dog', 'B': 'a dog <b>on</b> the left'}
    runs = [write_results(tmp_path, name, ids=ids, overall={}, images=[
        {'image_id': image, 'caption': texts[name], 'CIDEr': 1 + (name == 'B' and image < 12), 'SPICE': image / 30}
        for image in ids]) for name in 'AB']
    talk = tmp_path / 'talk.json'
    talk.write_text(json.dumps({'ix_to_word': {}, 'images': [
        {'id': image, 'split': 'test', 'captions': ['it is on the left' if image < 12 else 'a dog']}
        for image in ids]}))
    page = report(tmp_path, *runs, '--input_json', talk, '--draws', 400)
    out, err = capsys.readouterr()
    section = page.split('Images whose references name a place')[1].split('What the captions are like')[0]
    assert re.findall('<summary>.*?</span>: (.*)</summary>', section) == ['CIDEr', 'SPICE']
    assert re.findall('<details( open)?>', section) == [' open', '']
    assert re.findall('<tr><th scope="row" class="text">(.*?)</th>', section)[:4] == [
        'any of these', 'any but on', 'left', 'on']
    assert 'left out are right (0), top (0)' in page and 'left out are right (0), top (0)' in err
    assert section.count('<td data-value="1.0" class="better">+1.000') == 8    # difference and gap of the four kinds
    assert 'B - A: CIDEr, by the place that references name' in out and 'B - A: SPICE, by' not in out
    assert re.search(r'left +12 +\+1.0000 \[.*?\] p 0.0025 .* 18 +\+0.0000 \[.*?\] p 1.0000 .* \+1.0000 \[', out)
    assert re.search(r'words in a caption +2.00 +7.00 \(corrected p 0.\d+\)', out)
    assert 'B - A, captions with a word: ' in out and 'left +30' in out
    wording = page.split('What the captions are like')[1].split('<h2>')[0]
    assert '<bdi>left</bdi> +30' in wording and '<b>' not in wording

    quick = report(tmp_path, *runs, '--input_json', talk, '--by_place', 0)
    assert 'Images whose references' not in quick and 'What the captions are like' in quick
    assert 'Images whose references' not in report(tmp_path, *runs)
    assert 'Images whose references' not in report(tmp_path, runs[0], '--input_json', talk)


def test_files_of_different_images_are_refused_or_compared_on_those_they_share(tmp_path, two):
    short = write_results(tmp_path, 'C', shift=0.1, ids=IMAGES[1:4])
    with pytest.raises(UsageError, match=r'(?s)12 in A \(split test\), 3 in C .*3 are in all.*--common 1'):
        report(tmp_path, two[0], short)
    page = report(tmp_path, two[0], short, '--common', 1)
    assert 'Only the 3 images that all files have' in page and '3 / 0' in page and '>1.200' in page
    other = write_results(tmp_path, 'D', ids=[1, 2], options={'split': 'val'})
    with pytest.raises(DataError, match=r'D_test.json \(split val\) have no image in common'):
        report(tmp_path, two[0], other, '--common', 1)


def rows(**cell):
    return [{'image_id': image, 'caption': 'a', **cell} for image in IMAGES]


@pytest.mark.parametrize('content, says', [
    ([], 'is not a results file: it should hold overall'), ({'images': []}, 'it has no overall'),
    ({'overall': {}, 'images': []}, 'holds no images'),
    ({'overall': {}, 'images': [{'caption': 'a'}]}, 'no image_id'),
    ({'overall': {}, 'images': rows() + rows()}, 'has 12 images twice'),
    ({'overall': {}, 'images': rows(), 'options': 3}, 'not a results file'),
    ({'overall': {'CIDEr': 10 ** 400}, 'images': rows()}, 'not a results file')])
def test_a_file_that_holds_no_results_is_refused_with_the_reason(tmp_path, two, content, says):
    path = tmp_path / 'X_test.json'
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=says):
        report(tmp_path, two[0], path)
    assert not (tmp_path / 'out').exists()


def test_missing_scores_are_named_and_the_others_compared(tmp_path, two):
    silent = write_results(tmp_path, 'S', images=[
        {'image_id': image, 'CIDEr': 0.5, **({'SPICE': 0.1} if image > 12 else {})} for image in IMAGES])
    alone = write_results(tmp_path, 'L', overall={}, loss=2.5, images=rows())
    page = report(tmp_path, *two, silent, alone, '--input_json', write_references(tmp_path))
    assert 'S has no caption for 12 of 12 images' in page and '<em>no caption</em>' in page
    assert 'S has no SPICE for 2 of 12 images, so it is left out of the comparison' in page
    assert 'L has no scores per image' in page and '>2.500' in page and '>–<' in page
    assert 'No run has scores per image that the baseline also has' in report(tmp_path, two[0], alone)
    with pytest.raises(DataError, match='have no reference captions in .*, such as 11;'):
        (tmp_path / 'talk.json').write_text(json.dumps({'images': [
            {'id': 1, 'split': 'test', 'captions': ['a']}]}))
        report(tmp_path, *two, '--input_json', tmp_path / 'talk.json')


def test_runs_with_the_same_name_are_shown_with_their_folders(tmp_path, two):
    (tmp_path / 'other').mkdir()
    again = write_results(tmp_path / 'other', 'A', shift=0.1)
    silent = write_results(tmp_path / 'other', 'S', images=[{**row, 'caption': None} for row in rows(CIDEr=1.0)])
    (tmp_path / 'S_test.json').write_bytes(silent.read_bytes())
    page = report(tmp_path, two[0], again, again, silent, tmp_path / 'S_test.json').replace('<wbr>', '')
    assert 'other/A_test</bdi>' in page and 'other/A_test (2)</bdi>' in page
    for name in (silent, tmp_path / 'S_test.json'):
        assert f'<li>{str(name).removesuffix(".json")} has no caption for 12 of 12 images' in page
    one = report(tmp_path, two[0])
    assert '<h2>Differences' not in one and '<h1>A</h1>' in one


def test_no_pickle_is_opened_and_curves_come_from_the_logged_steps(tmp_path, monkeypatch):
    folder = write_run(tmp_path / 'run', 'a', records=[record(30, CIDEr=0.5)])
    monkeypatch.setattr('misc.disk.pickles.load', lambda *_: pytest.fail('a pickle was read'))
    lines = [{'iteration': step, 'loss': 5.0 - step / 100, 'learning_rate': 0.5} for step in (10, 20, 30)]
    lines.append({'iteration': 40, 'loss': -0.5, 'learning_rate': 0.25, 'reward': 0.9})
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'steps.jsonl').write_text(text + '{"iteration": 50, "lo')  # as a run in training may leave it
    history = read_logged(folder)
    assert history.losses == {10: 4.9, 20: 4.8, 30: 4.7, 40: -0.5}
    assert history.rates == {10: 0.5, 20: 0.5, 30: 0.5, 40: 0.25} and history.rewards == {40: {'reward': 0.9}}
    assert history.self_critical_after == 30 and history.scores[30]['CIDEr'] == 0.5
    for broken, says in ((text + 'no JSON\n', 'line 5 is not the JSON'),
                         ('{"iteration": 1}\n', 'line 1 has no loss'),
                         ('{"iteration": -1, "loss": 1}\n', 'line 1 is not the JSON')):
        (folder / 'steps.jsonl').write_text(broken)
        with pytest.raises(DataError, match=f'steps.jsonl: {says}'):
            read_logged(folder)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='holds no run: neither steps.jsonl nor validations.jsonl'):
        read_logged(tmp_path / 'empty')
    with pytest.raises(DataError, match='there is no folder'):
        read_logged(tmp_path / 'gone')


def test_a_validation_with_an_impossible_iteration_is_named(tmp_path, two):
    run = write_run(tmp_path / 'run', 'a', records=[record(5), record(10 ** 400)])
    with pytest.raises(DataError, match='validations.jsonl: line 2 .*an iteration is from 0 to'):
        report(tmp_path, *two, '--runs', run)
    (run / 'validations.jsonl').write_text(json.dumps(record(5, loss=1e308)) + '\n' + json.dumps(
        record(9, loss=-1e308, CIDEr=0.5)) + '\n')
    page = report(tmp_path, *two, '--runs', run)  # what cannot be drawn is in the table only
    assert 'cross-entropy loss' not in page and 'CIDEr: a' in page.replace('run, last', 'a, last')
    assert '-1e+308' in page


def nasty_page(folder):
    """A page on runs whose names, captions, references and options are a stranger's."""
    paths = []
    for number, shift in enumerate((0.0, 0.2, -0.1)):
        images = [{'image_id': f'"><b>{image}', 'caption': f'{NASTY} {number}', 'CIDEr': 1 + shift * image,
                   '</style><script>': 0.5} for image in IMAGES]
        paths.append(write_results(
            folder, f'<img src=x onerror=alert(1)>{number}', shift, images=images,
            overall={'CIDEr': 1 + shift * float(np.mean(IMAGES)), '</style><script>': 0.5},
            options={'split': 'test', '<u>': f'<u>{number}'}))
    talk = folder / 'talk.json'
    talk.write_text(json.dumps({'images': [{'id': f'"><b>{image}', 'split': 'test', 'captions': [NASTY]}
                                           for image in IMAGES]}))
    run = write_run(folder / '<svg onload=x>', 'a', records=[record(5), record(90, CIDEr=0.7)])
    report(folder, *paths, '--input_json', talk, '--runs', run)
    return folder / 'out' / 'page.html'


def test_text_of_strangers_never_becomes_markup(tmp_path, visit):
    path = nasty_page(tmp_path)
    text = path.read_text(encoding='utf-8')
    assert text.count('<script>') == 1 and '<img' not in text and '<b>' not in text.replace('<b>iter', '').replace(
        '<figcaption><b>', '') and '<u>' not in text and '<svg onload' not in text
    page = visit(path, viewport={'width': 400, 'height': 700})
    assert page.title().startswith('Report on 3 runs')
    assert '<script>document.title="bad"</script>' in page.locator('.pair dd:visible').first.inner_text()
    assert page.locator('h2').count() == 6
    assert page.evaluate('document.documentElement.scrollWidth') == 400  # long words break
    assert page.locator('img').count() == 0


def test_templates_exempt_from_escaping_only_what_the_project_wrote():
    sources = '\n'.join(path.read_text(encoding='utf-8') for path in pathlib.Path(FILES).glob('*.html'))
    assert sorted(re.findall(r'{{ ([\w.]+)\|safe }}', sources)) == ['panel.svg', 'script', 'style']
    assert sources.count('safe') == 3 and 'autoescape' not in sources and environment().autoescape is True


def test_for_loss_and_self_bleu_lower_is_better_everywhere(tmp_path, capsys):
    def run(name, loss, similarity):
        scored = [{**row, 'loss': loss + 0.01 * (row['image_id'] % 5), 'mBLEU-4': similarity - 0.01 * (
            row['image_id'] % 3)} for row in rows()]
        means = {metric: float(np.mean([row[metric] for row in scored])) for metric in ('loss', 'mBLEU-4')}
        return write_results(tmp_path, name, overall=means, images=scored)

    page = report(tmp_path, run('A', 3.0, 0.4), run('B', 2.0, 0.6))
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith('B - A: ')] == [
        'B - A: loss -1.0000 [-1.0000, -1.0000], corrected p 0.0100, better',
        'B - A: mBLEU-4 +0.2000 [+0.2000, +0.2000], corrected p 0.0100, worse']
    assert 'class="best">2.019<' in page and 'class="best">0.390<' in page
    wins, losses = page.split('Wins: images with lower loss')[1].split('Losses: images with higher loss')
    assert '-1.000' in wins and 'No image has a higher loss.' in losses.split('</section>')[0]
    assert re.search(r'Wins: images with lower mBLEU-4</h4>\s*<p>No image has a lower mBLEU-4\.', page)
    assert '12 / 0</td>' in page and '0 / 12</td>' in page and 'class="bar better"' in page


def difference(**changes):
    """A `Difference` in CIDEr, 0.1 better than the 1.0 of the baseline."""
    return Difference(**{
        'run': 'B', 'metric': 'CIDEr', 'baseline': 1.0, 'score': 1.1, 'low': 0.05, 'high': 0.15, 'p': 0.03,
        'wins': 9, 'losses': 3, 'corpus_level': True, 'adjusted_p': 0.04, **changes})


@pytest.mark.parametrize('changes, verdict', [
    ({}, 'better'), ({'score': 0.9}, 'worse'), ({'adjusted_p': 0.05}, 'better'), ({'adjusted_p': 0.06}, ''),
    ({'metric': 'loss'}, 'worse'), ({'metric': 'loss', 'score': 0.9}, 'better')])
def test_the_verdict_uses_the_corrected_p_value(changes, verdict):
    assert difference(**changes).verdict(0.05) == verdict


def test_the_bars_of_all_differences_share_a_scale_that_the_widest_fills():
    wide = difference(baseline=2.0, score=1.5, low=-0.8, high=-0.2)
    few, nothing = difference(run='C', low=None, high=None), difference(run='C', baseline=0.0)
    tables = sections.difference_tables(Comparison(
        ['A', 'B', 'C'], 'A', IMAGES, ['CIDEr'], {}, [difference(), wide, few, nothing], []))
    (_, narrow_bar), (_, wide_bar) = tables['B']
    zero, reach = 66, 62
    for bar, low, middle, high in ((wide_bar, -1, -0.625, -0.25), (narrow_bar, 0.125, 0.25, 0.375)):
        assert (bar.left, bar.middle, bar.left + bar.width) == pytest.approx(
            (zero + reach * low, zero + reach * middle, zero + reach * high), abs=0.11)
    assert [bar for _, bar in tables['C']] == [None, None]


def test_fewer_than_ten_images_have_no_intervals_and_a_note_says_why(tmp_path, capsys):
    one = [write_results(tmp_path, name, shift=0.2 * number, ids=IMAGES[:1]) for number, name in enumerate('AB')]
    page = report(tmp_path, *one)
    assert 'No confidence intervals: 1 image cannot show' in page and '% confidence' not in page
    assert '[' not in re.sub('(?s)<(style|script)>.*?</.*?>', '', page)
    assert re.search(r'B - A: CIDEr \+0\.\d{4}, corrected p 1\.0000, not significant', capsys.readouterr().out)
    nine, ten = (report(tmp_path, *[write_results(tmp_path, name, ids=IMAGES[:count]) for name in 'AB'])
                 for count in (9, 10))
    assert '9 images cannot' in nine and 'No confidence intervals' not in ten and '95% confidence intervals' in ten


def test_too_few_draws_for_any_significance_are_refused_with_the_number_that_suffices(tmp_path, two, capsys):
    with pytest.raises(UsageError, match=r'--draws 200 is too few for 2 differences .* Give --draws 400,'):
        report(tmp_path, *two, '--confidence', 99.5)
    assert not (tmp_path / 'out').exists()
    report(tmp_path, *two, '--confidence', 99.5, '--draws', 400)
    assert 'better' in capsys.readouterr().out
    report(tmp_path, two[0], '--confidence', 99.5)  # a single run is compared with nothing


def test_a_photograph_is_shown_upright_and_small(tmp_path, two):
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    talk = write_references(tmp_path)
    for path in (tmp_path / 'pictures' / 'val2014').iterdir():
        Image.new('RGB', (400, 200)).save(path, 'JPEG', exif=exif)
    page = report(tmp_path, *two, '--input_json', talk, '--image_root', tmp_path / 'pictures')
    shown = Image.open(io.BytesIO(base64.b64decode(re.search('jpeg;base64,([^)]*)', page)[1])))
    assert shown.size == (112, 224) and not shown.getexif()


def test_control_characters_of_an_image_id_reach_neither_terminal_nor_page(tmp_path, two, capsys):
    evil = '\x1b]0;owned\x07'
    ids = [f'{evil}{image}' for image in IMAGES]
    runs = [write_results(tmp_path, name, overall={'CIDEr': shift}, images=[
        {'image_id': image, 'caption': 'a', 'CIDEr': shift} for image in ids])
            for name, shift in (('A', 1), ('B', 2))]
    with pytest.raises(DataError, match='such as .*11; name') as error:
        report(tmp_path, *runs, '--input_json', write_references(tmp_path))
    assert '\x1b' not in str(error.value)
    talk = tmp_path / 'talk.json'
    talk.write_text(json.dumps({'images': [
        {'id': image, 'split': 'test', 'captions': ['a'], 'file_path': f'{evil}.png' if number else 'ok.png'}
        for number, image in enumerate(ids[:-1])] + [{'id': ids[-1], 'split': 'test', 'captions': ['a']}]}))
    Image.new('RGB', (9, 9)).save(tmp_path / 'ok.png')
    page = report(tmp_path, *runs, '--input_json', talk, '--image_root', tmp_path, '--examples', 12)
    assert '\x1b' not in page + ''.join(capsys.readouterr())


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
        assert page.get_by_text('No image has a lower CIDEr.').first.is_visible()
        page.locator('select[name=run]').select_option('C')
        assert page.locator('.pair:visible h3').all_inner_texts() == ['C: CIDEr']
        assert page.locator('figure svg').count() == 2
    shot = pages[0].screenshot(path=tmp_path / 'page.png', full_page=True)
    assert len(shot) > 20000


def test_the_page_is_complete_without_its_script(tmp_path, two, visit):
    report(tmp_path, *two)
    page = visit(tmp_path / 'out' / 'page.html', java_script_enabled=False)
    assert page.locator('.pair:visible').count() == 1 and not page.locator('form').is_visible()


NAMES = ('compare_relation_transformer_1', 'compare_relation_transformer_1_rl', 'compare_spatial_pe_1')


@pytest.fixture
def full(tmp_path):
    """The path of a page on three runs with everything that a page can have, on a phone too long for one line."""
    ids = list(range(30))
    paths = [write_results(tmp_path, name, overall=dict.fromkeys(('Bleu_4', 'ROUGE_L', 'CIDEr'), 1.0),
                           images=[{'image_id': image, 'caption': f'a {name} thing', 'Bleu_4': 0.3 + image / 100,
                                    'ROUGE_L': 0.5 + 0.01 * (image % 4), 'CIDEr': 1 + shift + noise * (-1) ** image}
                                   for image in ids]) for name, shift, noise in zip(NAMES, (0, 0, 0.2), (0, 0.1, 0))]
    talk = tmp_path / 'talk.json'
    talk.write_text(json.dumps({'ix_to_word': {}, 'images': [
        {'id': image, 'split': 'test', 'captions': ['it is on the left' if image < 12 else 'a dog']}
        for image in ids]}))
    runs = [write_run(tmp_path / name, name, after=after, records=[record(5, CIDEr=0.2), record(205, CIDEr=0.7)])
            for name, after in zip(NAMES, (None, 200, None))]
    for path in runs:
        (path / 'steps.jsonl').write_text(''.join(json.dumps(
            {'iteration': step, 'loss': 9 / step, 'learning_rate': 0.5, **({'reward': 0.9, 'baseline': 0.8} if
             path.name == NAMES[1] and step > 200 else {})}) + '\n' for step in range(10, 400, 10)))
    report(tmp_path, *paths, '--input_json', talk, '--runs', *runs)
    return tmp_path / 'out' / 'page.html'


def test_a_phone_shows_the_main_score_verdicts_and_whole_words_of_names(full, visit):
    page = visit(full, viewport={'width': 390, 'height': 800}, has_touch=True, is_mobile=True)
    assert page.evaluate('document.documentElement.scrollWidth') == 390
    scores, first, second = page.locator('table').all()[:3]
    assert [table.locator('thead th').nth(1).inner_text().strip() for table in (scores, first, second)] == [
        'CIDEr', 'verdict', 'verdict']
    said = []
    for table in (scores, first, second):
        for cell in table.locator('tbody tr td:nth-child(2)').all():
            box = cell.bounding_box()
            assert box['x'] >= 0 and box['x'] + box['width'] <= 390
            said.append(cell.inner_text().split()[-1])
    assert said[1:3] == ['significant', 'better'] and said[3:6] == ['significant'] * 3 and said[6] == 'better'
    # The bars of the intervals too.
    bars = [bar.bounding_box() for bar in page.locator('svg.bar').all()]
    assert len(bars) == 6 and all(bar['x'] + bar['width'] <= 390 for bar in bars)
    # A word of a name is a text node; so is the legend of a panel.
    broken = page.evaluate('''() => {
        const texts = [...document.querySelectorAll('h1, .run bdi, .soft > bdi, figcaption b, figcaption span')]
            .filter(node => node.checkVisibility()).flatMap(node => [...node.childNodes])
            .filter(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
        return texts.map(text => {
            const range = document.createRange();
            range.selectNodeContents(text);
            return [text.data, new Set([...range.getClientRects()].map(line => line.bottom)).size];
        });
    }''')
    assert {'compare_', 'relation_', 'transformer_1_rl', 'spatial_pe_1', 'training (solid), validation (dashed)'} <= {
        text for text, _ in broken}
    assert {text for text, lines in broken if lines != 1} == set()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1280])
def test_the_page_has_no_serious_barrier(full, visit, width, scheme):
    page = visit(full, viewport={'width': width, 'height': 800}, color_scheme=scheme)
    assert page.locator('details:not([open])').evaluate_all('all => all.forEach(one => { one.open = true; })') is None
    assert barriers(page) == []


def test_a_differing_word_is_marked_in_both_captions():
    words = environment().get_template('macros.html').module.words
    first, second = (words(stretches) for stretches in examples.differing_words('a red <b> cat', 'a cat sat'))
    assert first == 'a <mark>red &lt;b&gt;</mark> cat' and second == 'a cat <mark>sat</mark>'
    assert [words(stretches) for stretches in examples.differing_words('', 'a')] == [
        '<em>an empty caption</em>', '<mark>a</mark>']
