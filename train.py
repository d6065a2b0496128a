"""Train an image captioner; `python train.py --help` lists the options."""

import json
import os
import random
import signal
import time

# Threads of torch that wait for each other shall sleep, not spin: on a machine whose cores are
# shared (with the feature readers, to begin with) spinning makes small steps ten times slower.
# The library reads this when it is loaded.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

import numpy as np
import torch

import models
import opts
from dataloader import Corpus, TrainBatches, image_batches
from misc import checkpoint
from misc.cli import DataError, UsageError, note, run_command
from misc.evaluation import caption_images, mean_loss
from misc.files import replacing
from misc.losses import caption_loss, is_finite
from misc.machine import pick_device
from misc.optim import (NOAM_BETAS, NOAM_EPSILON, Plateau, build_optimiser, clip_by_value,
                        decayed_rate, noam_rate, set_rate, take_moments)

HISTORIES = ('val_result_history', 'loss_history', 'lr_history', 'ss_prob_history')
VALIDATIONS = 'validations.jsonl'


def main():
    """Parse the options, check them and the files, train."""
    options, given = opts.parse(opts.train_parser())
    options.id = options.id or os.path.basename(os.path.normpath(options.checkpoint_path or 'captioner'))
    options.checkpoint_path = options.checkpoint_path or os.path.join('checkpoints', options.id)
    opts.check_decoding(options)
    infos = None
    if options.start_from:
        infos_path = checkpoint.find_infos(options.start_from, options.id)
        infos = checkpoint.read_infos(infos_path)
        opts.take_model_options(options, given, infos['opt'], infos_path)
    elif os.path.exists(os.path.join(options.checkpoint_path, checkpoint.infos_name(options.id))):
        raise UsageError(f'--checkpoint_path {options.checkpoint_path} already holds the run '
                         f'{options.id}; go on with it by --start_from {options.checkpoint_path}, '
                         'or name another folder')
    opts.check_model(options, given)
    return Training(options, infos).run()


class Training:
    """One run: the model, its data, and everything a resumed run needs."""

    def __init__(self, options, infos):
        """`infos`: those of the run to go on from, or None."""
        self.options = options
        self.device = pick_device(options.device)
        random.seed(options.seed)
        np.random.seed(options.seed)
        torch.manual_seed(options.seed)
        self.corpus = corpus = Corpus(options)
        self.longest = corpus.labels.longest
        options.vocab_size, options.seq_length = len(corpus.vocabulary), self.longest
        self.model = models.build(options, options.vocab_size + 1, self.longest).to(self.device)
        corpus.want(self.model.needs)
        train_rows = corpus.rows('train', options.train_only)
        limit = None if options.val_images_use < 0 else options.val_images_use
        self.val_rows = corpus.rows('val')[:limit]
        corpus.check_files(train_rows + self.val_rows)
        self.references = self._references() if options.language_eval else None
        self.decode = models.build_decoder(options, self.longest, corpus.vocabulary)
        self._resume(infos)
        self.batches = TrainBatches(corpus, train_rows, options.batch_size, options.seq_per_img,
                                    options.seed, options.num_workers,
                                    infos and infos.get('loader'))
        self.stopped_by = None

    def _references(self):
        from misc.references import load_references
        references = load_references(self.options.input_json)
        return {self.corpus.ids[row]: references[self.corpus.ids[row]] for row in self.val_rows}

    def _resume(self, infos):
        """Set up the optimiser and counters, from `infos` and the files beside it where given."""
        options = self.options
        betas = (options.optim_alpha, options.optim_beta)
        settings = (NOAM_BETAS, NOAM_EPSILON) if options.noamopt else (betas, options.optim_epsilon)
        self.optimiser = build_optimiser(
            self.model.parameters(), 'adam' if options.noamopt else options.optim, *settings[0],
            epsilon=settings[1], weight_decay=options.weight_decay)
        self.iteration, self.best_score, self.best_measure = 0, None, None
        self.histories = {name: {} for name in HISTORIES}
        self.plateau = Plateau()
        if infos is None:
            return
        folder = options.start_from
        if infos['vocab'] != self.corpus.vocabulary:
            raise DataError(f'the vocabulary of {options.input_json} is not that of the run in {folder}; '
                            'give the --input_json it was trained with')
        checkpoint.load_weights(self.model, checkpoint.read_tensors(os.path.join(folder, 'model.pth')),
                                os.path.join(folder, 'model.pth'))
        state = checkpoint.read_tensors(os.path.join(folder, 'optimizer.pth'))
        if not take_moments(self.optimiser, state):
            note(f'note: the moments in {folder}/optimizer.pth are of another optimiser; '
                 'they start anew')
        self.iteration = infos['iter']
        self.histories.update(infos.get('histories') or {})
        self.plateau = Plateau(infos.get('plateau'))
        if options.load_best_score:
            self.best_score, self.best_measure = infos['best_val_score'], infos.get('best_measure')
        if 'random' in infos:
            restore_random(infos['random'])
        self._print(f'going on from {folder} at iteration {self.iteration}, epoch {infos["epoch"]}')

    def run(self):
        """Train to the last epoch, or until a signal; returns the exit status."""
        options = self.options
        os.makedirs(options.checkpoint_path, exist_ok=True)
        self._open_logs()
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        self.model.train()
        validated = False
        if self._is_over():
            self._print(f'nothing to do: epoch {self._epoch()} of --max_epochs {options.max_epochs} '
                        'is reached')
            return 0
        while not self._is_over() and not self.stopped_by:
            self._step()
            validated = self.iteration % options.perform_validation_every == 0
            if validated:
                self._validate()
            elif self.iteration % options.save_checkpoint_every == 0:
                self._save()
        if self.stopped_by:
            self._save()
            self._print(f'stopped by {signal.Signals(self.stopped_by).name} after iteration '
                        f'{self.iteration}; saved. Go on with the same command and '
                        f'--start_from {options.checkpoint_path}')
            return 128 + self.stopped_by
        if not validated:
            self._validate()
        self.events.close()
        return 0

    def _epoch(self):
        """The epoch that the next batch belongs to."""
        return self.batches.epoch + self.batches.epoch_is_over

    def _is_over(self):
        return 0 <= self.options.max_epochs <= self._epoch()

    def _on_signal(self, number, _):
        if self.stopped_by:  # asked twice: leave at once, the last checkpoint stands
            os._exit(128 + number)
        self.stopped_by = number

    def learning_rate(self, epoch):
        """The rate of the next step, a function of its number, its epoch and the plateaus seen."""
        options = self.options
        if options.noamopt:
            return noam_rate(self.iteration + 1, options.input_encoding_size, options.noamopt_warmup,
                             options.noamopt_factor) * self.plateau.scale
        if options.reduce_on_plateau:
            return options.learning_rate * self.plateau.scale
        return decayed_rate(options.learning_rate, epoch, options.learning_rate_decay_start,
                            options.learning_rate_decay_every, options.learning_rate_decay_rate)

    def _step(self):
        """One batch: loss, gradients, one step of the optimiser, logs."""
        options = self.options
        batch = self.batches.next().to(self.device)
        rate = self.learning_rate(batch.epoch)
        set_rate(self.optimiser, rate)
        self.optimiser.zero_grad(set_to_none=True)
        loss = caption_loss(self.model, batch, options.label_smoothing)['loss']
        loss.backward()
        parameters = list(self.model.parameters())
        if not is_finite(loss, parameters):
            ids = ', '.join(map(str, batch.image_ids[:10]))
            raise DataError(
                f'iteration {self.iteration + 1} (epoch {batch.epoch}, learning rate {rate:.3g}): the loss '
                f'or a gradient is not finite; the images were {ids}'
                f'{", ..." if len(batch.image_ids) > 10 else ""}\nthe last checkpoint in '
                f'{options.checkpoint_path} stands; try a lower rate, or look at these images\' features')
        clip_by_value(parameters, options.grad_clip)
        self.optimiser.step()
        self.iteration += 1
        self._log_step(float(loss.detach()), rate, batch)

    def _log_step(self, loss, rate, batch):
        self.images_done += len(batch.counts)
        if self.iteration % self.options.losses_log_every:
            return
        self.histories['loss_history'][self.iteration] = loss
        self.histories['lr_history'][self.iteration] = rate
        self.histories['ss_prob_history'][self.iteration] = 0.0
        self.events.add_scalar('train_loss', loss, self.iteration)
        self.events.add_scalar('learning_rate', rate, self.iteration)
        speed = self.images_done / (time.monotonic() - self.started)
        line = (f'iteration {self.iteration} (epoch {batch.epoch}, {self.batches.position} of '
                f'{self.batches.images} images): loss {loss:.4f}, learning rate {rate:.3g}, '
                f'{speed:.1f} images/s')
        if self.options.max_epochs >= 0:
            left = ((self.options.max_epochs - batch.epoch) * self.batches.images
                    - self.batches.position) / speed
            line += f', {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d} left'
        self._print(line)

    def _validate(self):
        """Loss and, when asked, language scores of the validation images; log and save them."""
        options, corpus = self.options, self.corpus
        started = time.monotonic()
        scores = {'loss': mean_loss(self.model, image_batches(
            corpus, self.val_rows, options.batch_size, options.num_workers, options.seq_per_img,
            options.seed), self.device)}
        if options.language_eval:
            scores.update(self._language_scores())
        measure, score = ('CIDEr', scores['CIDEr']) if 'CIDEr' in scores else ('loss', -scores['loss'])
        is_best = (self.best_score is None or self.best_measure != measure or score > self.best_score)
        if is_best:
            self.best_score, self.best_measure = score, measure
        if options.reduce_on_plateau:
            self.plateau.see(score)
        self.histories['val_result_history'][self.iteration] = scores
        for name, value in scores.items():
            self.events.add_scalar(f'validation_{name}', value, self.iteration)
        record = {'iteration': self.iteration, 'epoch': self._epoch(), **scores, 'best': is_best,
                  'seconds': round(time.monotonic() - started, 2)}
        with open(os.path.join(options.checkpoint_path, VALIDATIONS), 'a', encoding='utf-8') as file:
            file.write(json.dumps(record) + '\n')
        listed = ', '.join(f'{name} {value:.4f}' for name, value in scores.items())
        self._print(f'validation at iteration {self.iteration}: {listed}{" (best)" if is_best else ""}')
        self._save(is_best)

    def _language_scores(self):
        from misc.metrics import score
        options = self.options
        results = caption_images(
            self.model, image_batches(self.corpus, self.val_rows, options.batch_size, options.num_workers),
            self.decode, self.corpus.images, self.corpus.vocabulary, self.device, len(self.val_rows))
        overall, _, notes = score({entry['image_id']: entry['caption'] for entry in results},
                                  self.references)
        for line in notes:
            note(f'note: {line}')
        return overall

    def _save(self, is_best=False):
        """Write the run's folder as one set of files."""
        options, loader = self.options, self.batches.state()
        infos = {'opt': options, 'vocab': self.corpus.vocabulary, 'iter': self.iteration,
                 'epoch': loader['epoch'], 'best_val_score': self.best_score,
                 'best_measure': self.best_measure, 'loader': loader, 'plateau': self.plateau.state(),
                 'random': random_state(), 'histories': self.histories}
        weights, infos = checkpoint.tensor_bytes(self.model.state_dict()), checkpoint.pickle_bytes(infos)
        files = {'model.pth': weights, checkpoint.infos_name(options.id): infos,
                 'optimizer.pth': checkpoint.tensor_bytes(self.optimiser.state_dict()),
                 f'histories_{options.id}.pkl': checkpoint.pickle_bytes(self.histories)}
        if is_best:
            files.update({'model-best.pth': weights, checkpoint.infos_name(options.id, best=True): infos})
        checkpoint.save_set(options.checkpoint_path, files)

    def _open_logs(self):
        """TensorBoard events and the validation lines, without what a killed run wrote after its last
        checkpoint."""
        from tensorboardX import SummaryWriter
        folder = self.options.checkpoint_path
        self.events = SummaryWriter(folder, purge_step=self.iteration + 1 if self.iteration else None)
        path = os.path.join(folder, VALIDATIONS)
        if os.path.exists(path):
            with open(path, encoding='utf-8') as file:
                kept = [line for line in file if lies_before(line, self.iteration)]
            with replacing(path, 'w') as file:
                file.writelines(kept)
        self.started, self.images_done = time.monotonic(), 0

    def _print(self, line):
        print(line, flush=True)


def lies_before(line, iteration):
    """Whether a line of validations.jsonl is whole and not of an iteration after `iteration`."""
    try:
        return json.loads(line)['iteration'] <= iteration
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


def random_state():
    """The state of every generator that training draws from, as plain arrays."""
    state = {'torch': torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        state['cuda'] = [one.numpy() for one in torch.cuda.get_rng_state_all()]
    return state


def restore_random(state):
    """Put back what `random_state` took."""
    torch.set_rng_state(torch.from_numpy(np.array(state['torch'])))
    if torch.cuda.is_available() and len(state.get('cuda', ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.from_numpy(np.array(one)) for one in state['cuda']])


if __name__ == '__main__':
    run_command(main)
