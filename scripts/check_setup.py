"""Report what is there and what is missing, from Python to trained runs, and the commands that provide the rest."""

import itertools
import os
import sys
from collections.abc import Iterable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import Parser, boolean, run_command
from misc.setup.environment import gpu_findings, installed, python_findings, scoring_findings, weight_findings
from misc.setup.findings import Finding, lacking, remedies

REQUIREMENTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'requirements.txt')
NEEDED_HERE = ('numpy', 'h5py', 'torch', 'torchvision')    # to look at more than the packages


def check(data: str, checkpoints: str, image_root: str | None) -> list[Finding]:
    """Print the report, group by group as it is found; returns the findings."""
    findings = report('Python', python_findings(REQUIREMENTS))
    if not all(map(installed, NEEDED_HERE)):
        print(f'  the rest is checked once {", ".join(NEEDED_HERE)} are installed')
        return findings
    from misc.setup.data_files import DataFiles
    from misc.setup.runs import run_findings
    findings += report('Machine', scoring_findings(), gpu_findings())
    findings += report(f'Data in {data}', DataFiles(data, image_root).findings(), weight_findings(data))
    findings += report(f'Runs in {checkpoints}', run_findings(checkpoints))
    return findings


def report(title: str, *groups: Iterable[Finding]) -> list[Finding]:
    """Print findings as they come; returns them."""
    print(title, flush=True)
    printed = []
    for finding in itertools.chain(*groups):
        print(finding.line(), flush=True)
        printed.append(finding)
    return printed


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Reports what is there and what is missing: Python and its packages, Java, the GPU, the data files with\n'
        'their counts, trained runs; then the commands that provide what is missing, first what training needs.\n'
        'Folders are only listed, and nothing is changed.\n\n'
        '  ok       there and complete\n'
        '  partly   incomplete, broken, or of another version\n'
        '  missing  not there, and training needs it\n'
        '  -        not there, and not needed\n\n'
        'python scripts/check_setup.py\n'
        'python scripts/check_setup.py --data data/demo --strict && python train.py ...'))
    parser.add_argument('--data', default='data', metavar='DIR', help=(
        'folder of the data files, named as in the README; data/demo for the built-in data set'))
    parser.add_argument('--checkpoints', default='checkpoints', metavar='DIR', help=(
        'folder of the runs, or of one run'))
    parser.add_argument('--image_root', metavar='DIR', help=(
        'folder that holds train2014/ and val2014/; give it to count the images too'))
    parser.add_argument('--strict', type=boolean, nargs='?', const=True, default=False, help=(
        'exit with status 1 if something that training needs is missing, for use in scripts'))
    return parser


def main() -> int:
    """Print the report and what provides the rest; returns the exit status."""
    options = arguments().parse_args()
    findings = check(os.path.normpath(options.data), options.checkpoints, options.image_root)
    print('\n'.join(remedies(findings)))
    if not lacking(findings):
        print('Everything that training needs is here.')
    return int(options.strict and lacking(findings))


if __name__ == '__main__':
    run_command(main)
