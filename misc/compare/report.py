"""The page that scripts/create_report.py writes: one HTML file that needs nothing beside it.

Its templates, style sheet and script are in `misc/compare/files/`.  Jinja2 escapes every value, and a
Content-Security-Policy in the page allows no style and no script but these, whatever captions and names contain.
"""

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from misc.cli import plain_text
from misc.compare import sections
from misc.compare.comparison import Comparison, Settings
from misc.compare.curves import colours
from misc.compare.examples import differing_words
from misc.compare.places import Contrast
from misc.compare.wording import Wording
from misc.run.histories import History
from misc.scoring.references import ImageId
from misc.scoring.results import Results
from misc.scoring.scores import sign_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'files')
TITLES = {**{f'Bleu_{order}': f'BLEU-{order}' for order in range(1, 5)}, 'ROUGE_L': 'ROUGE-L'}
BREAKS = re.compile(r'(?<=[_\-/.])(?=[^_\-/.]{3})')    # where a name may continue on the next line
ON_DARK = {'#0072b2': '#4ba3e3', '#000000': '#ffffff'}    # in place of colours too dark for a dark page


@dataclass
class Report:
    """What the page shows.

    comparison  of `runs`, with `settings`
    histories   of the runs whose training curves are drawn
    references  {image: reference captions}, may be empty
    pictures    {image: the bytes of a small JPEG}, may be empty
    examples    the number of wins and of losses shown for each run and metric
    notes       remarks for the reader, a line each
    contrasts   {(run, metric): its differences by the places that references name}, may be empty
    wording     what the captions are like, or None
    """

    comparison: Comparison
    runs: Sequence[Results]
    histories: Sequence[History] = ()
    references: Mapping[ImageId, Sequence[str]] = field(default_factory=dict)
    pictures: Mapping[ImageId, bytes] = field(default_factory=dict)
    examples: int = 8
    settings: Settings = field(default_factory=Settings)
    notes: Sequence[str] = ()
    contrasts: Mapping[tuple[str, str], Sequence[Contrast]] = field(default_factory=dict)
    wording: Wording | None = None

    @property
    def colours(self) -> dict[str, int]:
        """{name of a run: the number of its colour}, for the runs compared, then for those with curves alone."""
        names = dict.fromkeys([*self.comparison.names, *(history.name for history in self.histories)])
        return {name: number for number, name in enumerate(names)}


def page(report: Report) -> str:
    """The page, text of HTML."""
    names, numbers = report.comparison.names, report.colours
    style = asset('report.css') + colour_rules(len(numbers)) + picture_rules(list(report.pictures.values()))
    script = asset('report.js')
    policy = (f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
              "base-uri 'none'; form-action 'none'")
    text = environment().get_template('report.html').render(
        report=report, comparison=report.comparison, settings=report.settings, colour_numbers=numbers,
        title=' and '.join(names) if len(names) < 3 else f'{len(names)} runs',
        split=next((run.split for run in report.runs if run.split), ''),
        policy=policy, style=style, script=script,
        metrics=sections.main_first(report.comparison.metrics), best=sections.best_scores(report.comparison),
        verdicts=sections.verdicts(report.comparison, report.settings.level),
        bar_reach=sections.bar_reach(report.comparison.differences),
        difference_tables=sections.difference_tables(report.comparison),
        pairs=sections.example_pairs(report.comparison, report.runs, report.examples),
        picture_numbers={image: number for number, image in enumerate(report.pictures)},
        captions={run.name: run.captions for run in report.runs},
        panels=sections.training_panels(report.histories, numbers),
        contrasts=report.contrasts, wording=report.wording, validations=sections.last_validations(report.histories),
        options=sections.differing_options(report.runs))
    # Half a surrogate pair, which a JSON file may contain, cannot be written to a file.
    return text.encode('utf-8', 'replace').decode()


def environment() -> 'Environment':
    """Jinja2 set up for the templates in files/: every value is escaped, a missing one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    templates = Environment(loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    templates.filters.update(number=format, plain=plain_text, breakable=breakable, metric_title=metric_title,
                             sign_of=sign_of)
    templates.globals.update(differing_words=differing_words)
    return templates


def breakable(text: str) -> 'Markup':
    """`text`, escaped, which may be broken into lines after the marks that divide names and paths, and not inside
    their words or before short ones."""
    from markupsafe import Markup
    return Markup('<wbr>').join(BREAKS.split(text))


def metric_title(metric: str) -> str:
    """A metric's name as papers write it."""
    return TITLES.get(metric, metric)


def asset(name: str) -> str:
    """The text of a file in files/."""
    with open(os.path.join(FILES, name), encoding='utf-8') as file:
        return file.read()


def digest(text: str) -> str:
    """The source expression by which the policy allows an inline style or script."""
    return f'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'


def colour_rules(count: int) -> str:
    """Style rules for the colours of `count` runs, in light and dark mode."""
    light = ''.join(f'--run-{number}:{colour};' for number, colour in enumerate(colours(count)))
    dark = ''.join(f'--run-{number}:{ON_DARK.get(colour, colour)};' for number, colour in enumerate(colours(count)))
    classes = ''.join(f'.r{number}{{--run:var(--run-{number})}}' for number in range(count))
    return f':root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{classes}\n'


def picture_rules(pictures: Sequence[bytes]) -> str:
    """Style rules for the pictures, so that each is in the page once however often it is shown."""
    texts = [base64.b64encode(content).decode() for content in pictures]
    return ''.join(f'.p{number}{{background-image:url(data:image/jpeg;base64,{text})}}\n'
                   for number, text in enumerate(texts))
