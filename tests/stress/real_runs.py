"""Kill train.py as a user starts it, on the built-in data set, and resume it."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from misc.run import folder as run_folder
from tests.helpers import ROOT
from tests.stress.killing import children
from tests.stress.run_checks import Lost, end_difference, has_checkpoint, stamps_of

IMAGES = 60
KILLS_OF_A_RUN = 3
FLAGS = (
    '--id demo --input_json talk.json --input_label_h5 talk_label.h5 --input_img_feat_dir bu_att '
    '--input_grid_vec_dir vec --num_grids 16 --cached_tokens table-idxs.p --num_layers 1 '
    '--input_encoding_size 32 --ff_size 64 --heads 2 --batch_size 10 --num_workers 2 --device cpu '
    '--losses_log_every 1 --save_checkpoint_every 2 --perform_validation_every 7 --max_epochs 4 '
    '--self_critical_after 2 --seq_per_img 3 --language_eval 1')


class RealRuns:
    """train.py on a small form of the built-in data set in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        # Without Java, scores take little time; more threads would only make a busy machine slower.
        self.environment = {**os.environ, 'PATH': os.path.dirname(sys.executable), 'OMP_NUM_THREADS': '1'}
        self._prepare()
        self.whole, self.is_over = folder / 'whole', False
        self.lines = self.run(self.whole)  # that an undisturbed run prints

    def _prepare(self):
        for command in (
                f'scripts/make_demo_data.py --output_dir demo --num_images {IMAGES} --num_workers 1',
                'scripts/prepro_labels.py --input_json demo/dataset_coco.json --output_json talk.json '
                '--output_h5 talk',
                'scripts/prepro_ngrams.py --input_json demo/dataset_coco.json --dict_json talk.json '
                '--output_pkl table --split train',
                'scripts/make_bu_data.py --downloaded_feats demo/bu_data --output_dir bu --num_workers 1',
                'prepro_areas.py --input_dir bu_box --output_dir vec --num_grids 16 --num_workers 1'):
            self._python(command.split()).check_returncode()

    def _python(self, command, **more):
        return subprocess.run([sys.executable, ROOT / command[0], *command[1:]], cwd=self.folder, check=False,
                              capture_output=True, text=True, env=self.environment, **more)

    def command(self, run: Path) -> list[str | Path]:
        """The command that starts the run in the folder `run`, or resumes it."""
        resumed = ['--start_from', run.name] if has_checkpoint(run) else []
        return [sys.executable, ROOT / 'train.py', '--checkpoint_path', run.name, *FLAGS.split(), *resumed]

    def run(self, run: Path, stop_after: int | None = None, wait: float = 0.0, worker: int | None = None) -> int:
        """Train into the folder `run` -> the number of lines printed.  `wait` seconds after `stop_after` lines, kill
        the process or, if `worker` is a number, one of its loader workers."""
        lines = 0
        with subprocess.Popen(self.command(run), cwd=self.folder, stdout=subprocess.PIPE, env=self.environment,
                              stderr=subprocess.STDOUT, text=True) as process:
            printed = []
            for line in process.stdout:
                printed.append(line)
                lines += 1
                if lines == stop_after:
                    time.sleep(wait)
                    workers = children(process.pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(workers[worker % len(workers)], 9) if worker and workers else process.kill()
        reported = 'a process that reads features died' in ''.join(printed)
        if process.returncode not in (0, -9) and not (process.returncode == 1 and reported):
            raise Lost(f'train.py ended with {process.returncode}: {"".join(printed)[-2000:]}')
        self.is_over = process.returncode == 0
        return lines


def check_run(run: Path) -> None:
    """Raise `Lost` unless the parts of a killed run's checkpoint belong together and reading changes nothing."""
    if not has_checkpoint(run):
        return
    before = stamps_of(run)
    found = run_folder.find_run(str(run))
    moments = run_folder.optimiser_state(found)['state']
    steps = max(int(state['step']) for state in moments.values())  # weights without gradients have taken none
    losses = found.infos['histories']['loss_history']
    if not steps == max(losses) == found.infos['iter']:
        raise Lost(f'{run} is mixed up: iteration {found.infos["iter"]}, moments of {steps}, losses to {max(losses)}')
    if stamps_of(run) != before:
        raise Lost(f'a reader changed {run}')


def kill_real_runs(kills: int, seed: int, folder: Path) -> tuple[int, int]:
    """Kill train.py `kills` times -> (kills, runs, all of which ended like the undisturbed one)."""
    if not kills:
        return 0, 0
    runs, draw, done, ended = RealRuns(folder), random.Random(seed), 0, 0
    while done < kills:
        run = folder / f'run_{ended}'
        for _ in range(min(KILLS_OF_A_RUN, kills - done)):
            runs.run(run, draw.randint(1, runs.lines // 2), draw.random() * 0.3, draw.choice((None, None, 1, 2)))
            if runs.is_over:
                break
            done += 1
            check_run(run)
        runs.run(run)
        found = end_difference(runs.whole, run)
        if found or not runs.is_over:
            raise Lost(f'train.py: a killed run ended differently: {found}')
        shutil.rmtree(run)
        ended += 1
    return done, ended
