"""The names of the scores, their order, and the table in which they are printed."""

from collections.abc import Iterable, Mapping, Sequence

METRICS = ('Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr', 'SPICE')  # as papers list them
LOWER_IS_BETTER = ('loss', 'mBLEU-4', 'mBLEU_4', 'bad_endings')  # mBLEU-4 by either spelling


def sign_of(metric: str) -> int:
    """1 where a higher score is better, -1 where a lower one is."""
    return -1 if metric in LOWER_IS_BETTER else 1


def in_metric_order(names: Iterable[str]) -> list[str]:
    """The distinct `names`: first those in `METRICS`, in that order, then the others as they come."""
    names = list(dict.fromkeys(names))
    return [name for name in METRICS if name in names] + [name for name in names if name not in METRICS]


def score_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A plain-text table of {row label: {metric: score}}, without a line break at the end.

    Scores are those of the JSON files (fractions; CIDEr up to 10) with four decimals; a missing score is a dash.
    """
    columns = in_metric_order(name for scores in rows.values() for name in scores)
    cells = [['', *columns]]
    for label, scores in rows.items():
        cells.append([str(label), *(f'{scores[name]:.4f}' if name in scores else '-' for name in columns)])
    return aligned(cells)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table of rows of cells: a head, which is underlined, and lines with a label each, without a line
    break at the end."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ['-' * width for width in widths])
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
                     for row in cells)
