"""Each section in a process of its own, with a limit on its time."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from misc.cli import UserError
from scripts.gpu_checking.sections import Report, Section, Setting, Skip

Result = dict[str, Any]   # of a section: 'status' ('passed', 'failed', 'skipped'), 'reason', 'seconds', 'findings'


def run_section(section: Section, setting: Setting, update: Callable[[Result], None]) -> Result:
    """Run a section; `update` gets its result so far whenever there is something new.

    The section's process is a fork, which saves the loading of PyTorch: this one must not use a GPU.
    """
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    result: Result = {'title': section.title, 'status': 'running', 'reason': '', 'findings': []}
    start = time.monotonic()
    process = context.Process(target=_work, args=(section, setting, theirs, ours))
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(max(0.0, start + section.limit - time.monotonic())):
                result.update(status='failed', reason=f'it took more than {section.limit:g} s')
                break
            kind, content = ours.recv()
            if kind == 'finding':
                result['findings'].append(content)
                update(result)
                continue
            result.update(status=kind, reason=content)
            break
    except EOFError:
        process.join()
        result.update(status='failed', reason=f'its process ended with status {process.exitcode}')
    finally:
        _end(process)
    if any(finding['ok'] is False for finding in result['findings']):
        result['status'] = 'failed'
    result['seconds'] = round(time.monotonic() - start, 1)
    update(result)
    return result


def _work(section: Section, setting: Setting, pipe: Connection, other: Connection) -> None:
    """The main function of a section's process."""
    other.close()
    os.setpgid(0, 0)   # so that its own processes can be ended with it
    try:
        section.run(setting, Report(lambda finding: pipe.send(('finding', finding))))
        pipe.send(('passed', ''))
    except Skip as missing:
        pipe.send(('skipped', str(missing)))
    except UserError as error:
        pipe.send(('failed', str(error)))
    except Exception as error:
        traceback.print_exc()
        pipe.send(('failed', f'{type(error).__name__}: {str(error)[:300]}'))


def _end(process: Any) -> None:
    """End a section's process and those that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
