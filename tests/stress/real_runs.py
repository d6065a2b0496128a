"""Kills of train.py as a user starts it, on the built-in data set."""

import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

from misc.run import folder as run_folder
from tests.stress.same_run import Lost, end_difference, is_begun, stamps_of
from tests.stress.watching import children

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
IMAGES = 60
KILLS_OF_A_RUN = 3


class RealRuns:
    """train.py on the built-in data set, made small in `folder`."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.folder = folder
        # Without Java scores come quickly; one thread, as a busy machine would change nothing but the time.
        self.environment = {**os.environ, 'PATH': os.path.dirname(sys.executable), 'OMP_NUM_THREADS': '1'}
        self._prepare()
        self.whole = folder / 'whole'
        self.lines = self.run(self.whole)

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

    def command(self, run):
        """Start the run in the folder `run`, or resume it, as a user types it."""
        flags = ['--id', 'demo', '--input_json', 'talk.json', '--input_label_h5', 'talk_label.h5', '--input_img_feat_dir', 'bu_att', '--input_grid_vec_dir', 'vec', '--num_grids', '16', '--cached_tokens', 'table-idxs.p', '--num_layers', '1', '--input_encoding_size', '32', '--ff_size', '64', '--heads', '2', '--batch_size', '10', '--num_workers', '2', '--device', 'cpu', '--losses_log_every', '1', '--save_checkpoint_every', '2', '--perform_validation_every', '7', '--max_epochs', '4', '--self_critical_after', '2', '--seq_per_img', '3', '--language_eval', '1']
        resumed = ['--start_from', run.name] if is_begun(run) else []
        return [sys.executable, ROOT / 'train.py', '--checkpoint_path', run.name, *flags, *resumed]

    def run(self, run, stop_after=None, wait=0.0, reader=None):
        """Train into the folder `run` -> the number of lines printed.  `wait` seconds after `stop_after` lines
        the process is killed, or, with `reader` (a number), one of those that read for it."""
        lines = 0
        with subprocess.Popen(self.command(run), cwd=self.folder, stdout=subprocess.PIPE, env=self.environment,
                              stderr=subprocess.STDOUT, text=True) as process:
            printed = []
            for line in process.stdout:
                printed.append(line)
                lines += 1
                if lines == stop_after:
                    time.sleep(wait)
                    readers = children(process.pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(readers[reader % len(readers)], 9) if reader and readers else process.kill()
        told = 'a process that reads features died' in ''.join(printed)
        if process.returncode not in (0, -9) and not (process.returncode == 1 and told):
            raise Lost(f'train.py ended with {process.returncode}: {"".join(printed)[-2000:]}')
        self.is_over = process.returncode == 0
        return lines


def look_inside(run):
    """Read what a killed run left, change nothing, and see that all of it is of one moment."""
    if not is_begun(run):
        return
    before = stamps_of(run)
    found = run_folder.find_run(str(run))
    moments = run_folder.optimiser_state(found)['state']
    steps = max(int(state['step']) for state in moments.values())  # a weight that nothing needs has taken none
    losses = found.infos['histories']['loss_history']
    if not steps == max(losses) == found.infos['iter']:
        raise Lost(f'{run} is mixed: iteration {found.infos["iter"]}, moments of {steps}, losses to {max(losses)}')
    if stamps_of(run) != before:
        raise Lost(f'a reader changed {run}')


def kill_real_runs(kills, seed, folder):
    """Kill train.py so many times -> (kills, runs that ended the same)."""
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
            look_inside(run)
        runs.run(run)
        found = end_difference(runs.whole, run)
        if found or not runs.is_over:
            raise Lost(f'train.py: a run that was killed ended as another: {found}')
        shutil.rmtree(run)
        ended += 1
    return done, ended
