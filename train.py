"""Train an image captioner; `python train.py --help` lists the options.

With `torchrun --nproc_per_node N train.py ...` N processes share the images of every batch; the training
is the same.
"""

import contextlib
import json
import os
import signal
import time

# How long torch's threads spin before they sleep when they wait for one another; the library reads it
# when it is loaded.  Left alone they spin for milliseconds, which on a shared machine makes small steps
# ten times slower; without any spinning small steps take three times as long on a quiet one.
os.environ.setdefault('GOMP_SPINCOUNT', '2000')

import numpy as np
import torch

import models
import opts
from dataloader import TrainBatches, image_batches, worker_errors
from misc import parallel
from misc.cli import DataError, UsageError, note, run_command
from misc.dataset.corpus import Corpus
from misc.dataset.labels import caption_width
from misc.disk import filesets
from misc.evaluation.captioning import caption_images, evaluating, mean_loss, words_of
from misc.machine import memory_errors, pick_device, precision
from misc.run import checkpoint, record
from misc.run.events import EventWriter
from misc.run.histories import VALIDATIONS
from misc.training.draws import chances
from misc.training.finite import LateFlags, all_finite_numbers, guarded_step, refusal
from misc.training.losses import all_finite, caption_loss, self_critical_loss
from misc.training.optim import (
    NOAM_BETAS,
    NOAM_EPSILON,
    Plateau,
    build_optimiser,
    clip_by_value,
    decayed_rate,
    noam_rate,
    sampling_probability,
    set_rate,
)
from misc.training.rewards import mean_statistics, table_path
from models.decoding import sample

HISTORIES = ('val_result_history', 'loss_history', 'lr_history', 'ss_prob_history')


def main():
    """Parse the options, check them and the files, train."""
    # The death of a process that reads is told wherever the training is at that moment.
    with parallel.processes(), worker_errors(), contextlib.ExitStack() as held:
        options, given = parallel.together(opts.train_options)
        parallel.on_main(lambda: held.enter_context(filesets.only_writer(options.checkpoint_path)))
        return parallel.together(lambda: set_up(options, given)).run()


def set_up(options, given):
    """The `Training` that the options describe."""
    run = None
    stays = bool(options.start_from) and is_folder(options.start_from, options.checkpoint_path)
    if options.start_from:
        run = checkpoint.find_run(options.start_from, options.id, caption_width(options.input_label_h5))
        options = opts.with_model_options(options, given, run.infos['opt'], run.infos_path)
        options, rates = opts.with_dropout_rates(options, given, run.infos['opt'], run.infos_path)
        if rates:
            listed = ', '.join(f'{name} {rate}' for name, rate in rates.items())
            note(f'note: {listed}, as older code had in this run; to change that, give the flags')
        # The best model so far is in the old folder, so it is the best of this run only if it stays.
        options = opts.replaced(options, load_best_score=options.load_best_score and stays)
    if not stays and os.path.exists(os.path.join(options.checkpoint_path,
                                                 checkpoint.infos_name(options.id))):
        raise UsageError(f'--checkpoint_path {options.checkpoint_path} already holds the run '
                         f'{options.id}; go on with it by --start_from {options.checkpoint_path}, '
                         'or name another folder')
    options = opts.checked_model(options, given, run and run.infos_path)
    opts.check_scheduled_sampling(options)
    opts.check_batch_norm(options, parallel.count())
    unused = opts.unused(options, given)
    if unused:
        note(f'note: --caption_model {options.caption_model} makes no use of --{", --".join(unused)}')
    return Training(options, run)


def is_folder(one, other):
    """Whether two paths are of one folder."""
    return os.path.realpath(one) == os.path.realpath(other)


class Training:
    """One run: the model, its data, and everything a resumed run needs."""

    def __init__(self, options, run):
        """`run`: the `checkpoint.Run` to go on from, or None."""
        self.options = options
        self.device = pick_device(options.device)
        torch.manual_seed(options.seed)
        self.corpus = corpus = Corpus(opts.sources(options))
        self.longest = corpus.labels.longest
        options.vocab_size, options.seq_length = len(corpus.vocabulary), self.longest
        self.model = models.build(options, options.vocab_size + 1, self.longest).to(self.device)
        self.parameters = list(self.model.parameters())
        corpus.open_for(self.model.needs)
        train_rows = corpus.rows('train', options.train_only)
        limit = None if options.val_images_use < 0 else options.val_images_use
        self.val_rows = corpus.rows('val')[:limit]
        corpus.check_files(train_rows + self.val_rows)
        has_rewards = options.self_critical_after >= 0 and (
            options.max_epochs < 0 or options.self_critical_after < options.max_epochs)
        # How regions of other pictures are to be found, for eval.py --image_folder.
        self.regions = corpus.region_recipe()
        self.rewards = self._rewards(train_rows) if has_rewards else None
        self.references = self._references() if options.language_eval or has_rewards else None
        self.decode = models.build_decoder(options, self.longest, corpus.vocabulary)
        self._resume(run)
        if parallel.is_main():
            self._take_account(run, train_rows + self.val_rows)
        self.batches = TrainBatches(corpus, train_rows, options.batch_size, options.seq_per_img,
                                    options.seed, options.num_workers, run and run.infos.get('loader'),
                                    pin=self.device.type == 'cuda')
        self.flags = LateFlags()
        self.last_step = None  # its number, epoch, learning rate and images
        self.asked = self.stopped_by = 0  # signals: that came to this process, and that all have heard of
        self.announced = False
        if self.first_cider is not None and not has_rewards:
            note('warning: this run was in self-critical training; without --self_critical_after it goes on '
                 'with cross-entropy')

    def _rewards(self, rows):
        """What the self-critical phase rewards, its table checked against the captions of `rows`."""
        from misc.training.rewards import Rewards, check_table, load_cider
        options, corpus = self.options, self.corpus
        row_of = {corpus.ids[row]: row for row in rows}
        cider = load_cider(options.cached_tokens)
        found = check_table(cider, {corpus.ids[row]: corpus.captions(row) for row in rows[:500]})
        note(f'{cider.name} holds {found["coverage"]:.1%} of the n-grams of the training captions, which '
             f'score {found["score"]:.2f} against each other')
        return Rewards(cider, lambda image_id: corpus.captions(row_of[image_id]), self.longest,
                       options.cider_reward_weight, options.bleu_reward_weight, options.sc_baseline)

    def _references(self):
        """{image id: captions} of the validation images; the words of the labels stand in for
        captions that --input_json lacks, as files made elsewhere may."""
        corpus = self.corpus
        bare = [row for row in self.val_rows if not corpus.images[row].get('captions')]
        if bare:
            note(f'note: {len(bare)} of {len(self.val_rows)} validation images have no captions in '
                 f'{self.options.input_json}; those of the labels, with their UNK, are scored against')
        return {corpus.ids[row]: corpus.images[row].get('captions') or [
            ' '.join(words_of(words, corpus.vocabulary)) for words in corpus.captions(row).tolist()]
            for row in self.val_rows}

    def _resume(self, run):
        """Set up the optimiser and counters, from `run` where given."""
        options = self.options
        betas = (options.optim_alpha, options.optim_beta)
        settings = (NOAM_BETAS, NOAM_EPSILON) if options.noamopt else (betas, options.optim_epsilon)
        self.optimiser = build_optimiser(
            self.model.parameters(), 'adam' if options.noamopt else options.optim, *settings[0],
            epsilon=settings[1], weight_decay=options.weight_decay)
        self.iteration, self.best_score, self.best_measure = 0, None, None
        self.histories = {name: {} for name in HISTORIES}
        self.plateau = Plateau()
        self.validations = []  # the lines of validations.jsonl
        self.first_cider = None  # on validation, when the self-critical phase started
        if run is None:
            restore_random({}, options.seed, self.device)
            return
        folder, infos = options.start_from, run.infos
        if infos['vocab'] != self.corpus.vocabulary:
            raise DataError(f'the vocabulary of {options.input_json} is not that of {run.infos_path}; '
                            'give the --input_json it was trained with')
        if infos['opt']['seq_length'] != self.longest:
            raise DataError(f'{options.input_label_h5} has captions of up to {self.longest} words, the run of '
                            f"{run.infos_path} of up to {infos['opt']['seq_length']}; give the --input_label_h5 "
                            'it was trained with')
        checkpoint.take_weights(self.model, run)
        checkpoint.take_optimiser(self.optimiser, self.model, run)
        run.weights = None  # as large as the model
        self.iteration = infos['iter']
        self.histories.update(infos.get('histories') or {})
        self.plateau = Plateau(infos.get('plateau'))
        self.validations = infos.get('validations') or []
        self.first_cider = infos.get('first_cider')
        if options.load_best_score:
            self.best_score, self.best_measure = infos.get('best_val_score'), infos.get('best_measure')
        restore_random(infos, options.seed, self.device)
        self._print(f'going on from {folder} at iteration {self.iteration}, epoch {infos["epoch"]}')

    def _take_account(self, run, rows):
        """Take down what the run is of, for the main process to write, and hold it against what `run` was of
        (runs of older code do not say)."""
        options = self.options
        table = table_path(options.cached_tokens) if self.rewards else None
        self.account = record.account_of(self.corpus, rows, self.device, table)
        before = run and run.infos.get('account')
        if before is not None:
            record.check_data(before, self.account, vars(options), run.infos_path,
                              stays=is_folder(options.start_from, options.checkpoint_path))
            record.note_changes(before, self.account, run.infos['opt'], vars(options), opts.course(options))

    def run(self):
        """Train to the last epoch, or until SIGINT or SIGTERM; returns the exit status."""
        parallel.together(self._open_logs)
        before = {number: signal.signal(number, self._on_signal)
                  for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with memory_errors('--batch_size'):
                return self._loop()
        finally:
            self.batches.close()
            self.events.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _loop(self):
        """Steps, validations and checkpoints; returns the exit status."""
        options = self.options
        self.model.train()
        if self._is_over() and self._is_validated():
            self._print(f'nothing to do: epoch {self._epoch()} of --max_epochs {options.max_epochs} '
                        'is reached')
            return 0
        while not self._is_stopped() and not self._is_over():
            if self._is_self_critical() and not self.announced:
                self._announce_self_critical()
            self._step()
            if self.iteration % options.perform_validation_every == 0:
                self._validate()
            elif self.iteration % options.save_checkpoint_every == 0:
                self._save()
        if self.stopped_by:
            self._save()
            self._print(f'stopped by {signal.Signals(self.stopped_by).name} after iteration '
                        f'{self.iteration}; saved. Go on with the same command and '
                        f'--start_from {options.checkpoint_path}')
            return 128 + self.stopped_by
        if not self._is_validated():
            self._validate()
        return 0

    def _epoch(self):
        """The epoch that the next batch belongs to."""
        return self.batches.epoch + self.batches.epoch_is_over

    def _is_self_critical(self, epoch=None):
        """Whether rewards train in `epoch` (default: that of the next batch)."""
        epoch = self._epoch() if epoch is None else epoch
        return self.rewards is not None and epoch >= self.options.self_critical_after

    def _is_validated(self):
        """Whether the model as it is now has been validated (and so saved)."""
        return bool(self.validations) and self.validations[-1]['iteration'] == self.iteration

    def _is_stopped(self):
        """Whether a signal came to any process; all of them ask at the same time."""
        self.stopped_by = parallel.most(self.asked)
        return self.stopped_by > 0

    def _is_over(self):
        return 0 <= self.options.max_epochs <= self._epoch()

    def _on_signal(self, number, _):
        # Asked twice: leave at once, the last checkpoint stands.  With several processes the signal may
        # well come twice, from the batch system and from torchrun, which kills those that take too long.
        if self.asked and parallel.count() == 1:
            os._exit(128 + number)
        self.asked = number

    def learning_rate(self, epoch):
        """The rate of the next step, a function of its number, its epoch and the plateaus seen."""
        options = self.options
        scale = self.plateau.scale if options.reduce_on_plateau else 1.0
        if options.noamopt:
            return scale * noam_rate(self.iteration + 1, options.input_encoding_size,
                                     options.noamopt_warmup, options.noamopt_factor)
        if options.reduce_on_plateau:
            return scale * options.learning_rate
        return decayed_rate(options.learning_rate, epoch, options.learning_rate_decay_start,
                            options.learning_rate_decay_every, options.learning_rate_decay_rate)

    def own_words(self, epoch):
        """The probability of scheduled sampling in an epoch; rewarded samples are the model's own words
        already."""
        options = self.options
        if self._is_self_critical(epoch):
            return 0.0
        return sampling_probability(
            epoch, options.scheduled_sampling_start, options.scheduled_sampling_increase_every,
            options.scheduled_sampling_increase_prob, options.scheduled_sampling_max_prob)

    def _step(self):
        """One batch: loss, gradients, one step of the optimiser, logs."""
        self.optimiser.zero_grad(set_to_none=True)
        batch, total, tokens, statistics = parallel.together(self._gradients)
        loss = parallel.mean_gradients(self.parameters, total, tokens)
        rate = self.learning_rate(batch.epoch)
        set_rate(self.optimiser, rate)
        self.last_step = self.iteration + 1, batch.epoch, rate, batch.image_ids
        self._update(loss, self.last_step)
        self.iteration += 1
        if self.iteration % self.options.losses_log_every == 0:
            self._log_step(float(loss), rate, batch.epoch, statistics)

    def _gradients(self):
        """Leave the gradients of the next batch (of several processes, of this one's part) with the
        parameters, as sums over its tokens -> (the batch, the sum of its loss, its tokens, statistics of
        the rewards).  Where nothing is to be added up it is the mean at once, and `tokens` are 1.
        """
        batch = self.batches.next()
        parts = batch.split(self.options.accumulate)
        alone = len(parts) == 1 and parallel.count() == 1
        total, tokens, statistics = torch.zeros((), device=self.device), 0, []
        for part in parts:
            terms, found = self._loss(part.to(self.device))
            weight = 1 if alone else terms['tokens']
            loss = terms['loss'] * weight
            loss.backward()
            total, tokens = total + loss.detach(), tokens + weight
            statistics.append((len(part), found))
        return batch, total, tokens, statistics

    def _update(self, loss, about):
        """One step of the optimiser.  Where the loss or a gradient is not finite the weights stay as they
        are and the run ends: on the CPU at once, on a CUDA device, which is not waited for, a step later."""
        finite = all_finite(loss, self.parameters)
        clip_by_value(self.parameters, self.options.grad_clip)
        if self.device.type == 'cuda':
            guarded_step(self.optimiser, finite)
            self._refuse(self.flags.send(finite, about))
        elif finite:
            self.optimiser.step()
        else:
            self._refuse(about)

    def _check_last_step(self):
        """End the run if its last step was not finite, or left weights that are not: a loss and gradients
        may be finite and the step too large."""
        self._refuse(self.flags.settle())
        if self.last_step and parallel.most(int(not all_finite_numbers(self.model.state_dict()))):
            self._refuse(self.last_step, 'a weight is, after this step,')

    def _refuse(self, about, what='the loss or a gradient is'):
        """End the run because of a step that was not finite; None is no such step."""
        if about is None:
            return
        iteration, epoch, rate, image_ids = about
        ids = sum(parallel.gathered(lambda: image_ids), [])

        def refuse():
            raise refusal(f'iteration {iteration} (epoch {epoch}, learning rate {rate:.3g}): ', what, ids,
                          self.options.checkpoint_path)
        parallel.together(refuse)

    def _loss(self, batch):
        """The terms of the phase's loss, and the statistics of its rewards."""
        if self.options.scheduled_sampling_start >= 0:
            self.model.scheduled_sampling_prob = self.own_words(batch.epoch)
        if self._is_self_critical(batch.epoch):
            return self._self_critical_loss(batch)
        with precision(self.device, self.options.amp):
            return caption_loss(self.model, batch, self.options.label_smoothing), {}

    def _announce_self_critical(self):
        """Say what the phase rewards and at which rate; where it starts, validate: what it has to stay
        above."""
        options, self.announced = self.options, True
        if self.first_cider is None:
            self.plateau = Plateau()
        kind = ('the warm-up schedule' if options.noamopt else
                'reduced on plateaus' if options.reduce_on_plateau else
                f'times {options.learning_rate_decay_rate:g} every {options.learning_rate_decay_every} epochs '
                f'from epoch {options.learning_rate_decay_start}'
                if options.learning_rate_decay_start >= 0 else 'constant')
        told = ', '.join(f'{name} {opts.show(value)}' for name, value in self.rewards.describe().items())
        self._print(f'self-critical training from epoch {self._epoch()}: learning rate '
                    f'{self.learning_rate(self._epoch()):.4g} ({kind}); {told}')
        if self.first_cider is None:
            self._validate()

    def _self_critical_loss(self, batch):
        """Sample, reward, and one teacher-forced pass -> (the terms of the loss, statistics of the rewards).

        The words that are drawn depend on the seed, the epoch and the image, so that neither the number
        of processes nor that of the parts of a batch changes them.
        """
        options, greedy = self.options, None
        if options.sc_baseline == 'greedy':
            with evaluating(self.model), precision(self.device, options.amp):
                greedy = sample(self.model, self.model.encode(batch), self.longest, greedy=True).captions[:, 0]
        drawn = chances([(options.seed, batch.epoch, image, 1) for image in batch.images], options.sc_samples,
                        self.longest, self.device)
        with torch.no_grad(), precision(self.device, options.amp):  # dropout stays on
            samples = sample(self.model, self.model.encode(batch), self.longest, copies=options.sc_samples,
                             uniforms=drawn).captions
        advantage, statistics = self.rewards(batch.image_ids, samples, greedy)
        advantage = torch.from_numpy(advantage).to(self.device)
        with precision(self.device, options.amp):
            return self_critical_loss(self.model, batch, samples, advantage), statistics

    def _log_step(self, loss, rate, epoch, statistics):
        statistics = mean_statistics(sum(parallel.gathered(lambda: statistics), []))
        self.histories['loss_history'][self.iteration] = loss
        self.histories['lr_history'][self.iteration] = rate
        self.histories['ss_prob_history'][self.iteration] = self.own_words(epoch)
        self.events.add_scalar('train_loss', loss, self.iteration)
        self.events.add_scalar('learning_rate', rate, self.iteration)
        for name, value in statistics.items():
            self.events.add_scalar(f'self_critical_{name}', value, self.iteration)
        if statistics:
            self.histories.setdefault('reward_history', {})[self.iteration] = statistics
        speed = self.batches.images_read / (time.monotonic() - self.started - self.paused)
        line = (f'iteration {self.iteration} (epoch {epoch}, {self.batches.position} of '
                f'{self.batches.images} images): loss {loss:.4f}, learning rate {rate:.3g}, ')
        line += ''.join(f'{name} {value:.3f}, ' for name, value in statistics.items())
        line += f'{speed:.1f} images/s, waited {100 * self._waited(self.logged):.1f} %'
        self.logged = self._clock()
        if self.options.max_epochs >= 0:
            left = ((self.options.max_epochs - epoch) * self.batches.images
                    - self.batches.position) / speed
            line += f', {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d} left'
        self._print(line)

    def _clock(self):
        """Now, and the seconds that batches were waited for so far."""
        return time.monotonic(), self.batches.waited

    def _waited(self, since):
        """The share of the time since then, an earlier `_clock`, that batches were waited for."""
        (now, waited), (then, before) = self._clock(), since
        return (waited - before) / max(now - then, 1e-9)

    def _validate(self):
        """Loss and, when asked, language scores of the validation images; log and save them."""
        self._check_last_step()
        options, waited = self.options, self._waited(self.validated)
        started = time.monotonic()
        scores = {'loss': mean_loss(
            self.model, self._val_batches(options.seq_per_img), self.device, len(self.val_rows),
            f'validation at iteration {self.iteration} (epoch {self._epoch()}, learning rate '
            f'{self.learning_rate(self._epoch()):.3g}): ', options.checkpoint_path)}
        if options.language_eval or self._is_self_critical():
            scores.update(self._language_scores())
        measure, score = ('CIDEr', scores['CIDEr']) if 'CIDEr' in scores else ('loss', -scores['loss'])
        is_best = (self.best_score is None or self.best_measure != measure or score > self.best_score)
        if is_best:
            self.best_score, self.best_measure = score, measure
        if options.reduce_on_plateau:
            self.plateau.see(score, measure)
        self.histories['val_result_history'][self.iteration] = scores
        for name, value in scores.items():
            self.events.add_scalar(f'validation_{name}', value, self.iteration)
        record = {'iteration': self.iteration, 'epoch': self._epoch(), **scores, 'best': is_best,
                  'seconds': round(time.monotonic() - started, 2), 'waited': round(waited, 4)}
        self.validations.append(record)
        listed = ', '.join(f'{name} {value:.4f}' for name, value in scores.items())
        self._print(f'validation at iteration {self.iteration}: {listed}{" (best)" if is_best else ""}')
        self._watch_cider(scores)
        self._save(is_best)
        self.paused += time.monotonic() - started
        self.logged = self.validated = self._clock()

    def _val_batches(self, captions_per_image=0):
        """The batches of the validation images, this process's share of them."""
        options = self.options
        return image_batches(self.corpus, self.val_rows, options.batch_size, options.num_workers,
                             captions_per_image, options.seed, pin=self.device.type == 'cuda')

    def _watch_cider(self, scores):
        """Remember the CIDEr that the self-critical phase started with; warn when it has halved."""
        if not self._is_self_critical():
            return
        if self.first_cider is None:
            self.first_cider = scores['CIDEr']
        elif scores['CIDEr'] < self.first_cider / 2:
            note(f'warning: validation CIDEr {scores["CIDEr"]:.3f} is under half of the {self.first_cider:.3f} '
                 'that self-critical training started with; the model is coming apart.  Go back to '
                 'model-best.pth and try a lower --learning_rate, a smaller --grad_clip, or --sc_baseline mean')

    def _language_scores(self):
        results = caption_images(
            self.model, self._val_batches(), self.decode, self.corpus.images, self.corpus.vocabulary,
            self.device, len(self.val_rows), self.options.seed)
        return parallel.on_main(lambda: self._score(results))

    def _score(self, results):
        """The scores of captions of the validation images."""
        from misc.scoring.metrics import score
        overall, _, notes = score({image.image_id: image.first.text for image in results},
                                  self.references)
        for line in notes:
            note(f'note: {line}')
        return overall

    def _save(self, is_best=False):
        """Write the run's folder as one set of files."""
        self._check_last_step()
        # That of the last step would not be known to a run that is resumed and saves before it takes one.
        set_rate(self.optimiser, self.learning_rate(self._epoch()))
        random = parallel.gathered(lambda: random_state(self.device))
        folder = self.options.checkpoint_path
        parallel.on_main(lambda: self._write(folder, self._files(random, is_best)))

    def _write(self, folder, files):
        """Save the set, or say what became of it and of the one before."""
        self.events.flush()  # before the checkpoint counts: what comes later will be written again
        try:
            filesets.save_set(folder, files)
        except OSError as error:
            named = checkpoint.infos_name(self.options.id)
            way_out = (f'the checkpoint before it is whole; put that right and go on with the same command and '
                       f'--start_from {folder}' if filesets.exists(os.path.join(folder, named)) else
                       'nothing was saved before; put that right and start again')
            raise DataError(f'no checkpoint could be written at iteration {self.iteration}: '
                            f'{error.strerror or error}: {error.filename or folder}\n{way_out}') from None

    def _files(self, random, is_best):
        """What a checkpoint consists of, {name: bytes}; `random`: the processes' `random_state`s."""
        options, loader = self.options, self.batches.state()
        infos = {'opt': options, 'vocab': self.corpus.vocabulary, 'iter': self.iteration,
                 'epoch': loader['epoch'], 'best_val_score': self.best_score,
                 'best_measure': self.best_measure, 'loader': loader, 'plateau': self.plateau.state(),
                 'random': random[0], 'random_of_others': random[1:], 'histories': self.histories,
                 'validations': self.validations, 'first_cider': self.first_cider,
                 'reward': self.rewards and self.rewards.describe(), 'regions': self.regions,
                 'account': self.account}
        weights, infos = checkpoint.tensor_bytes(self.model.state_dict()), checkpoint.pickle_bytes(infos)
        files = {'model.pth': weights, checkpoint.infos_name(options.id): infos,
                 'optimizer.pth': checkpoint.tensor_bytes(self.optimiser.state_dict()),
                 f'histories_{options.id}.pkl': checkpoint.pickle_bytes(self.histories),
                 VALIDATIONS: ''.join(json.dumps(line) + '\n' for line in self.validations).encode()}
        if is_best:
            files.update({'model-best.pth': weights, checkpoint.infos_name(options.id, best=True): infos})
        return files

    def _open_logs(self):
        """TensorBoard events, the record of this start, and the clocks of the log lines."""
        folder = self.options.checkpoint_path
        self.events = EventWriter(folder if parallel.is_main() else None, self.iteration)
        if parallel.is_main():
            record.write_start(folder, self.account, vars(self.options), self.iteration, self.options.start_from)
        self.started, self.paused = time.monotonic(), 0.0  # the latter: seconds of validations
        self.logged = self.validated = self._clock()

    def _print(self, line):
        print(line, flush=True)


def random_state(device):
    """The state of the generators that this process draws dropout and the words of scheduled sampling from,
    as plain arrays (what a batch holds and rewarded samples are drawn by seed, epoch and image alone)."""
    state = {'torch': torch.get_rng_state().numpy()}
    if device.type == 'cuda':
        state['cuda'] = [torch.cuda.get_rng_state(device).numpy()]
    return state


def restore_random(infos, seed, device):
    """Put back what `random_state` took of the process of this rank.  A rank, or its device, that had no part
    in the run so far begins with numbers of its own."""
    rank = parallel.rank()
    if rank:
        own = np.random.SeedSequence((seed, infos.get('iter', 0), rank))
        torch.manual_seed(int(own.generate_state(1)[0]))
    states = ([infos['random']] if 'random' in infos else []) + list(infos.get('random_of_others', ()))
    if rank < len(states):
        torch.set_rng_state(torch.from_numpy(np.array(states[rank]['torch'])))
        if device.type == 'cuda' and 'cuda' in states[rank]:
            torch.cuda.set_rng_state(torch.from_numpy(np.array(states[rank]['cuda'][0])), device)


if __name__ == '__main__':
    run_command(main)
