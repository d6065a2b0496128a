"""Histories and validations of runs, in files as train.py leaves them."""

import json
from pathlib import Path
from typing import Any

from misc.disk import pickles

SCORES = {'CIDEr': 1.0, 'Bleu_4': 0.3, 'METEOR': 0.25, 'ROUGE_L': 0.5}


def write_run(folder: Path, name: str, steps: int = 40, after: int | None = None,
              records: list[dict[str, Any]] | None = None) -> Path:
    """Write the histories of a run: `steps` steps logged every 10 iterations, self-critical after iteration `after`,
    `records` in validations.jsonl; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    iterations = range(10, 10 * steps + 1, 10)
    rewarded = [iteration for iteration in iterations if after is not None and iteration > after]
    content = {'loss_history': {i: -0.1 if i in rewarded else 8 / i ** 0.5 for i in iterations},
               'lr_history': dict.fromkeys(iterations, 0.001),
               'ss_prob_history': dict.fromkeys(iterations, 0.0), 'val_result_history': {}}
    if rewarded:
        content['reward_history'] = {i: {'reward': 0.9, 'baseline': 0.8, 'ended': 1.0} for i in rewarded}
        content['val_result_history'] = {after + 5: {'loss': 2.0, **SCORES}}
    pickles.dump(folder / f'histories_{name}.pkl', content)
    if records is not None:
        (folder / 'validations.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    return folder


def record(iteration: int, **scores: float) -> dict[str, Any]:
    """The record of a validation."""
    return {'iteration': iteration, 'epoch': 1, 'loss': 2.5, **scores, 'best': True, 'seconds': 1.5}
