"""Faults in decoding."""

from tests.stress.faults.fault import faults_in

DECODING = 'tests/models/test_decoding.py'
GREEDY = f'{DECODING}::test_greedy_equals_the_naive_decoder'
BEAMS = f'{DECODING}::test_beam_search_equals_the_naive_decoder'
OBEYED = f'{DECODING}::test_one_beam_is_greedy_and_constraints_are_obeyed'
PLAIN = f'{DECODING}::test_draws_are_those_of_the_plain_version_with_any_cuts'
TIES = f'{DECODING}::test_the_words_that_just_reach_top_p_are_kept_and_no_more'
TOTALS = f'{DECODING}::test_log_probs_of_samples_are_those_of_the_model'
ENDINGS = f'{DECODING}::test_no_caption_ends_with_a_forbidden_word'
STATIC = 'tests/models/test_static_decoding.py::test_static_shapes_give_the_captions_of_the_compacting_form'
UNKNOWN = 'tests/models/test_models.py::test_the_last_word_is_the_unknown_one_only_by_its_name'
FLAGS = 'tests/programs/test_eval.py::test_each_decoding_flag_has_its_effect'
VALIDATION = 'tests/programs/test_flags.py::test_the_flag_changes_the_captions_of_validation'

FAULTS = [
    *faults_in(
        'models/decoding.py', [PLAIN, TIES],
        ('keepdim=True).values) / temperature', 'keepdim=True).values) * temperature'),
        ('scaled.topk(min(top_k, scaled.shape[1]), 1)', 'scaled.topk(min(top_k + 1, scaled.shape[1]), 1)'),
        ('- ordered >= top_p', '- ordered > top_p'),
        (' - ordered >= top_p', ' >= top_p'),
        ('sort(1, descending=True)', 'sort(1)'),
        ('dropped.gather(1, words.argsort(1))', 'dropped.gather(1, words)'),
        ('if top_p < 1:', 'if top_p < 0.5:'),
        ('(uniform * cumulative[:, -1])[:, None], right=True)', 'uniform[:, None].double(), right=True)',
         'the sum of all probabilities is 1 but for rounding'),
        ('found.clamp(max=scaled.shape[1] - 1)', '(found + 1).clamp(max=scaled.shape[1] - 1)')),
    *faults_in(
        'models/decoding.py', [GREEDY, OBEYED, TOTALS],
        ('log_probs[:, self.unknown] = -torch.inf', 'log_probs[:, self.unknown] = -9.0'),
        ('captions[:, length - 1:length], -torch.inf)', 'captions[:, :1], -torch.inf)'),
        ('if self.no_repeat and length:', 'if self.no_repeat and length > 1:'),
        ('no_trigram_repeat and length >= 3:', 'no_trigram_repeat and length >= 4:'),
        ('last = captions[:, length - 2:length]', 'last = captions[:, length - 3:length - 1]'),
        ('scatter_add(1, trigrams[:, :, 2], penalty)', 'scatter_add(1, trigrams[:, :, 1], penalty)'),
        ('words = allowed.argmax(1)', 'words = log_probs.argmax(1)'),
        ('log_probs.gather(1, words[:, None])[:, 0]', 'allowed.max(1).values'),
        ('captions[live, length] = words', 'captions[live, length - 1] = words'),
        ('state = state.select(unfinished)', 'pass'),
        ('constraints.apply(log_probs, captions[live], length)', 'log_probs')),
    *faults_in(
        'models/decoding.py', [STATIC, GREEDY],
        ('words = words.masked_fill(ended, 0)', 'pass'),
        ('ended = words == 0\n', 'ended = words < 0\n')),
    *faults_in(
        'models/decoding.py', [ENDINGS],
        ('(captions[:, length - 1:length] == endings).any(1)', '(captions[:, :1] == endings).any(1)'),
        ('if length + 1 == captions.shape[1]:', 'if length + 2 == captions.shape[1]:'),
        ('log_probs.index_fill_(1, endings, -torch.inf)', 'pass')),
    *faults_in(
        'models/decoding.py', [BEAMS, STATIC],
        ('1.0 if max_ppl else length_penalty', 'length_penalty'),
        ('self.width = beam_size, beam_size // groups', 'self.width = beam_size, beam_size'),
        ('offered = allowed.topk(min(self.beam_size, ', 'offered = allowed.topk(min(self.width, '),
        ('totals = self.totals[..., None] + log_probs', 'totals = self.sums[..., None] + log_probs'),
        ('parents = chosen // words.shape[3]', 'parents = chosen % words.shape[2]'),
        ('self.captions[..., length] = self.words', 'self.captions[..., 0] = self.words'),
        ('scores = scores - self.penalty * count', 'scores = scores + self.penalty * count'),
        ('scores = scores - self.penalty * count', 'scores = scores - self.penalty * (count > 0)'),
        ('torch.cat(taken, 1)[:, None, None]', 'taken[-1][:, None, None]'),
        ('(self.sums[:, g, :, None] + scores)', '(self.totals[:, g, :, None] + scores)'),
        ('ended = (self.words == 0) | (length == self.longest)', 'ended = (self.words == 0)'),
        ('self.sums / length ** self.exponent, -torch', 'self.totals / length ** self.exponent, -torch'),
        ('self.sums / length ** self.exponent, -torch', 'self.sums / (length + 1) ** self.exponent, -torch'),
        ('self.sums = self.sums.masked_fill(ended, -torch.inf)', 'pass'),
        ('rows = torch.searchsorted(self.places, rows)', 'pass'),
        ('limit = self.sums / float(self.longest) ** self.exponent', 'limit = self.sums'),
        ('return hopeful.any(1, keepdim=True)', 'return hopeful'),
        ('(limit > self.best[..., -1:])', '(limit > self.best[..., :1])'),
        ('if length + 1 == self.longest or not self._select(parents):', 'if not self._select(parents):',
         'selecting rows that are not looked at any more is only a waste')),
    *faults_in(
        'models/__init__.py', [VALIDATION, FLAGS, UNKNOWN],
        ('if options.suppress_UNK else None', 'if False else None'),
        ('if not options.sample_max:', 'if options.sample_max:'),
        ('options.decoding_constraint, options.block', 'options.block_trigrams, options.block'),
        ('options.block_trigrams, last_words)', 'False, last_words)'),
        ('max_ppl=options.max_ppl, ', ''),
        ('temperature=options.temperature, ', ''),
        ('top_k=options.top_k,', ''),
        ('top_p=options.top_p,', ''),
        ('group_size=options.group_size, ', ''),
        ('options.diversity_lambda,', '0.5,'),
        ("return last if vocabulary.get(str(last)) == 'UNK' else None", 'return last')),
]
