"""Faults in the networks."""

from tests.stress.faults.fault import faults_in

MODELS = 'tests/models/test_models.py'
FORMULAS = f'{MODELS}::test_a_batch_equals_the_formulas_for_one_caption_at_a_time'
GRADIENTS = f'{MODELS}::test_gradients_equal_those_of_the_formulas'
CACHED = f'{MODELS}::test_step_by_step_with_a_cache_equals_teacher_forcing'
SELECTED = f'{MODELS}::test_selecting_rows_of_a_state_keeps_each_row_with_its_image'
GROUPS = f'{MODELS}::test_groups_pad_and_pack_are_inverse_and_select_follows_the_rows'
SCHEDULED = f'{MODELS}::test_scheduled_sampling_feeds_words_drawn_from_the_models_own_distribution'
BUILT = f'{MODELS}::test_the_options_build_what_they_name'
PROBABILITIES = f'{MODELS}::test_each_dropout_has_the_probability_of_its_option'
STARTS = f'{MODELS}::test_matrices_start_as_xavier_says'
WORD_DROPOUT = f'{MODELS}::test_word_dropout_replaces_words_that_are_read_and_none_that_is_predicted'
DROPOUT = 'tests/models/test_dropout.py'
WEIGHTS = 'tests/models/test_attention.py'
KERNELS = 'tests/models/test_kernels.py'
PRECISION = 'tests/models/test_precision.py'
ENSEMBLE = 'tests/models/test_decoding.py::test_an_ensemble_of_all_families_has_the_mean_probability_of_every_word'

FAULTS = [
    *faults_in(
        'models/registry.py', [BUILT, PROBABILITIES],
        ("dropout='dropout', feature_dropout='drop_prob_lm'", "dropout='drop_prob_lm', feature_dropout='dropout'"),
        ("size='hidden_size', dropout='drop_prob_lm')", "size='hidden_size')"),
        ("'trigonometric': 'box_trignometric_embedding', ", ''),
        (", 'extra_skip': 'legacy_extra_skip'", ''),
        ("cross='cross_attn',\n    use_bn='use_bn', ", "cross='cross_attn', "),
        ("'inner': 'att_hid_size', 'use_bn': 'use_bn'}", "'inner': 'att_hid_size'}"),
        ("norm='norm', ", ''),
        ("activation='ff_activation', ", ''),
        ("layers='num_layers', ", ''),
        ("{**RECURRENT, 'cell': 'rnn_type', 'inner'", "{**RECURRENT, 'inner'"),
        ("{**RECURRENT, 'cell': 'rnn_type'}", 'RECURRENT')),
    *faults_in(
        'models/transformer.py', [BUILT, PROBABILITIES],
        ('position_encoding(kind, learned, size', 'position_encoding(kind, True, size'),
        ('math.isqrt(cells), dropout)', 'math.isqrt(cells), 0.1)')),
    *faults_in(
        'models/attention.py', [FORMULAS, CACHED, DROPOUT],
        ('dropout = self.dropout if self.training else 0.0', 'dropout = self.dropout'),
        ('dropout = self.dropout if self.training else 0.0', 'dropout = 0.0'),
        ('attn_mask=bias, dropout_p=dropout)', 'attn_mask=bias)'),
        ('mask = None if causal or groups.is_even else groups.mask[:, None, None]', 'mask = None'),
        ('kernels.attention(query, key, value, mask, causal, dropout)',
         'kernels.attention(query, key, value, mask, False, dropout)'),
        ('kernels.attention(query, key, value, mask, causal, dropout)',
         'kernels.attention(query, key, value, mask, causal)'),
        ('mixed + rows if self.extra_skip else mixed', 'mixed'),
        ('self.key(rows).detach(), self.value(rows).detach()', 'self.key(rows).detach(), self.key(rows).detach()'),
        ('kernels.attention(query, key, value, dropout=self.dropout if self.training else 0.0)',
         'kernels.attention(query, key, value)'),
        ('memory.mask,\n                                  dropout=self.dropout if self.training else 0.0)',
         'memory.mask)'),
        ('kernels.attention(query, memory.key, memory.value, memory.mask,',
         'kernels.attention(query, memory.key, memory.value, None,'),
        ('torch.tanh(keys[:, None] + queries[:, :, None])', '(keys[:, None] + queries[:, :, None])'),
        ('weights = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1)', 'weights = logits.softmax(-1)'),
        ('rows.view(G, L, heads, d // heads).transpose(1, 2)',
         'rows.view(G, L, d // heads, heads).permute(0, 3, 1, 2)')),
    *faults_in(
        'models/attention.py', [WEIGHTS],
        ('* query.shape[3] ** -0.5  # (I, h, L, P)', '* query.shape[3] ** -1'),
        ('logits.masked_fill(~memory.mask, -torch.inf).softmax(-1).mean(1)',
         'logits.masked_fill(~memory.mask, -torch.inf).mean(1).softmax(-1)')),
    *faults_in(
        'models/attention.py', [SELECTED],
        ('self.value[index], self.mask[index])', 'self.value[index], self.mask[:len(index)])'),
        ('torch.index_select(filled, 2, rows, out', 'torch.index_select(filled, 2, rows.sort().values, out')),
    *faults_in(
        'models/attention_weights.py', [WEIGHTS],
        ("'last': layers[-1]}", "'last': layers[0]}"),
        ('if len(layers) > 1 else', 'if len(layers) else'),
        ('module.attention_record = None', 'pass'),
        ("one.get(name, one['mean'])", "one['mean']")),
    *faults_in(
        'models/base.py', [FORMULAS, CACHED, PRECISION],
        ('(captions.flatten(0, 1) > 0)', '(captions.flatten(0, 1) > 1)'),
        ('F.pad(captions, (1, 0))', 'F.pad(captions, (0, 1))'),
        ('logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)', 'logits.log_softmax(-1)'),
        ('out = log_probs.new_zeros(I * S', 'out = log_probs.new_ones(I * S')),
    *faults_in(
        'models/base.py', [SELECTED, FORMULAS, CACHED],
        ('part.index_select(0, rows) for part in cell', 'part[:len(rows)] for part in cell'),
        ('self.caches.select(rows), self.length, ', 'self.caches, self.length, '),
        ('self.images, caches, self.length + 1, ', 'self.images, caches, self.length, ')),
    *faults_in(
        'models/base.py', [WORD_DROPOUT],
        ('inputs.masked_fill(dropped & (inputs > 0), blank)', 'inputs.masked_fill(dropped, blank)'),
        ('device=inputs.device) < probability', 'device=inputs.device) > probability'),
        ('model.dropped_words = 0.0, 0', 'pass')),
    *faults_in(
        'models/base.py', [WEIGHTS],
        ('positions = self.recorded_order(positions, I * S, T + 1)', 'pass')),
    *faults_in(
        'models/base.py', [STARTS],
        ('nn.init.xavier_uniform_(parameter)', 'nn.init.xavier_normal_(parameter)'),
        ('if parameter.dim() > 1:', 'if parameter.dim() > 2:')),
    *faults_in(
        'models/cells.py', [FORMULAS],
        ('self.bias_ih + self.bias_hh', 'self.bias_ih'),
        ('forget_gate.sigmoid() * cell + input_gate.sigmoid() * new.tanh()',
         'input_gate.sigmoid() * cell + forget_gate.sigmoid() * new.tanh()'),
        ('output_gate.sigmoid() * cell.tanh(), cell', 'output_gate.sigmoid() * cell, cell'),
        ('inputs = inputs + self.bias_ih', 'inputs = inputs + self.bias_hh'),
        ('new + update * (hidden - new)', 'hidden + update * (new - hidden)'),
        ('(new + reset * hidden_new).tanh()', '(new + hidden_new).tanh()'),
        ('reset, update, new = inputs', 'update, reset, new = inputs')),
    *faults_in(
        'models/dropout.py', [FORMULAS, DROPOUT],
        ('return self.probability if self.training else 0.0', 'return self.probability'),
        ('return kernels.dropout(rows, self.active)', 'return rows'),
        ('return kernels.add_dropout(rows, update, self.active)', 'return rows + update'),
        ('return kernels.relu_dropout_(rows, self.active)', 'return kernels.relu_dropout_(rows, 0.0)')),
    *faults_in(
        'models/ensemble.py', [ENSEMBLE],
        (' - math.log(len(log_probs))', ''),
        ('torch.stack(list(log_probs)).logsumexp(0)', 'torch.stack(list(log_probs)).mean(0)'),
        ('member.word_log_probs(part, captions, lengths)\n',
         'self.members[0].word_log_probs(memory.parts[0], captions, lengths)\n')),
    *faults_in(
        'models/geometry.py', [FORMULAS, GRADIENTS, PRECISION],
        ('(boxes[:, :2] + boxes[:, 2:]) / 2', 'boxes[:, :2]'),
        ('boxes[:, 2:] - boxes[:, :2] + 1 for', 'boxes[:, 2:] - boxes[:, :2] + 2 for'),
        ('.abs() / sides[0]', '.abs() / sides[1]'),
        ('sides[0] / sides[1]), 1)', 'sides[1] / sides[0]), 1)'),
        ('LEAST_DISTANCE = 1e-3', 'LEAST_DISTANCE = 1e-2'),
        ('LEAST_WEIGHT = 1e-6', 'LEAST_WEIGHT = 1e-5'),
        ('100 / 1000 ** steps', '100 / 100 ** steps'),
        ('(angles.sin(), angles.cos())', '(angles.cos(), angles.sin())'),
        ('~groups.mask[:, None, :, None], -math.inf)', '~groups.mask[:, None, :, None], 0.0)'),
        ('boxes[start + query], boxes[start + key])', 'boxes[start + key], boxes[start + query])'),
        ('angles.remainder(2 * math.pi).to(dtype)', 'angles.to(dtype)'),
        ('for layer in self.layers])', 'for layer in reversed(self.layers)])')),
    *faults_in(
        'models/geometry.py', [STARTS],
        ('nn.init.xavier_uniform_(row[None])', 'nn.init.xavier_uniform_(layer.weight.data)')),
    *faults_in(
        'models/norms.py', [FORMULAS],
        ('rows.pow(2).mean(-1, keepdim=True).sqrt() + 1e-8', 'rows.pow(2).sum(-1, keepdim=True).sqrt() + 1e-8'),
        ('(deviation + 1e-6)', '(deviation + 1e-3)'),
        ('torch.std_mean(rows, -1, keepdim=True)', 'torch.std_mean(rows, -1, correction=0, keepdim=True)')),
    *faults_in(
        'models/norms.py', [PRECISION, BUILT],
        ('torch.is_grad_enabled() and len(rows) > 1:', 'len(rows) > 1:'),
        ('if len(rows) > 1:\n            return F', 'if len(rows) > 9:\n            return F'),
        ('self.running_mean, self.running_var, self.weight', 'None, None, self.weight'),
        ('if count == 2 else', 'if count else')),
    *faults_in(
        'models/packing.py', [GROUPS, FORMULAS],
        ('all(count == self.longest for', 'any(count == self.longest for'),
        ('self.sizes.cumsum(0) - self.sizes', 'self.sizes.cumsum(0)'),
        ('device=self.device) < self.sizes[:, None]', 'device=self.device) <= self.sizes[:, None]'),
        ('[starts[group] for group in groups]', '[starts[group] for group in sorted(groups)]'),
        ('[self.counts[group] for group in groups]', '[self.counts[group] for group in sorted(groups)]')),
    *faults_in(
        'models/packing.py', [KERNELS],
        ('return gradient.index_select(0, index), None, None', 'return gradient[:len(index)], None, None')),
    *faults_in(
        'models/position.py', [FORMULAS, DROPOUT],
        ('self.features(regions) + self.rows', 'regions + self.rows'),
        ('self.rows(vertical) + self.columns(horizontal)', 'self.rows(horizontal) + self.columns(vertical)'),
        ('return self.dropout(self.features', 'return (self.features'),
        ('return self.dropout(regions + self.cells(grids))', 'return regions + self.cells(grids)'),
        ('return self.dropout(regions + self.out', 'return (regions + self.out'),
        ('return self.dropout(regions + vertical', 'return (regions + vertical'),
        ('sizes = boxes[:, 2:] - corner', 'sizes = boxes[:, 2:]'),
        ('F.relu(self.hidden(', 'torch.tanh(self.hidden('),
        ('vertical @ self.row_table + horizontal @ self.column_table',
         'vertical @ self.column_table + horizontal @ self.row_table'),
        ('cells.sum(2), cells.sum(1)', 'cells.sum(1), cells.sum(2)'),
        ('-math.log(10000.0)', '-math.log(1000.0)'),
        ('angle.cos() if exchanged else angle.sin()', 'angle.sin()')),
    *faults_in(
        'models/position.py', [BUILT],
        ("if kind == 'box-coord':", 'if False:'),
        ("{'gxg': GridProfiles, 'g2': GridCells}", "{'gxg': GridProfiles, 'g2': GridProfiles}")),
    *faults_in(
        'models/precision.py', [PRECISION],
        ('torch.autocast(device.type, enabled=False)', 'torch.autocast(device.type)'),
        ('return torch.get_autocast_dtype(device.type)', 'return None')),
    *faults_in(
        'models/recurrent.py', [FORMULAS, CACHED, DROPOUT],
        ('hidden, before = self.dropout(hidden), live', 'before = live'),
        ('self.log_probs(self.dropout(hidden))', 'self.log_probs(hidden)'),
        ('if words >= t]', 'if words > t]'),
        ('cells = cells.select(kept)', 'cells = cells.select(kept * 0)'),
        ('torch.cat(states).index_select(0, order), positions', 'torch.cat(states), positions'),
        ('return RecurrentMemory([cell], [], ', 'return RecurrentMemory([(blank,) * self.cell.parts], [], '),
        ('torch.tanh(layer(batch.fc)).to', 'layer(batch.fc).to'),
        ('self.dropout(F.relu(self.feature_embed(batch.features)))', 'F.relu(self.feature_embed(batch.features))'),
        ('self.dropout(F.relu(self.word_embed(words)))', 'F.relu(self.word_embed(words))'),
        ('self.dropout(F.relu(self.word_embed(words)))', 'self.dropout(self.word_embed(words))'),
        ('self.dropout(F.relu(self.mean_embed(batch.fc)))', 'F.relu(self.mean_embed(batch.fc))'),
        ('self.dropout(F.relu(self.feature_embed(self.feature_norm(batch.features))))',
         'F.relu(self.feature_embed(self.feature_norm(batch.features)))'),
        ('regions = self.embedded_norm(regions)', 'pass'),
        ('F.linear(cells[1][0], weights[0])', 'F.linear(cells[0][0], weights[0])'),
        ('torch.cat((attended, first[0]), 1)', 'torch.cat((first[0], attended), 1)'),
        ('self.attention(first[0], images, *regions)', 'self.attention(cells[0][0], images, *regions)'),
        ('Cells([first, second])', 'Cells([second, first])')),
    *faults_in(
        'models/recurrent.py', [SCHEDULED],
        ('hidden = hidden.index_select(0, kept)', 'hidden = hidden[:len(live)]'),
        ('words.device) < self.scheduled_sampling_prob', 'words.device) > self.scheduled_sampling_prob'),
        ('self.training and self.scheduled_sampling_prob > 0', 'self.scheduled_sampling_prob > 0'),
        ('self.log_probs(hidden[replaced])', 'self.log_probs(hidden[:int(replaced.sum())])'),
        ('self._with_sampled(words_of_step[t], hidden)', 'words_of_step[t]')),
    *faults_in(
        'models/recurrent.py', [SELECTED, WEIGHTS],
        ('[part[index] for part in self.parts]', '[part[:len(index)] for part in self.parts]'),
        ('captions + positions // length).argsort()]', 'captions + positions // length)]')),
    *faults_in(
        'models/transformer.py', [FORMULAS, CACHED, DROPOUT],
        ('self.embedded_norm(self.feature_dropout.relu_(regions))', 'self.embedded_norm(F.relu(regions))'),
        ('self.embedded_norm(self.feature_dropout.relu_(regions))', 'self.feature_dropout.relu_(regions)'),
        ('regions = self.encoder_norm(regions)', 'pass'),
        ('self.word_positions[offsets])', 'self.word_positions[offsets * 0])'),
        ('* math.sqrt(self.size)', '* self.size'),
        ('self.word_positions[state.length]', 'self.word_positions[0]'),
        ('return self.decoder_norm(words), positions', 'return words, positions'),
        ('regions = self.dropout.add(regions, attended)', 'regions = regions + attended'),
        ('self.feed_forward(self.norms[1](regions))', 'self.feed_forward(self.norms[0](regions))'),
        ('return self.dropout.add(regions, self.feed', 'return torch.add(regions, self.feed'),
        ('causal=True)\n        return self._attend_to_regions(self.dropout.add(words, attended), images',
         'causal=True)\n        return self._attend_to_regions(words + attended, images'),
        ('keys, values)\n        return self._attend_to_regions(self.dropout.add(words, attended), images',
         'keys, values)\n        return self._attend_to_regions(words + attended, images'),
        ('self.dropout.add(words, self.cross(', 'torch.add(words, self.cross('),
        ('self.dropout.add(words, self.feed_forward(', 'torch.add(words, self.feed_forward('),
        ('self.outer(self.dropout(F.gelu(hidden)))', 'self.outer(F.gelu(hidden))'),
        ('F.gelu(hidden)', "F.gelu(hidden, approximate='tanh')"),
        ('captions, causal=True)', 'captions)'),
        ('self.word_dropout(self.word_embed', '(self.word_embed')),
    *faults_in(
        'models/transformer.py', [STARTS],
        ('relations.init_weights()', 'pass'),
        ('self.init_weights()\n', '\n')),
    *faults_in(
        'models/xlinear.py', [FORMULAS, DROPOUT],
        ('self.dropout * self.training', '0.0'),
        ('self.dropout * self.training', 'self.dropout'),
        ('torch.sigmoid(self.squeeze(mean_e))', 'torch.tanh(self.squeeze(mean_e))'),
        ('* self.query2(words) * mixed', '* self.query1(words) * mixed'),
        ('self.norm(kernels.celu(self.linear(rows)))', 'kernels.celu(self.norm(self.linear(rows)))'),
        ('PackedKeyValue(self.key(regions), self.value(regions), groups)',
         'PackedKeyValue(self.value(regions), self.key(regions), groups)'),
        ('nn.LayerNorm(size, eps=1e-5)', 'nn.LayerNorm(size, eps=1e-3)')),
    *faults_in(
        'models/xlinear.py', [SELECTED],
        ('PackedKeyValue(self.key[rows], self.value[rows], groups)',
         'PackedKeyValue(self.key, self.value[rows], groups)')),
    *faults_in(
        'models/kernels/__init__.py', [KERNELS, DROPOUT],
        ('dtype=torch.bool).tril_()', 'dtype=torch.bool)'),
        ('return CELU.apply(rows)', 'return F.elu(rows, 0.9)')),
    *faults_in(
        'models/kernels/attention.py', [KERNELS, DROPOUT],
        ('.to(wide).mul_(query.shape[3] ** -0.5)', '.to(wide)'),
        ('        d_logits.mul_(query.shape[3] ** -0.5)\n', ''),
        ('signed.clamp(min=0).mul_(factor), value)', 'signed.clamp(min=0), value)'),
        ('dropped = signed.clamp(min=0).mul_(ctx.factor)', 'dropped = signed.clamp(min=0)'),
        ('flow.addcmul_(signed.abs(), flow', 'flow.addcmul_(signed, flow'),
        ('masked_fill_(~mask, -torch.inf)', 'masked_fill_(~mask, -1.0)')),
    *faults_in(
        'models/kernels/elementwise.py', [KERNELS, DROPOUT],
        ('_drops(probability) - 32768', '_drops(probability) - 31768'),
        ('65536 / (65536 - _drops(probability))', '1 / (1 - probability) ** 2'),
        ('.random_(-2 ** 63, None)', '.random_(0, None)'),
        ('np.random.SFC64(seed)', 'np.random.SFC64(7)'),
        ('else rows).mul_(keep)', 'else rows).mul_(1)'),
        ('return (rows * keep).mul_(ctx.factor)', 'return rows * keep'),
        ('update * keep, alpha=ctx.factor)', 'update * keep)'),
        ('update * keep, alpha=ctx.factor)', 'update, alpha=ctx.factor)'),
        ('(gradient * keep).mul_(ctx.factor).to(ctx.dtype)', '(gradient * keep).to(ctx.dtype)'),
        ('drop_(rows, keep).mul_(ctx.factor)', 'drop_(rows, keep)'),
        ('gradient.mul_(ctx.factor) if ctx.factor != 1 else gradient', 'gradient'),
        ('rows.clamp(max=0).exp_().sub_(1)', 'rows.clamp(max=0).exp_()'),
        ('out.clamp(max=0).add_(1).mul_(gradient)', 'out.clamp(max=0).add_(2).mul_(gradient)')),
]
