"""Section `training`: the programs, from the built-in data set to scores, with an interruption."""

import importlib.util
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from scripts.gpu_checking.programs import Program
from scripts.gpu_checking.sections import Report, Setting, Skip

EPOCHS = 4
MODEL = ('--num_layers 2 --input_encoding_size 128 --ff_size 512 --heads 4 --dropout 0.05 --drop_prob_lm 0 '
         '--learning_rate 2e-3 --learning_rate_decay_start 4 --learning_rate_decay_every 1')
SMALL_MODEL = '--num_layers 1 --input_encoding_size 32 --ff_size 32 --heads 2 --learning_rate 2e-3'
WAITED = 2.0   # per cent of the time that training may wait for data


def run(setting: Setting, report: Report) -> None:
    """Prepare the data, train in both phases, stop and go on, evaluate on the device and on the CPU."""
    if importlib.util.find_spec('tensorboardX') is None:
        raise Skip('tensorboardX is not installed, which train.py writes its events with')
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix='gpu_check_') as folder:
        os.chdir(folder)
        try:
            Programs(setting, Path(folder), report).run()
        finally:
            os.chdir(before)


class Programs:
    """The commands, with their files in `folder`."""

    def __init__(self, setting: Setting, folder: Path, report: Report) -> None:
        self.setting, self.folder, self.report = setting, folder, report
        self.images, self.epochs = (16, 12) if setting.small else (1200, EPOCHS)
        self.can_score = has_scorers()
        if not self.can_score:
            report.number('scores', "none: pycocoevalcap's Python files are missing")
        self.workers = 0 if setting.small else 4
        self.data = ['--input_json', 'talk.json', '--input_label_h5', 'talk_label.h5', '--input_img_feat_dir',
                     'bu_att', '--input_box_dir', 'bu_box', '--input_grid_vec_dir', '']

    def run(self) -> None:
        """All of it."""
        self._prepare()
        self._cross_entropy()
        self._self_critical()
        self._evaluate()

    def _start(self, file: str, *arguments: object) -> Program:
        return Program(file, arguments, self.folder / 'output')

    def _prepare(self) -> None:
        for file, arguments in (
                ('scripts/make_demo_data.py', ['--output_dir', 'demo', '--num_images', self.images]),
                ('scripts/prepro_labels.py', ['--input_json', 'demo/dataset_coco.json', '--output_json', 'talk.json',
                                              '--output_h5', 'talk', '--word_count_threshold', 0]),
                ('scripts/prepro_ngrams.py', ['--input_json', 'demo/dataset_coco.json', '--dict_json', 'talk.json',
                                              '--output_pkl', 'table', '--split', 'train']),
                ('scripts/make_bu_data.py', ['--downloaded_feats', 'demo/bu_data', '--output_dir', 'bu'])):
            self._start(file, *arguments).wait()

    def _train(self, *more: object) -> Program:
        model = SMALL_MODEL if self.setting.small else MODEL
        return self._start('train.py', '--id', 'check', '--checkpoint_path', 'run', *self.data, *model.split(),
                           '--batch_size', 4 if self.setting.small else 20, '--device', self.setting.device,
                           '--num_workers', self.workers, '--val_images_use', -1 if self.can_score else 0,
                           '--losses_log_every', 1 if self.setting.small else 5, *more)

    def _cross_entropy(self) -> None:
        """The first phase, which SIGTERM interrupts in its second epoch."""
        program = self._train('--max_epochs', self.epochs)
        program.wait_for(lambda text: '(epoch 1, ' in text)
        program.terminate()
        text = program.wait(143)
        stopped = re.search(r'stopped by SIGTERM after iteration (\d+); saved', text)
        rest = self._train('--max_epochs', self.epochs, '--start_from', 'run').wait()
        steps = self._steps()
        numbers = [step['iteration'] for step in steps]
        self.report.check('SIGTERM, then the same command with --start_from', (
            f'stopped after iteration {stopped[1]}, went on to {numbers[-1]}' if stopped else 'not saved'),
            'every logged step once', bool(stopped) and numbers == sorted(set(numbers)))
        losses = [step['loss'] for step in steps]
        third = -(-len(losses) // 3)
        first, last = (sum(part) / third for part in (losses[:third], losses[-third:]))
        self.report.check(f'loss over {self.epochs} epochs', f'{first:.3f} -> {last:.3f}', 'falls', last < first,
                          losses=losses)
        self._waited(rest)

    def _waited(self, text: str) -> None:
        found = re.findall(r'([0-9.]+) images/s, waited ([0-9.]+) %', text)[1:]   # at the start all of them wait
        waited = sum(float(one) for _, one in found) / max(1, len(found))
        speed = f'{found[-1][0]} images/s' if found else 'no steps'
        self.report.check('waiting for data', f'{waited:.1f} % of the time, at {speed}', f'at most {WAITED:g} %',
                          waited <= WAITED or self.setting.small, waited=waited)

    def _self_critical(self) -> None:
        """The second phase, an epoch of it."""
        before = len(self._steps())
        self._train('--self_critical_after', self.epochs, '--max_epochs', self.epochs + 1, '--cached_tokens',
                    'table-idxs', '--start_from', 'run', '--learning_rate', 1e-4, '--learning_rate_decay_start',
                    -1).wait()
        rewards = [step['reward'] for step in self._steps()[before:]]
        third = -(-len(rewards) // 3)
        first, last = (sum(part) / third for part in (rewards[:third], rewards[-third:]))
        self.report.check('reward over an epoch', f'{first:.3f} -> {last:.3f}', 'rises',
                          last > first or self.setting.small, rewards=rewards)

    def _evaluate(self) -> None:
        """The test split on the device, with scores, and on the CPU."""
        captions = []
        for device, scores in ((self.setting.device, self.can_score), ('cpu', False)):
            self._start('eval.py', '--model', 'run/model.pth', '--infos_path', 'run/infos_check.pkl', *self.data,
                        '--device', device, '--beam_size', 3, '--num_workers', self.workers, '--num_images',
                        -1 if self.can_score else 50, '--language_eval', int(scores),
                        '--matmul_precision', 'highest').wait()
            captions.append({entry['image_id']: entry['caption'] for entry in self._json('vis/vis.json')})
        on_device, on_cpu = captions
        same = sum(on_device[image] == caption for image, caption in on_cpu.items())
        self.report.check('the checkpoint on the CPU', f'{same} of {len(on_cpu)} captions are those of the device',
                          'all but 2 %', same >= 0.98 * len(on_cpu))
        if os.path.exists('eval_results/check_test.json'):
            found: dict[str, float] = self._json('eval_results/check_test.json')['overall']
            self.report.number('scores of the test split', ', '.join(
                f'{name} {found[name]:.3f}' for name in ('Bleu_4', 'CIDEr') if name in found), **found)

    def _steps(self) -> list[dict[str, Any]]:
        with open('run/steps.jsonl', encoding='utf-8') as file:
            return [json.loads(line) for line in file]

    def _json(self, path: str) -> Any:
        with open(path, encoding='utf-8') as file:
            return json.load(file)


def has_scorers() -> bool:
    """Whether pycocoevalcap is there with its Python files."""
    names = ('pycocoevalcap.bleu.bleu', 'pycocoevalcap.cider.cider', 'pycocoevalcap.rouge.rouge')
    try:
        return all(importlib.util.find_spec(name) for name in names)
    except ModuleNotFoundError:
        return False
