"""Train an image captioner; `python train.py --help` lists the options.

With `torchrun --nproc_per_node N train.py ...` N processes share the images of every batch, and the training is the
same.
"""

import contextlib
import functools
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from misc.run.early import EARLY

if __name__ == '__main__':
    EARLY.catch()  # before the libraries are loaded, which takes seconds

# How long torch's threads spin before they sleep while they wait for one another; read when the library is
# loaded.  By default they spin for milliseconds, which makes small steps ten times slower on a shared machine;
# without any spinning, small steps take three times as long on a quiet one.
os.environ.setdefault('GOMP_SPINCOUNT', '2000')

import torch

import models
import opts
from dataloader import Batch, TrainBatches, image_batches, worker_errors
from misc import parallel
from misc.cli import note, run_command
from misc.dataset.corpus import Corpus
from misc.dataset.features import feature_width
from misc.dataset.labels import caption_width
from misc.evaluation.captioning import Interrupted, evaluating
from misc.evaluation.validation import Validation, reference_captions
from misc.machine import memory_errors, pick_device, precision
from misc.run import onward, record
from misc.run.folder import RunFolder, TrainingState, check_size, find_run, random_state, resume
from misc.run.log import RunLog
from misc.run.signals import StopSignals
from misc.run.status import Status, reported
from misc.run.timer import SaveTimer
from misc.scoring.endings import forbidden_endings
from misc.scoring.references import kind_of
from misc.training.averaging import WeightAverage
from misc.training.draws import uniform_numbers
from misc.training.losses import caption_loss, self_critical_loss
from misc.training.optim import set_rate
from misc.training.rewards import Rewards, load_rewards, mean_statistics
from misc.training.schedule import Plan, Plateau, Schedule, measure_of
from misc.training.step import Step, Updater
from misc.training.transfers import Arriving, to_device
from models.base import CaptionModel, caption_lengths, dropping_words
from models.decoding import sample
from models.graphs import Run, run_directly
from models.packing import Counts
from models.step_graphs import StepGraphs

# A phase of training: a batch -> (the terms of its loss, the statistics of its rewards).
Phase = Callable[[Batch], tuple[dict[str, Any], dict[str, float]]]


def main() -> int:
    """Parse the options, build the run, train; returns the exit status."""
    # A dead loader worker is reported wherever the training is at that moment.
    with parallel.processes(), worker_errors(), contextlib.ExitStack() as held:
        early = held.enter_context(EARLY)
        options, given = parallel.together(opts.train_options)
        folder = RunFolder(options.checkpoint_path, options.id)
        parallel.on_main(lambda: held.enter_context(folder.writer()))
        status = held.enter_context(reported(folder, early))
        return train(parallel.together(lambda: build(options, given, folder, status)))


def cross_entropy(model: CaptionModel, batch: Batch, *, smoothing: float, word_dropout: float, blank: int,
                  amp: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The first phase: all captions of a batch, teacher forced (`misc.training.losses` has the formula)."""
    with precision(batch.device, amp), dropping_words(model, word_dropout, blank):
        return caption_loss(model, batch, smoothing), {}


def self_critical(model: CaptionModel, rewards: Rewards, batch: Batch, *, samples: int, longest: int,
                  seed: int, amp: str, run: Run = run_directly) -> tuple[dict[str, Any], dict[str, float]]:
    """The second phase: sample captions, reward them, one teacher-forced pass (Rennie et al. 2017, equation 8).

    The words that are sampled depend on the seed, the epoch and the image, so neither the number of processes nor
    `--accumulate` changes them.
    """
    def encoded() -> Any:
        return model.encode(batch) if shared is None else shared

    def advantage() -> torch.Tensor:
        found, means = rewards(batch.image_ids, words[:, :samples], words[:, samples] if baseline else None)
        statistics.update(means)
        return to_device(found, batch.device)

    shared: Any = None
    if model.trains_as_it_evaluates():  # then one encoding serves all passes
        with precision(batch.device, amp):
            shared = model.encode(batch)
    uniforms = uniform_numbers([(seed, batch.epoch, image, 1) for image in batch.images], samples, longest,
                               batch.device)
    baseline: list[torch.Tensor] = []
    if rewards.baseline == 'greedy':
        with evaluating(model), precision(batch.device, amp):
            baseline = [run(sample, model, encoded(), longest=longest, greedy=True).captions]
    # Dropout stays on: the captions are samples of the very model that the gradient is taken of.
    with torch.no_grad(), precision(batch.device, amp):
        sampled = run(sample, model, encoded(), uniforms, longest=longest, copies=samples).captions
    arriving = Arriving(torch.cat([sampled, *baseline], 1))
    statistics: dict[str, float] = {}
    with precision(batch.device, amp):
        memory, words = encoded(), arriving.numbers()  # the host waits for the device only here
        lengths = Counts(caption_lengths(words[:, :samples]), (sampled > 0).sum(2).flatten())
        return self_critical_loss(model, memory, sampled, advantage, lengths), statistics


@dataclass(frozen=True)
class Phases:
    """Cross-entropy, and from epoch `start` on self-critical training with `rewards` (None: never)."""

    cross_entropy: Phase
    self_critical: Phase | None
    start: int
    rewards: Rewards | None

    def is_self_critical(self, epoch: int) -> bool:
        """Whether `epoch` belongs to the second phase."""
        return self.self_critical is not None and epoch >= self.start

    def of(self, epoch: int) -> Phase:
        """The phase of an epoch."""
        if self.self_critical is None or not self.is_self_critical(epoch):
            return self.cross_entropy
        return self.self_critical


@dataclass(frozen=True)
class Training:
    """A run that is ready to train.

    `start()` opens its log and adds this start to its record, `write(loader, random, is_best, trained)` writes a
    checkpoint into `folder`.  `validation` is None for a training without validation; `recorded` computes the
    gradients of the first phase, where CUDA graphs can.
    """

    model: CaptionModel
    average: WeightAverage
    updater: Updater
    batches: TrainBatches
    state: TrainingState
    phases: Phases
    schedule: Schedule
    plan: Plan
    validation: Validation | None
    log: RunLog
    folder: str
    device: torch.device
    stop: StopSignals
    timer: SaveTimer
    status: Status
    recorded: StepGraphs | None
    start: Callable[[], None]
    write: Callable[[dict[str, Any], list[dict[str, Any]], bool, dict[str, torch.Tensor] | None], None]

    def rate(self, epoch: int) -> float:
        """The learning rate of the next step, which belongs to `epoch`."""
        state, before = self.state, None
        if self.phases.is_self_critical(epoch):
            before = state.iteration if state.self_critical_from is None else state.self_critical_from
        return self.schedule.rate(state.iteration + 1, epoch, state.plateau.scale, before)

    def sampling(self, epoch: int) -> float:
        """The probability of scheduled sampling; sampled captions are the model's own words already."""
        return 0.0 if self.phases.is_self_critical(epoch) else self.schedule.sampling_probability(epoch)

    def is_complete(self) -> bool:
        """Whether the weights as they are now were validated and saved; without validation, saved."""
        return self.state.is_validated if self.validation else self.state.is_saved

    def end(self) -> str:
        """Why there is nothing left to train, in words; '' if there is."""
        epoch, validations = self.batches.next_epoch, self.state.validations_without_best
        if self.plan.is_over(epoch):
            return f'epoch {epoch} of --max_epochs {self.plan.max_epochs} is reached'
        begins_phase = self.phases.is_self_critical(epoch) and self.state.self_critical_from is None
        if self.plan.has_lost_patience(validations) and not begins_phase:
            return f'no new best in the last {validations} validations (--patience {self.plan.patience})'
        return ''


def train(run: Training) -> int:
    """Train to the end, or until a signal (`misc.run.signals`); returns the exit status."""
    batches, state, plan = run.batches, run.state, run.plan
    is_self_critical = False
    with (contextlib.closing(batches), contextlib.closing(run.log), run.stop as stop,
          memory_errors('--batch_size (or raise --accumulate, which leaves the training the same)')):
        parallel.together(run.start)
        run.model.train()
        if run.end() and run.is_complete():
            return finish(run, f'nothing to do: {run.end()}')
        while not stop.asked() and not run.end():
            if state.validation_due:
                validate(run)
            elif run.phases.is_self_critical(batches.next_epoch) and not is_self_critical:
                begin_self_critical(run)
                is_self_critical = True
            else:
                train_step(run, run.phases.of(batches.next_epoch))
                if plan.validates(state.iteration, batches.epoch_is_over):
                    validate(run)
                elif is_save_due(run):
                    save(run)
        if not stop.agreed and not run.is_complete():
            validate(run)
        if stop.asked() and not (run.end() and run.is_complete()):
            save(run)
            run.log.print(f'stopped by {stop.name} after iteration {state.iteration}; saved. Go on with: '
                          f'{parallel.launcher()} train.py --resume {run.folder}')
            run.status.write('stopped', signal=stop.name)
            return stop.status
        return finish(run, '' if plan.is_over(batches.next_epoch) else f'stopped early: {run.end()}')


def is_save_due(run: Training) -> bool:
    """Whether to save after this step.  The clock is asked when a step is logged: processes then meet anyway."""
    iteration, plan = run.state.iteration, run.plan
    return iteration % plan.save_every == 0 or iteration % plan.log_every == 0 and run.timer.is_due()


def finish(run: Training, message: str) -> int:
    """The end of a run that has nothing left to train; returns the exit status."""
    if message:
        run.log.print(message)
    print(f'finished: {run.state.iteration} iterations; next: python eval.py --run {shlex.quote(run.folder)} '
          '--language_eval 1')
    run.status.write('finished')
    return 0


def train_step(run: Training, phase: Phase) -> None:
    """One batch: loss, gradients, one step of the optimiser; logged now and then."""
    run.updater.optimiser.zero_grad(set_to_none=True)
    run.model.scheduled_sampling_prob = run.sampling(run.batches.next_epoch)
    batch, loss, statistics = gradients(run, phase)
    step = Step(run.state.iteration + 1, batch.epoch, run.rate(batch.epoch), batch.image_ids)
    run.updater.update(loss, step)
    run.state.iteration += 1
    run.average.update(run.state.iteration)
    run.log.took(step, loss)
    if run.state.iteration % run.plan.log_every == 0:
        log_step(run, step, float(loss), statistics)


def gradients(run: Training, phase: Phase) -> tuple[Batch, torch.Tensor, list[tuple[int, dict[str, float]]]]:
    """Leave the gradients of the next batch's mean loss with the parameters -> (this process's share of the batch,
    the mean loss, [(images, statistics of their rewards)]).

    A batch is worked through in `accumulate` parts, and shared by the processes; their gradients are sums over their
    tokens, which are added up.  Where there is only one part, its mean is taken at once.
    """
    joint = run.updater.joint
    statistics: list[tuple[int, dict[str, float]]] = []
    total, tokens = torch.zeros((), device=run.device), 0
    with joint.step():
        batch = run.batches.next()
        parts = batch.split(run.plan.accumulate)
        alone = len(parts) == 1 and not joint.shared
        for part in parts:
            if run.recorded is not None and phase is run.phases.cross_entropy:
                total, tokens = run.recorded(part), 1
                statistics.append((len(part), {}))
                continue
            terms, found = phase(part.to(run.device))
            weight = 1 if alone else terms['tokens']
            loss = terms['loss'] * weight
            if part is parts[-1]:
                joint.last_part()
            loss.backward()
            total, tokens = total + loss.detach(), tokens + weight
            statistics.append((len(part), found))
        mean = joint.mean(total, tokens)
    return batch, mean, statistics


def log_step(run: Training, step: Step, loss: float, statistics: list[tuple[int, dict[str, float]]]) -> None:
    """Log a step with the statistics of all processes."""
    run.log.step(step.iteration, step.epoch, loss, step.rate, run.sampling(step.epoch),
                 mean_statistics(sum(parallel.gathered(lambda: statistics), [])))


def begin_self_critical(run: Training) -> None:
    """Start the second phase, or go on with it: log the settings, prepare the references.

    At its start the plateau is reset, and the model validated: a later CIDEr below half of this one triggers a
    warning.
    """
    assert run.phases.rewards is not None
    epoch = run.batches.next_epoch
    if run.state.self_critical_from is None:
        run.state.self_critical_from = run.state.iteration
        run.state.plateau = Plateau()
    settings = ', '.join(f'{name} {opts.show(value)}' for name, value in run.phases.rewards.describe().items())
    run.log.print(f'self-critical training from epoch {epoch}: learning rate {run.rate(epoch):.4g} '
                  f'({run.schedule.describe()}); {settings}')
    run.phases.rewards.prepare()
    if run.validation and run.state.cider.first is None:
        validate(run)


def validate(run: Training) -> None:
    """Loss and, where wanted, language scores of the validation images; logged and saved.  Without validation only
    saved."""
    if run.validation is None:
        run.state.validation_due = False
        save(run)
        return
    run.updater.check()
    state, epoch = run.state, run.batches.next_epoch
    is_self_critical = run.phases.is_self_critical(epoch)
    waited, started = run.log.waited_since_validation(), time.monotonic()
    context = f'validation at iteration {state.iteration} (epoch {epoch}, learning rate {run.rate(epoch):.3g}): '
    with run.log.pause():
        try:
            with run.average.applied():
                scores = run.validation.run(run.model, run.plan.language_eval or is_self_critical, context,
                                            lambda: run.stop.received > 0)
        except Interrupted:
            state.validation_due = True  # done first when the run goes on
            run.stop.agree()
            return
        state.validation_due = False
        is_best = state.best.update(scores)
        if run.schedule.reduce_on_plateau:
            measure, score = measure_of(scores)
            state.plateau.update(score, measure)
        state.validations.append({
            'iteration': state.iteration, 'epoch': epoch, **scores, 'best': is_best,
            'seconds': round(time.monotonic() - started, 2), 'waited': round(waited, 4)})
        run.log.validation(state.iteration, scores, is_best)
        if is_self_critical:
            state.cider.update(scores['CIDEr'])
        save(run, is_best)


def save(run: Training, is_best: bool = False) -> None:
    """Write a checkpoint."""
    run.updater.check()
    # The rate is saved with the optimiser: the file must not depend on whether a step was taken since resuming.
    set_rate(run.updater.optimiser, run.rate(run.batches.next_epoch))
    random = parallel.gathered(lambda: random_state(run.device))
    with run.average.applied() as trained:
        parallel.on_main(lambda: run.write(run.batches.state(), random, is_best, trained))
    run.state.saved_at = run.state.iteration
    run.timer.restart()
    run.log.saved(run.state.iteration, is_best)
    run.status.write('running')


def build(options: opts.Options, given: set[str], folder: RunFolder, status: Status) -> Training:
    """The run that the options describe, resumed where `--start_from` says so."""
    in_place = folder.is_that_of(options.start_from)
    resumed = find_run(options.start_from, options.id, caption_width(options.input_label_h5)) \
        if options.start_from else None
    folder.claim(resumed, in_place)
    infos_path = resumed.infos_path if resumed else None
    options = opts.completed(options, given, resumed.infos['opt'] if resumed else None, infos_path, in_place,
                             parallel.count())
    options = opts.with_feature_size(options, feature_width(*opts.feature_source(options)), infos_path)
    device = pick_device(options.device, options.matmul_precision)
    opts.check_xlinear(options, device.type, models.xlinear_obstacle(options, device))
    opts.check_cuda_graphs(options, device.type)
    torch.manual_seed(options.seed)
    corpus = Corpus(opts.sources(options))
    vocabulary, longest = corpus.vocabulary, corpus.longest
    options = opts.replaced(options, vocab_size=len(vocabulary), seq_length=longest)
    if resumed:
        check_size(lambda: models.build(options, len(resumed.infos['vocab']) + 1, resumed.infos['opt']['seq_length']),
                   resumed)
    model = models.build(options, len(vocabulary) + 1, longest).to(device)
    corpus.open_for(model.needs)
    train_rows = corpus.rows('train', options.train_only)
    val_rows = validation_rows(corpus, options.val_images_use)
    corpus.check_files(train_rows + val_rows)
    schedule, plan = opts.schedule(options, len(train_rows)), opts.plan(options)
    regions = corpus.region_recipe()  # how eval.py --image_folder finds the regions of new pictures
    decoding = models.decoding_run(options, device)
    phases = build_phases(options, model, corpus, train_rows, decoding)
    validation = build_validation(options, corpus, val_rows, device, bool(phases.rewards), decoding) \
        if val_rows else None
    optimiser = opts.optimiser(options, model.parameters())
    average = WeightAverage(model, options.ema)
    state = resume(resumed, model, optimiser, average, device, options.seed, options.load_best_score, vocabulary,
                   longest, options.input_json, options.input_label_h5)
    run_record = parallel.on_main(lambda: record.compared_record(
        corpus, train_rows + val_rows, device, phases.rewards.cider.file if phases.rewards else None,
        vars(options), opts.announced_options(options, given), resumed, in_place))
    batches = TrainBatches(corpus, train_rows, options.batch_size, options.seq_per_img, options.seed,
                           options.num_workers, resumed.infos.get('loader') if resumed else None,
                           pin=device.type == 'cuda', infos_path=resumed.infos_path if resumed else '')
    if state.cider.first is not None and not phases.rewards:
        note('warning: this run was in self-critical training; without --self_critical_after it goes on '
             'with cross-entropy')
    log = RunLog(folder.path, state.histories, batches, options.max_epochs, vars(options), device)

    def start() -> None:
        log.open(state.iteration)
        status.start(lambda: {'iteration': state.iteration, 'epoch': batches.next_epoch})
        if parallel.is_main():
            record.write_start(folder.path, folder.identity, run_record, vars(options), state.iteration,
                               options.start_from)

    def write(loader: dict[str, Any], random: list[dict[str, Any]], is_best: bool,
              trained: dict[str, torch.Tensor] | None) -> None:
        log.flush()  # before the checkpoint counts: what comes later will be written again
        folder.save(options, vocabulary, model, optimiser, state, loader, random, is_best, trained, plan.keep,
                    reward=phases.rewards and phases.rewards.describe(), regions=regions, account=run_record)

    updater = Updater(model, optimiser, options.grad_clip, device, folder.path)
    recorded, obstacle = models.recorded_steps(
        options, model, lambda batch: phases.cross_entropy(batch)[0]['loss'], device, parallel.count())
    if obstacle:
        note(f'note: cross-entropy steps run without CUDA graphs: {obstacle}')
    run = Training(model, average, updater, batches, state, phases, schedule, plan, validation, log, folder.path,
                    device, StopSignals(updater.joint, EARLY), SaveTimer(plan.save_minutes), status, recorded, start,
                    write)
    if resumed:
        onward.note_place(resumed, folder.path, options.id, in_place)
        onward.note_rate(resumed, vars(options), run.rate(batches.next_epoch), schedule.describe())
    return run


def validation_rows(corpus: Corpus, count: int) -> list[int]:
    """The rows of the first `count` validation images; -1: of all, 0: of none."""
    if count == 0:
        note('note: --val_images_use 0: no validation; model.pth will be the last checkpoint, without model-best.pth')
        return []
    rows = corpus.rows('val', way_out=(
        'draw some of the training images (scripts/make_dataset.py --table DATASET.json --val 0.1, then '
        'prepro_labels.py again), or train without validation: --val_images_use 0'))
    return rows[:count if count > 0 else None]


def build_phases(options: opts.Options, model: CaptionModel, corpus: Corpus, rows: list[int],
                 decoding: Run) -> Phases:
    """The phases of training on the images `rows`: a table of n-grams is only needed for rewards."""
    rewards = load_rewards(
        options.cached_tokens, {corpus.ids[row]: row for row in rows}, corpus.captions, corpus.longest,
        options.cider_reward_weight, options.bleu_reward_weight, options.sc_baseline) \
        if opts.has_self_critical_epochs(options) else None
    return Phases(
        functools.partial(cross_entropy, model, smoothing=options.label_smoothing, amp=options.amp,
                          word_dropout=options.word_dropout, blank=models.unknown_word(corpus.vocabulary) or 0),
        functools.partial(self_critical, model, rewards, samples=options.sc_samples, longest=corpus.longest,
                          seed=options.seed, amp=options.amp, run=decoding) if rewards else None,
        options.self_critical_after, rewards)


def build_validation(options: opts.Options, corpus: Corpus, rows: list[int], device: torch.device,
                     has_rewards: bool, decoding: Run) -> Validation:
    """The validation on the images `rows`."""
    kind = kind_of([corpus.images[row] for row in rows], options.score_tokens, options.input_json)
    references = reference_captions(corpus.images, rows, corpus.captions, corpus.vocabulary, options.input_json,
                                    kind) if options.language_eval or has_rewards else None
    return Validation(
        lambda captions: image_batches(corpus, rows, options.batch_size, options.num_workers, captions,
                                       options.seed, pin=device.type == 'cuda'),
        corpus.images, len(rows), corpus.vocabulary,
        models.build_decoder(options, corpus.longest, corpus.vocabulary, endings=forbidden_endings(
            corpus.vocabulary.values(), options.remove_bad_endings), run=decoding), references, device, options.seed,
        options.seq_per_img, options.checkpoint_path, kind)


if __name__ == '__main__':
    run_command(main)
