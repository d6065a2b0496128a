"""Faults in the two phases of training, and in validation and decoding methods as training uses them."""

from tests.stress.faults.fault import faults_in

PHASES = 'tests/programs/test_phases.py'
MODES = f'{PHASES}::test_samples_and_loss_have_dropout_and_the_baseline_has_none'
ANEW = f'{PHASES}::test_samples_are_drawn_anew_for_every_epoch_image_copy_and_seed_and_for_nothing_else'
TRAINS = f'{PHASES}::test_the_model_trains_at_every_step_of_both_phases_though_it_is_validated_in_between'
STATISTICS = f'{PHASES}::test_the_statistics_of_a_batch_in_parts_are_means_over_all_its_samples'
SECOND = (f'{PHASES}::test_the_second_phase_begins_without_the_plateau_of_the_first_and_keeps_its_own_'
          'when_resumed')
SELF_CRITICAL = 'tests/programs/test_self_critical.py'
FLAGS = 'tests/programs/test_flags.py'
TRAIN = 'tests/programs/test_train.py'
SAMPLING = 'tests/programs/test_families.py::test_scheduled_sampling_is_off_in_the_self_critical_phase'
VALIDATION = 'tests/evaluation/test_validation.py'
AVERAGE = 'tests/training/test_averaging.py'
KEPT_AVERAGE = (f'{TRAIN}::test_the_average_is_validated_saved_and_evaluated_and_a_run_without_it_goes_on_from_it')
RATES = f'{FLAGS}::test_the_learning_rate_decays_by_epochs_according_to_its_flags'
WEIGHTS = f'{FLAGS}::test_the_flag_changes_the_weights'
COURSE = f'{FLAGS}::test_each_flag_of_the_course_of_a_run_has_its_effect'
EVALUATED = 'tests/programs/test_parallel.py::test_evaluation_in_several_processes_writes_what_one_writes'

FAULTS = [
    *faults_in(
        'train.py', [MODES, ANEW],
        ('with evaluating(model), precision', 'with torch.no_grad(), precision'),
        ('    with torch.no_grad(), precision(batch.device, amp):\n        sampled',
         '    with evaluating(model), precision(batch.device, amp):\n        sampled'),
        ('(seed, batch.epoch, image, 1)', '(seed, image, 1)'),
        ('(seed, batch.epoch, image, 1)', '(seed, batch.epoch, 1)'),
        ('(seed, batch.epoch, image, 1)', '(batch.epoch, image, 1)'),
        ('longest, greedy=True)', 'longest)'),
        ('for image in batch.images], samples', 'for image in range(len(batch))], samples')),
    *faults_in(
        'train.py', [STATISTICS, TRAINS, SECOND, SAMPLING],
        ("loss = terms['loss'] * weight", "loss = terms['loss']"),
        ("weight = 1 if alone else terms['tokens']", "weight = 1 if alone else len(part)"),
        ('statistics.append((len(part), found))', 'statistics.append((1, found))'),
        ('run.state.plateau = Plateau()', 'pass'),
        ('if run.state.self_critical_from is None:', 'if True:'),
        ('run.state.self_critical_from = run.state.iteration', 'pass'),
        ('0.0 if self.phases.is_self_critical(epoch) else', '')),
    *faults_in(
        'train.py', [RATES, COURSE, f'{TRAIN}::test_the_plateau_halves_the_rate_of_its_own_flag_alone',
                     f'{SELF_CRITICAL}::test_a_cosine_rate_goes_over_each_phase_once', KEPT_AVERAGE],
        ('self.schedule.rate(state.iteration + 1, epoch, state.plateau.scale, before)',
         'self.schedule.rate(state.iteration, epoch, state.plateau.scale, before)'),
        ('self.schedule.rate(state.iteration + 1, epoch, state.plateau.scale, before)',
         'self.schedule.rate(state.iteration + 1, epoch, 1.0, before)'),
        ('self.schedule.rate(state.iteration + 1, epoch, state.plateau.scale, before)',
         'self.schedule.rate(state.iteration + 1, epoch, state.plateau.scale)'),
        ('state.plateau.update(score, measure)', 'state.plateau.update(-score, measure)'),
        ('is_best = state.best.update(scores)', 'is_best = True'),
        ('run.average.update(run.state.iteration)', 'pass')),
    *faults_in(
        'train.py', [f'{SELF_CRITICAL}::test_a_halved_cider_warns_and_says_what_to_try'],
        ("state.cider.update(scores['CIDEr'])", 'pass')),
    *faults_in(
        'train.py', [WEIGHTS],
        ('smoothing=options.label_smoothing, amp', 'smoothing=0.0, amp'),
        ('options.batch_size, options.seq_per_img, options.seed', 'options.batch_size, 5, options.seed')),
    *faults_in(
        'misc/evaluation/captioning.py', [VALIDATION, TRAINS, EVALUATED],
        ('model.train(mode)', 'pass'),
        ('model.eval()', 'pass'),
        ('return mean * len(places), len(places)', 'return mean, 1'),
        ('keys = [(seed, row) for row in batch.images]', 'keys = [(seed, row) for row in range(len(batch.images))]')),
    *faults_in(
        'misc/training/averaging.py', [AVERAGE, KEPT_AVERAGE],
        ('min(self.decay, (1 + step) / (10 + step))', 'self.decay'),
        ('1 - self.decay_at(step))', 'self.decay_at(step))'),
        ('torch._foreach_copy_(self.weights, self.average)', 'pass'),
        ('self.model.load_state_dict(trained)', 'pass'),
        ('[value.clone() for value in self.weights]', '[torch.zeros_like(value) for value in self.weights]')),
    *faults_in(
        'misc/training/draws.py', [ANEW],
        ('np.random.default_rng(key)', 'np.random.default_rng(key[0])'),
        ('np.random.default_rng(key).random((copies, longest)', 'np.random.default_rng(key).random((1, longest)')),
]
