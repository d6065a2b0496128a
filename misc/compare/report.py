"""The page of scripts/create_report.py: one HTML file with all that it shows, from plain data.

Its looks and its manners are the files of `misc/compare/files/`.  A policy in its head lets nothing run or
load but these, whatever the captions say.
"""

import base64
import difflib
import hashlib
import os
import string
from dataclasses import dataclass, field

from misc.cli import plain_text
from misc.compare.comparison import differing, examples
from misc.compare.curves import PANELS, RunCurves, colours, panels_of
from misc.compare.markup import Markup, element, joined
from misc.compare.plots import kinds_of, panel_svg
from misc.compare.significance import level_of
from misc.scoring.scores import sign_of

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'files')
TITLES = {**{f'Bleu_{order}': f'BLEU-{order}' for order in range(1, 5)}, 'ROUGE_L': 'ROUGE-L'}
ON_DARK = {'#0072b2': '#4ba3e3', '#000000': '#ffffff'}  # colours that a dark page would swallow


@dataclass
class Report:
    """What a page shows.

    comparison   a `Comparison`, and `several`, the `Results` it was made from
    histories    a `History` for each run whose curves are drawn
    references   {image: captions of people}, may be empty
    pictures     {image: the bytes of a small JPEG}, may be empty
    number       of the largest wins and losses of each run and score
    confidence   of intervals, in per cent; `draws` behind them and behind p-values, from `seed`
    notes        what to know beside, a line each
    """

    comparison: object
    several: list
    histories: list = field(default_factory=list)
    references: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    number: int = 8
    confidence: float = 95.0
    draws: int = 10000
    seed: int = 1
    notes: list = field(default_factory=list)

    @property
    def level(self):
        """A corrected p-value up to this is a difference."""
        return level_of(self.confidence)

    @property
    def colours(self):
        """{name of a run: the number of its colour}, those of the results first, then of the histories."""
        names = dict.fromkeys([*self.comparison.names, *(history.name for history in self.histories)])
        return {name: number for number, name in enumerate(names)}


def page(report):
    """The page, text of HTML."""
    names = report.comparison.names
    title = ' and '.join(names) if len(names) < 3 else f'{len(names)} runs'
    body = joined([heading(report, title), scores_section(report), contrasts_section(report),
                   examples_section(report), curves_section(report), about_section(report)])
    style = Markup(asset('report.css') + colour_rules(len(report.colours)) + picture_rules(report.pictures))
    script = asset('report.js')
    policy = (f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
              "base-uri 'none'; form-action 'none'")
    return string.Template(asset('report.html')).substitute(
        title=joined([f'Report on {title}']), policy=policy, style=style, script=script, body=body)


def asset(name):
    """The text of a file of the page."""
    with open(os.path.join(FILES, name), encoding='utf-8') as file:
        return file.read()


def digest(text):
    """How the policy names an inline style or script that may be used."""
    return f'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'


def colour_rules(count):
    """A colour for each run, one for light pages and one for dark."""
    light = ''.join(f'--run-{number}:{colour};' for number, colour in enumerate(colours(count)))
    dark = ''.join(f'--run-{number}:{ON_DARK.get(colour, colour)};' for number, colour in enumerate(colours(count)))
    classes = ''.join(f'.r{number}{{--run:var(--run-{number})}}' for number in range(count))
    return f':root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{classes}\n'


def picture_rules(pictures):
    """The pictures, each once however often it is shown."""
    texts = [base64.b64encode(content).decode() for content in pictures.values()]
    return ''.join(f'.p{number}{{background-image:url(data:image/jpeg;base64,{text})}}\n'
                   for number, text in enumerate(texts))


def heading(report, title):
    """What the page is about, in a paragraph."""
    comparison = report.comparison
    split = next((results.split for results in report.several if results.split), '')
    told = [f'{len(comparison.images):,} image{"s" * (len(comparison.images) != 1)}',
            f' of the {split} split' if split else '', '.']
    if len(comparison.names) > 1:
        told += [' Each run is compared to ', name_of(report, comparison.baseline), '.']
    return [element('h1', title), element('p', told, class_='soft'), notes_of(report)]


def notes_of(report):
    """The notes, as a list."""
    notes = [*report.notes, *report.comparison.notes]
    return element('ul', [element('li', note) for note in notes], class_='notes') if notes else None


def name_of(report, name):
    """A run's name with its colour."""
    return element('span', element('bdi', name), class_=f'run r{report.colours[name]}')


def title_of(measure):
    """A score's name as people write it."""
    return TITLES.get(measure, measure)


def table(caption, heads, rows, name=None):
    """A table that can be sorted; `heads` [(text, 'number' or 'text')], `rows` lists of cells, the first of
    which is the head of its row; `name` says in plain text what it is, where the caption is no text."""
    return element('div', element(
        'table', element('caption', caption),
        element('thead', element('tr', [element('th', text, scope='col', data_sort=kind,
                                                class_='text' if kind == 'text' else None)
                                        for text, kind in heads])),
        element('tbody', [element('tr', row) for row in rows]), class_='sortable'),
        class_='scroll', tabindex='0', role='group', aria_label=name or caption)


def row_head(content):
    """The cell that says what a row is of."""
    return element('th', content, scope='row', class_='text')


def scores_section(report):
    """The table of scores, a line for each run."""
    comparison, rows = report.comparison, []
    best = {measure: best_of(comparison, measure) for measure in comparison.measures}
    for name in comparison.names:
        cells = [score_cell(comparison.cells[name].get(measure), best[measure]) for measure in comparison.measures]
        rows.append([row_head(name_of(report, name)), *cells])
    heads = [('run', 'text'), *((title_of(measure), 'number') for measure in comparison.measures)]
    if all(cell.low is None for cells in comparison.cells.values() for cell in cells.values()):
        return [element('h2', 'Scores'), table('Scores; the best in bold', heads, rows)]
    return [element('h2', 'Scores'),
            element('p', f'In brackets, between which numbers a score lies in {report.confidence:g} % of '
                    f'{report.draws:,} sets of images drawn with replacement from these: how far it might move on '
                    'other images of the same kind. It does not say how far it would move with another seed of '
                    'training.', class_='soft'),
            table(f'Scores with {report.confidence:g} % intervals; the best in bold', heads, rows)]


def best_of(comparison, measure):
    """The best score that any run has, None where there is nothing to choose from."""
    scores = [cells[measure].score for cells in comparison.cells.values()
              if measure in cells and cells[measure].score is not None]
    if len(scores) < 2:
        return None
    return max(scores, key=lambda score: sign_of(measure) * score)


def score_cell(cell, best):
    """A cell of the table of scores."""
    if cell is None:
        return element('td', '–')
    value = cell.mean if cell.score is None else cell.score
    told = None if cell.low is None else f'[{cell.low:.3f}, {cell.high:.3f}]'
    means = None if cell.mean is None else element('small', f'mean of images {cell.mean:.3f}')
    return element('td', '–' if cell.score is None else f'{cell.score:.3f}', means,
                   element('small', told) if told else None, data_value=value,
                   class_='best' if cell.score is not None and cell.score == best else None)


def verdict(report, contrast):
    """'better', 'worse', or '' where chance may do as much."""
    if contrast.adjusted > report.level:
        return ''
    return 'better' if contrast.gain > 0 else 'worse'


def contrasts_section(report):
    """What differs by more than chance."""
    comparison = report.comparison
    if len(comparison.names) < 2:
        return None
    if not comparison.contrasts:
        return [element('h2', 'Differences'),
                element('p', 'No run has scores per image that the baseline has too; nothing can be compared.')]
    heads = [('score', 'text'), ('baseline', 'number'), ('run', 'number'), ('difference', 'number'),
             ('in % of the baseline', 'number'), ('images better, worse', 'number'), ('p, corrected', 'number'),
             ('verdict', 'text')]
    tables = []
    for name in dict.fromkeys(contrast.run for contrast in comparison.contrasts):
        rows = [contrast_row(report, contrast) for contrast in comparison.contrasts if contrast.run == name]
        intervals = comparison.contrasts[0].low is not None
        caption = [name_of(report, name), ' against ', name_of(report, comparison.baseline),
                   f', with {report.confidence:g} % intervals of the difference' if intervals else None]
        tables.append(table(caption, heads, rows, f'{name} against {comparison.baseline}'))
    count = len(comparison.contrasts)
    return [element('h2', 'Differences, and whether they are more than chance'),
            element('p', 'Suppose the run and ', element('bdi', comparison.baseline), ' were equally good, and a '
                    'coin had decided for each image which of the two captions is whose. p is how often such '
                    'coins make a difference at least as large as the one that was found. Whoever looks at '
                    f'{count} differences finds some small p by luck: the corrected p (Holm) allows for that; '
                    'under it stands p as it is for that difference alone. Up to '
                    f'{report.level:g} the verdict is “better” or “worse”; above, these images do not tell, '
                    'which is not to say that the two are equal.', class_='soft'), tables]


def contrast_row(report, contrast):
    """A line of the table of differences."""
    told = verdict(report, contrast)
    share = contrast.difference / contrast.before * 100 if contrast.before > 1e-9 else None
    counts = element('td', '–') if contrast.better is None else element(
        'td', f'{contrast.better}, {contrast.worse}', data_value=contrast.better - contrast.worse, class_='nowrap')
    means = None if contrast.whole else element('small', ' mean of images')
    interval = None if contrast.low is None else element('small', f'[{contrast.low:+.3f}, {contrast.high:+.3f}]')
    return [row_head([title_of(contrast.measure), means]),
            number_cell(contrast.before, '.3f'), number_cell(contrast.after, '.3f'),
            element('td', f'{contrast.difference:+.3f}', interval, data_value=contrast.difference),
            element('td', '–' if share is None else f'{share:+.1f} %', span(report, contrast, told),
                    data_value=share),
            counts, element('td', f'{contrast.adjusted:.4f}', element('small', f'alone {contrast.p:.4f}'),
                            data_value=contrast.adjusted),
            element('td', told or 'not told apart', class_=f'text nowrap {told}'.strip())]


def number_cell(value, form):
    """A cell that shows a number in a `form` as of `format`, and is sorted by all its digits."""
    return element('td', format(value, form), data_value=value)


def span(report, contrast, told):
    """The interval of a difference as a bar beside zero, in per cent of the baseline; one scale for all."""
    every = [one for one in report.comparison.contrasts if one.before > 1e-9 and one.low is not None]
    if contrast not in every:
        return None
    reach = max(max(abs(one.low), abs(one.high)) / one.before for one in every) or 1.0
    low, middle, high = (round(66 + 62 * value / contrast.before / reach, 1)
                         for value in (contrast.low, contrast.difference, contrast.high))
    return element('svg', element('line', x1=66, x2=66, y1=0, y2=16, class_='zero'),
                   element('rect', x=low, y=6, width=max(high - low, 1), height=4, rx=2),
                   element('rect', x=middle - 1, y=3, width=2, height=10),
                   viewBox='0 0 132 16', class_=f'span {told}'.strip(), aria_hidden='true')


def examples_section(report):
    """The largest wins and losses, side by side."""
    comparison = report.comparison
    by_name = {results.name: results for results in report.several}
    baseline, pairs, shown = by_name[comparison.baseline], [], {}
    for contrast in comparison.contrasts:
        wins, losses = examples(baseline, by_name[contrast.run], contrast.measure, comparison.images,
                                report.number)
        if wins or losses:
            pairs.append(pair(report, contrast, wins, losses))
            shown.setdefault(contrast.run, []).append(contrast.measure)
    if not pairs or not report.number:
        return None
    measures = dict.fromkeys(measure for several in shown.values() for measure in several)
    first = 'CIDEr' if 'CIDEr' in measures else next(iter(measures))
    form = element(
        'form', element('label', 'Run ', element('select', [
            element('option', name, value=comparison.names.index(name)) for name in shown], name='run')),
        element('label', 'Score ', element('select', [
            element('option', title_of(measure), value=measure, selected=measure == first)
            for measure in measures], name='measure')),
        class_='choose', hidden=True, aria_label='Which examples are shown')
    return [element('h2', 'Largest wins and losses'),
            element('p', 'The images whose scores differ most from those of ', element('bdi', comparison.baseline),
                    '. Words that only one of the two captions has are marked.', class_='soft'),
            form, element('p', 'No image has another score.', id='no-pair', hidden=True), pairs]


def pair(report, contrast, wins, losses):
    """The wins and the losses of a run by one score."""
    title, falls = title_of(contrast.measure), sign_of(contrast.measure) < 0
    (more, higher), (less, lower) = (('more', 'higher'), ('less', 'lower'))[::-1 if falls else 1]

    def side(text, several, none):
        return element('div', element('h4', text), element('ol', [
            card(report, contrast.run, example) for example in several]) if several else element('p', none))

    return element(
        'section', element('h3', name_of(report, contrast.run), f': {title}'),
        side(f'Wins: images with {more} {title}', wins, f'No image has a {higher} score.'),
        side(f'Losses: images with {less} {title}', losses, f'No image has a {lower} score.'), class_='pair',
        data_run=report.comparison.names.index(contrast.run), data_measure=contrast.measure)


def card(report, run, example):
    """An image with both captions and its references."""
    baseline = report.comparison.baseline
    captions = [next(results for results in report.several if results.name == name).captions[example.image]
                for name in (baseline, run)]
    marked, scores = marked_words(*captions), (example.before, example.after)
    number = list(report.pictures).index(example.image) if example.image in report.pictures else None
    picture = None if number is None else element(
        'div', class_=f'picture p{number}', role='img', aria_label=f'image {plain_text(example.image)}')
    references = report.references.get(example.image)
    return element(
        'li', picture, element(
            'div', element('strong', f'{example.after - example.before:+.3f}'),
            element('span', f' image {plain_text(example.image)}', class_='soft'),
            element('dl', [[element('dt', name_of(report, name), f' {score:.3f}'), element('dd', text, dir='auto')]
                           for name, score, text in zip((baseline, run), scores, marked)]),
            element('details', element('summary', f'{len(references)} references'), element('ul', [
                element('li', text, dir='auto') for text in references])) if references else None,
            class_='told'))


def marked_words(first, second):
    """Two captions as lists of children, in which the words that the other lacks are marked."""
    if first is None or second is None:
        return [element('em', 'no caption') if caption is None else caption for caption in (first, second)]
    words = first.split(), second.split()
    told = [], []
    for change, *places in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for own, every, start, end in ((told[0], words[0], *places[:2]), (told[1], words[1], *places[2:])):
            if end > start:
                text = ' '.join(every[start:end])
                own += [text if change == 'equal' else element('mark', text), ' ']
    return [children or element('em', 'an empty caption') for children in told]


def curves_section(report):
    """The training curves of all runs."""
    palette = colours(len(report.colours))
    drawn = [RunCurves(history.name, palette[report.colours[history.name]], panels_of(history),
                       history.self_critical_after) for history in report.histories]
    variables = {colour: f'var(--run-{number})' for number, colour in enumerate(palette)}
    panels = []
    for title in PANELS:
        if any(title in run.panels for run in drawn):
            kinds = ', '.join(f'{kind} ({dashes})' for kind, dashes in kinds_of(title, drawn).items())
            panels.append(element('figure', element('figcaption', element('b', title), f': {kinds}' if ',' in kinds
                                                    else None), Markup(panel_svg(title, drawn, variables))))
    if not panels:
        return None
    phases = any(history.self_critical_after for history in report.histories)
    return [element('h2', 'Training'),
            element('p', 'Over the iterations; what is logged of steps faintly, with its running mean.'
                    + (' A dotted upright line is where self-critical training begins.' if phases else ''),
                    class_='soft'),
            element('ul', [element('li', name_of(report, history.name)) for history in report.histories],
                    class_='legend'),
            element('div', panels, class_='panels'), validations_table(report)]


def validations_table(report):
    """The last validation of each run in numbers, for those who cannot see curves."""
    last = {history.name: (max(history.scores), history.scores[max(history.scores)])
            for history in report.histories if history.scores}
    names = [name for name in dict.fromkeys(name for _, scores in last.values() for name in scores)
             if name not in ('iteration', 'epoch', 'seconds', 'waited')]
    rows = [[row_head(name_of(report, run)), number_cell(iteration, ',d'),
             *(number_cell(scores[name], '.4g') if name in scores else element('td', '–') for name in names)]
            for run, (iteration, scores) in last.items()]
    heads = [('run', 'text'), ('iteration', 'number'), *((title_of(name), 'number') for name in names)]
    return element('details', element('summary', 'The last validations in numbers'),
                   table('The last validation of each run', heads, rows)) if rows else None


def about_section(report):
    """Where the numbers come from, and what is different about the runs."""
    names = report.comparison.names
    rows = [[row_head(name), *(element('td', value, class_='long') for value in values)]
            for name, values in differing(report.several).items()] if len(names) > 1 else []
    return [element('h2', 'About this report'),
            element('p', 'Made by scripts/create_report.py from ', [
                [element('code', results.path), ', '] for results in report.several],
                f'with {report.draws:,} draws from seed {report.seed}.', class_='soft'),
            table('Options of evaluation and of the models that are not the same in all runs', [
                ('option', 'text'), *((name_of(report, name), 'text') for name in names)], rows) if rows else None]


def shown_images(comparison, several, number):
    """The images that the page shows, in no order."""
    by_name = {results.name: results for results in several}
    return list(dict.fromkeys(
        example.image for contrast in comparison.contrasts for side in examples(
            by_name[comparison.baseline], by_name[contrast.run], contrast.measure, comparison.images, number)
        for example in side))
