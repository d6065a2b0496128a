"""Faults in losses, rewards, CIDEr-D, optimisers and schedules."""

from tests.stress.faults.fault import faults_in

LOSSES = 'tests/training/test_losses.py'
BLOCKS = 'tests/models/test_models.py::test_the_loss_in_blocks_is_the_mean_cross_entropy'
KERNELS = 'tests/models/test_kernels.py'
CIDER = 'tests/training/test_cider.py'
REWARDS = 'tests/training/test_rewards.py'
OPTIM = 'tests/training/test_optim.py'
SCHEDULE = 'tests/training/test_schedule.py'
INFOS = 'tests/run/test_infos.py'
FLAGS = 'tests/programs/test_flags.py'
NUMBERS = 'tests/programs/test_numbers.py'
PHASES = 'tests/programs/test_phases.py'
VALIDATION = 'tests/evaluation/test_validation.py'
SELF_CRITICAL = 'tests/programs/test_self_critical.py'

FAULTS = [
    *faults_in(
        'misc/training/losses.py', [LOSSES, BLOCKS],
        ('torch.full(targets.shape, 1 / len(targets)', 'torch.full(targets.shape, 1 / len(batch.counts)'),
        ("weights, smoothing), 'tokens': len(targets)}", "weights), 'tokens': len(targets)}"),
        ("'tokens': len(targets)}", "'tokens': len(batch.counts)}"),
        ('sampled = places % (T + 1) < T', 'sampled = places % (T + 1) <= T'),
        ('tokens = sampled.sum()', 'tokens = (places >= 0).sum()'),
        ('advantage().reshape(-1)[places', 'advantage().t().reshape(-1)[places'),
        ('* sampled / tokens', '/ tokens'),
        ('* sampled / tokens', '* sampled / len(samples)'),
        ('F.pad(captions, (0, 1))', 'F.pad(captions, (0, 1), value=1)'),
        ('smoothing / (weight.shape[0] - 1)', 'smoothing / weight.shape[0]'),
        ('log_prob *= 1 - smoothing - other', 'log_prob *= 1 - smoothing'),
        (' + _entropy(smoothing, other)', ''),
        ('total -= torch.dot(log_prob, share)', 'total = -torch.dot(log_prob, share)')),
    *faults_in(
        'misc/training/losses.py', [VALIDATION],
        ('-log_probs.gather(1, targets[:, None]).mean()', '-log_probs.gather(1, targets[:, None]).sum()')),
    *faults_in(
        'misc/training/losses.py', [f'{NUMBERS}::test_clipping_does_not_hide_a_gradient_that_is_not_finite'],
        (', *(gradient.sum().double() for gradient in gradients)]', ']')),
    *faults_in(
        'misc/training/losses.py', [f'{KERNELS}::test_hand_written_gradients_equal_numerical_ones'],
        ('gradient.sub_(other)', 'pass'),
        ('smoothing + other - 1)', 'smoothing - 1)'),
        ('gradient.mul_(share[:, None])', 'pass'),
        ('d_bias += gradient.sum(0)', 'd_bias = gradient.sum(0)'),
        ('d_weight = d_weight + (gradient', 'd_weight = (gradient'),
        ('(*(gradient * saved for saved in ctx.saved_tensors)', '(*(saved for saved in ctx.saved_tensors)')),
    *faults_in(
        'misc/training/rewards.py', [REWARDS],
        ('(reward.sum(1, keepdims=True) - reward) / (S - 1)', '(reward.sum(1, keepdims=True) - reward) / S'),
        ('(reward.sum(1, keepdims=True) - reward) / (S - 1)', 'reward.mean(1, keepdims=True).repeat(S, 1)'),
        ('total[:, S:].repeat(S, 1)', 'total[:, :1].repeat(S, 1)'),
        ('self.weights[name] * term for', 'term for'),
        ('lengths_of(samples) - ended', 'lengths_of(samples)'),
        ('{name: term[:, :S] for', '{name: term for'),
        ('return (reward - baseline).astype', 'return (baseline - reward).astype'),
        ('[(0, missing)]', '[(missing, 0)]'),
        ('np.minimum(own, matches.counts.max(1)) / own', 'matches.counts.max(1) / own'),
        ('np.where(lengths > 0, lengths, lengths[:, :1])', 'lengths'),
        ('if coverage < LEAST_COVERAGE:', 'if coverage < 0.5:'),
        ('if score < LEAST_SCORE:', 'if score < 0:'),
        ('if cider.table.idf.min() < 0:', 'if cider.table.idf.max() < 0:'),
        ('np.delete(image, place, 0) for', 'image for'),
        ('elif S < 2:', 'elif S < 1:')),
    *faults_in(
        'misc/training/rewards.py', [
            f'{PHASES}::test_the_statistics_of_a_batch_in_parts_are_means_over_all_its_samples'],
        ('sum(count * statistics[name] for count, statistics in parts) / images',
         'sum(statistics[name] for _, statistics in parts) / len(parts)')),
    *faults_in(
        'misc/training/cider.py', [CIDER],
        ('SIGMA = 6.0', 'SIGMA = 5.0'),
        ('/ (-2 * SIGMA ** 2)', '/ (-1 * SIGMA ** 2)'),
        ('np.maximum(matches.lengths - 1, 0)[:, None]', 'matches.lengths[:, None]'),
        ('scores[block] = 10 * (', 'scores[block] = ('),
        ('.sum(1) / sizes[owner]', '.mean(1)'),
        ('self.table.look_up(ngrams.keys, add=True)', 'self.table.look_up(ngrams.keys)'),
        ('np.minimum(own * idf, theirs)', '(own * idf)'),
        ('* (theirs / own)', '* theirs'),
        ('where=norms > 0).mean(-1)', 'where=norms > 0).sum(-1)'),
        ('ngrams.counts * idf ** 2', 'idf ** 2'),
        ('np.flatnonzero(codes[places] == wanted)', 'np.flatnonzero(codes[places] >= 0)'),
        ("np.searchsorted(codes, wanted, side='right') - 1", "np.searchsorted(codes, wanted, side='left') - 1"),
        ('clipped_cosines(matches, norms[owner])', 'clipped_cosines(matches, norms[owner] ** 2)'),
        ('if not all(len(image) for image in images):', 'if False:'),
        ("{'document_frequency', 'ref_len'} <= set(content)", "{'document_frequency'} <= set(content)")),
    *faults_in(
        'misc/training/ngrams.py', [CIDER, REWARDS],
        ('np.where(ends.any(-1), ends.argmax(-1) + 1, ends', 'np.where(ends.any(-1), ends.argmax(-1), ends'),
        ('np.arange(T - order) < lengths[:, None] - order)', 'np.arange(T - order) < lengths[:, None])'),
        ('words = words.astype(np.uint64) + np.uint64(1)', 'words = words.astype(np.uint64)'),
        ('    same &= (np.arange(T) < lengths[:, None])[:, None]\n', ''),
        ('same = same[:, :-1, :-1] & same[:, 1:, 1:]', 'same = same[:, 1:, 1:]'),
        ('np.log(np.maximum(1.0,', 'np.log1p(np.maximum(1.0,'),
        ('places[absent] = 0', 'pass'),
        ("mode='clip') <= keys)", "mode='clip') < keys)"),
        ('np.minimum(places, len(table) - 1)', 'places'),
        ('step = STRIDE // 2', 'step = STRIDE // 4'),
        ('(numbers > 0) & (numbers < len(self.keys))', '(numbers > 0)'),
        ('or (keys[1:] == keys[:-1]).any()', ''),
        ('not np.isfinite(frequencies).all()', 'False'),
        ('LARGEST_INDEX = 65534', 'LARGEST_INDEX = 65535'),
        ('rows.max() > LARGEST_INDEX', 'False'),
        ('keys, frequencies = keys[order], frequencies[order]', 'keys = keys[order]'),
        ('not 1 <= sizes.min() <= sizes.max() <= MAX_N', 'not 1 <= sizes.min()'),
        ('np.insert(self.extra_numbers, places,', 'np.append(self.extra_numbers,')),
    *faults_in(
        'misc/training/optim.py', [
            OPTIM, INFOS, f'{FLAGS}::test_every_optimiser_gives_other_weights_and_uses_its_settings',
            f'{SELF_CRITICAL}::test_the_second_phase_has_its_own_rate_from_its_first_step'],
        ('torch._foreach_add_(moments[2], 1)', 'torch._foreach_add_(moments[2], 2)'),
        ("beta1=group['betas'][0], beta2=group['betas'][1]", "beta1=group['betas'][1], beta2=group['betas'][0]"),
        ("if group['decoupled_weight_decay'] else", "if not group['decoupled_weight_decay'] else"),
        ("weight_decay=group['weight_decay'],\n               eps", 'weight_decay=0.0,\n               eps'),
        ("eps=group['eps']", 'eps=1e-8'),
        ("'param_groups': own['param_groups']}", "'param_groups': state['param_groups']}"),
        ("bool(0 <= moment < float('inf'))", 'True'),
        ('moment.shape == shape and ', ''),
        ('bool(torch.isfinite(moment).all())', 'True'),
        ("set(state['state']) <= set(range(len(shapes)))", 'True'),
        ('nesterov=True,', 'nesterov=False,'),
        ('torch.optim.RMSprop(parameters, alpha=alpha,', 'torch.optim.RMSprop(parameters,'),
        ("for name in ('exp_avg', 'exp_avg_sq', 'step')]", "for name in ('exp_avg_sq', 'exp_avg', 'step')]")),
    *faults_in(
        'misc/training/schedule.py', [SCHEDULE, VALIDATION],
        ('min(step ** -0.5, step * warmup ** -1.5)', 'max(step ** -0.5, step * warmup ** -1.5)'),
        ('return factor * size ** -0.5', 'return size ** -0.5'),
        ('rate * factor ** ((epoch - start) // every)', 'rate * factor ** ((epoch - start) / every)'),
        ('if start < 0 or epoch < start:\n        return rate', 'if epoch < start:\n        return rate'),
        ('return min(increase * ((epoch - start) // every), maximum)', 'return increase * (epoch - start) // every'),
        ('if start < 0 or epoch < start:\n        return 0.0', 'if epoch < start:\n        return 0.0'),
        ('if self.bad > self.patience:', 'if self.bad >= self.patience:'),
        ('self.scale * self.factor, 0', 'self.scale * self.factor, self.bad'),
        ('self.best is None or score > self.best:', 'self.best is None or score >= self.best:'),
        ('if measure != self.measure:', 'if False:'),
        ('        if not self.reduce_on_plateau:\n            scale = 1.0\n', ''),
        ('return scale * noam_rate(', 'return noam_rate('),
        ('return scale * self.learning_rate', 'return self.learning_rate'),
        ('return 0 <= self.max_epochs <= epoch', 'return 0 <= self.max_epochs < epoch'),
        ('return 0 <= self.max_epochs <= epoch', 'return self.max_epochs <= epoch'),
        ('self.measure != measure or score > self.score', 'score > self.score'),
        ('self.measure != measure or score > self.score', 'self.measure != measure or score >= self.score'),
        ("('loss', -scores['loss'])", "('loss', scores['loss'])"),
        ('elif cider < self.first / 2:', 'elif cider < self.first:')),
    *faults_in(
        'misc/training/schedule.py', [f'{PHASES}::test_a_plateau_goes_on_where_it_was_when_a_run_is_resumed'],
        ('return (self.best, self.bad, self.scale', 'return (self.best, 0, self.scale'),
        ('return (self.best, self.bad, self.scale', 'return (None, self.bad, self.scale'),
        ('return (self.best, self.bad, self.scale', 'return (self.best, self.bad, 1.0')),
    *faults_in(
        'misc/training/step.py', [OPTIM, NUMBERS],
        ('torch.nn.utils.clip_grad_value_(', 'torch.nn.utils.clip_grad_norm_('),
        ('        finite = all_finite(loss, self.parameters)\n'
         '        torch.nn.utils.clip_grad_value_(self.parameters, self.grad_clip)\n',
         '        torch.nn.utils.clip_grad_value_(self.parameters, self.grad_clip)\n'
         '        finite = all_finite(loss, self.parameters)\n'),
        ('set_rate(self.optimiser, step.rate)', 'pass'),
        ('elif finite:', 'elif True:'),
        ('if self.last and parallel.most(', 'if not self.last and parallel.most('),
        ('self._refuse(self.last, ', 'self._refuse(None, ')),
]
