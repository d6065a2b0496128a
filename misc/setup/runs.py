"""Findings about trained runs."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from misc.cli import DataError
from misc.disk import filesets, pickles
from misc.run import folder as run_folder
from misc.setup.findings import MISSING, PARTLY, THERE, Finding

SHOWN = 10


def run_findings(checkpoints: str) -> Iterator[Finding]:
    """The runs in `checkpoints`, which may be the folder of one run.  Nothing in it is changed, not even by
    completing a save that is under way."""
    folders = []
    if os.path.isdir(checkpoints):
        folders = [checkpoints, *sorted(entry.path for entry in os.scandir(checkpoints) if entry.is_dir())]
    findings = [finding for folder in folders for finding in findings_in(folder)]
    yield from findings[:SHOWN]
    if len(findings) > SHOWN:
        yield Finding(THERE, f'and {len(findings) - SHOWN} more')
    if not findings:
        yield Finding(MISSING, 'runs', 'none yet; the commands are in README.md, Training')


def findings_in(folder: str) -> Iterator[Finding]:
    """The runs whose infos files are in `folder`."""
    last, best = run_folder.infos_files(folder)
    for name in last or best:
        run_id = name.removesuffix('.pkl').removeprefix('infos').removeprefix('_') or os.path.basename(folder)
        try:
            infos = pickles.load(os.path.join(folder, name), opened=filesets.opened)
            yield Finding(THERE, run_id, f'epoch {infos["epoch"]}, iteration {infos["iter"]}{best_score(infos)}')
        except (DataError, LookupError, TypeError):
            yield Finding(PARTLY, run_id, f'{os.path.join(folder, name)} cannot be read',
                          f'use infos_{run_id}-best.pkl and model-best.pth, or train again')


def best_score(infos: Mapping[str, Any]) -> str:
    """', best validation CIDEr 1.234'; '' for a run that was not validated yet."""
    score, measure = infos.get('best_val_score'), infos.get('best_measure')
    if not isinstance(score, (int, float)):
        return ''
    return f', best validation {measure or "score"} {-score if measure == "loss" else score:.3f}'
