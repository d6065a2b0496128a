"""Check the project on a GPU within six minutes, and measure it."""

import argparse
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault('GOMP_SPINCOUNT', '2000')  # before torch is loaded; why: see train.py

from misc.cli import Parser, UsageError, note, run_command
from misc.disk.files import write_json
from opts import device_name
from scripts.gpu_checking import agreement, card, host, kernels, messages, peer, speed, training
from scripts.gpu_checking.running import Result, run_section
from scripts.gpu_checking.sections import Section, Setting

# The limits add up to six minutes.
SECTIONS = {
    'card': Section('the card, versions, ceilings', 15, card.run),
    'agreement': Section('losses, gradients, captions and updates of all families as on the CPU', 60, agreement.run),
    'kernels': Section('X-linear attention on the device as the plain formula in double precision', 30, kernels.run),
    'waits': Section('how often the host waits for the device', 25, host.waits),
    'profile': Section('kernels, how busy the device is, what takes longest', 30, host.profiles),
    'speed': Section('times, memory, distance from the floor', 90, speed.run),
    'peer': Section('against the same model as it is usually written', 40, peer.run),
    'training': Section('the programs, from data to scores, interrupted once', 60, training.run),
    'messages': Section('the messages of several processes, with one', 10, messages.run),
}

DESCRIPTION = __doc__ + """

    python scripts/gpu_check.py

Every section runs in a process of its own, with a limit on its time; what it finds is written to gpu_check.json as it
comes, and a table is printed at the end.  A section whose needs are missing says so and is skipped.  The exit status
is 1 if anything is not as it should be.

On a CPU, sizes are small and everything takes about a minute: it shows that the check works, and checks what does not
need a GPU.

sections:
""" + '\n'.join(f'  {name:10s} {section.title} (at most {section.limit:g} s)' for name, section in SECTIONS.items())


def main() -> int:
    """Run the sections, print the table; returns the exit status."""
    options = parsed_options()
    setting = Setting(options.device, options.small or options.device == 'cpu')
    content: dict[str, Any] = {'device': options.device, 'small': setting.small, 'sections': {}}
    for name in options.only or SECTIONS:
        note(f'{name}: {SECTIONS[name].title}')

        def update(result: Result, name: str = name) -> None:
            content['sections'][name] = result
            write_json(options.json, content, indent=1)
        result = run_section(SECTIONS[name], setting, update)
        note(f'{name}: {result["status"]} after {result["seconds"]} s' + (
            f': {result["reason"]}' if result['reason'] else ''))
    print('\n'.join(table(content['sections'])))
    return int(any(result['status'] == 'failed' for result in content['sections'].values()))


def parsed_options() -> argparse.Namespace:
    """The checked options of the command line."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument('--only', nargs='+', choices=SECTIONS, metavar='SECTION',
                        help='sections to run (default: all)')
    parser.add_argument('--device', type=device_name, default='cuda', metavar='NAME',
                        help='cuda, cuda:N, or cpu for the small form')
    parser.add_argument('--small', action='store_true', help='the small sizes on a GPU too: does everything run?')
    parser.add_argument('--json', default='gpu_check.json', metavar='FILE', help='where everything is written')
    options = parser.parse_args()
    if options.device == 'auto':   # to look for a GPU here would keep the sections from using it
        raise UsageError('--device auto: name cuda, cuda:N or cpu')
    if not os.path.isdir(os.path.dirname(options.json) or '.'):
        raise UsageError(f'--json {options.json}: there is no folder {os.path.dirname(options.json)}; make it, or '
                         'name another file')
    return options


def table(sections: dict[str, Result]) -> list[str]:
    """The lines of the Markdown table of the results of sections."""
    rows = [('section', 'what', 'found', 'wanted', '')]
    for name, result in sections.items():
        for finding in result['findings']:
            verdict = {None: '', True: 'ok', False: '**NOT OK**'}[finding['ok']]
            rows.append((name, finding['what'], finding['found'], finding['wanted'], verdict))
        if result['status'] == 'skipped' or result['reason']:
            rows.append((name, result['title'], result['reason'], '', result['status']))
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return [lines[0], '| --- | --- | --- | --- | --- |', *lines[1:]]


if __name__ == '__main__':
    run_command(main)
