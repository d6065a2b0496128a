"""Legacy checkpoints: their names for weights and options, and the names that these have here.

Two programs wrote them: the original code of the spatial transformer ("Spatial"), and the zoo of the Object Relation
Transformer.  `recognise` finds out which model and options a file belongs to, `Names` translates the names of its
weights in both directions; nothing else in the project knows them.
"""

import collections
import functools
import math
import numbers
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from misc.cli import DataError

LONGEST = 16  # words of the longest caption, if neither the infos file nor a label file says it
ZOO_HEADS, ZOO_DROPOUT, ZOO_FEATURE_DROPOUT = 8, 0.1, 0.5  # if the infos file does not say them
BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')  # buffers, not parameters
# Kinds of optimisers, and a setting that only this kind has.
SETTINGS = (('adam', 'betas'), ('rmsprop', 'alpha'), ('adagrad', 'lr_decay'))
IGNORED = ('model.src_embed.rows', 'model.src_embed.cols', 'model.tgt_embed.1.pe')  # constants, computed here
PREFIXES = ('model.', 'att_embed.', 'fc_embed.', 'img_embed.', 'embed.', 'ctx2att.', 'core.', 'rnn.',
            'logit.')

# A model, and the keys that distinguish it from those below it.
FAMILIES = (
    ('relation_transformer', r'model\.encoder\.layers\.\d+\.self_attn\.WGs\..*'),
    ('spatial_pe', r'model\.src_embed\.fc.*'),
    ('transformer', r'model\.(encoder|decoder|generator)\..*'),
    ('topdown', r'core\.(att_lstm|lang_lstm|attention)\..*'),
    ('show_tell', r'img_embed\..*|(core|rnn)\.weight_[ih]h_l\d+'),
)

# The name of a module here, in the Spatial code, and in the zoo where it differs.  * is a number, the same on both
# sides; # numbers modules whose weights are concatenated to one weight here.
TRANSFORMER = (
    ('encoder.*.attention.query', 'model.encoder.layers.*.self_attn.linears.0'),
    ('encoder.*.attention.key', 'model.encoder.layers.*.self_attn.linears.1'),
    ('encoder.*.attention.value', 'model.encoder.layers.*.self_attn.linears.2'),
    ('encoder.*.attention.output', 'model.encoder.layers.*.self_attn.linears.3'),
    ('relations.layers.*', 'model.encoder.layers.*.self_attn.WGs.#'),
    ('encoder.*.feed_forward.inner', 'model.encoder.layers.*.feed_forward.fc.0',
     'model.encoder.layers.*.feed_forward.w_1'),
    ('encoder.*.feed_forward.outer', 'model.encoder.layers.*.feed_forward.fc.3',
     'model.encoder.layers.*.feed_forward.w_2'),
    ('encoder.*.norms.*', 'model.encoder.layers.*.sublayer.*.norm'),
    ('encoder_norm', 'model.encoder.norm'),
    ('decoder.*.attention.query', 'model.decoder.layers.*.self_attn.linears.0'),
    ('decoder.*.attention.key', 'model.decoder.layers.*.self_attn.linears.1'),
    ('decoder.*.attention.value', 'model.decoder.layers.*.self_attn.linears.2'),
    ('decoder.*.attention.output', 'model.decoder.layers.*.self_attn.linears.3'),
    ('decoder.*.cross.query', 'model.decoder.layers.*.cross_attn.linears.0',
     'model.decoder.layers.*.src_attn.linears.0'),
    ('decoder.*.cross.key', 'model.decoder.layers.*.cross_attn.linears.1',
     'model.decoder.layers.*.src_attn.linears.1'),
    ('decoder.*.cross.value', 'model.decoder.layers.*.cross_attn.linears.2',
     'model.decoder.layers.*.src_attn.linears.2'),
    ('decoder.*.cross.output', 'model.decoder.layers.*.cross_attn.linears.3',
     'model.decoder.layers.*.src_attn.linears.3'),
    # X-linear: a GroupNorm of one group over a single row is the layer norm of that row.
    ('decoder.*.cross.query1.linear', 'model.decoder.layers.*.cross_attn.linears.0.0'),
    ('decoder.*.cross.query1.norm', 'model.decoder.layers.*.cross_attn.linears.0.2'),
    ('decoder.*.cross.key.linear', 'model.decoder.layers.*.cross_attn.linears.1.0'),
    ('decoder.*.cross.key.norm', 'model.decoder.layers.*.cross_attn.linears.1.2'),
    ('decoder.*.cross.query2.linear', 'model.decoder.layers.*.cross_attn.linears.2.0'),
    ('decoder.*.cross.query2.norm', 'model.decoder.layers.*.cross_attn.linears.2.2'),
    ('decoder.*.cross.value.linear', 'model.decoder.layers.*.cross_attn.linears.3.0'),
    ('decoder.*.cross.value.norm', 'model.decoder.layers.*.cross_attn.linears.3.2'),
    ('decoder.*.cross.embed', 'model.decoder.layers.*.cross_attn.attention.embed.0'),
    ('decoder.*.cross.spatial', 'model.decoder.layers.*.cross_attn.attention.spatial'),
    ('decoder.*.cross.squeeze', 'model.decoder.layers.*.cross_attn.attention.squeeze.0'),
    ('decoder.*.feed_forward.inner', 'model.decoder.layers.*.feed_forward.fc.0',
     'model.decoder.layers.*.feed_forward.w_1'),
    ('decoder.*.feed_forward.outer', 'model.decoder.layers.*.feed_forward.fc.3',
     'model.decoder.layers.*.feed_forward.w_2'),
    ('decoder.*.norms.*', 'model.decoder.layers.*.sublayer.*.norm'),
    ('decoder_norm', 'model.decoder.norm'),
    ('place.rows', 'model.src_embed.fc1'),
    ('place.columns', 'model.src_embed.fc2'),
    ('place.features', 'model.src_embed.fc3'),
    ('place.cells', 'model.src_embed.fc'),
    ('place.hidden', 'model.src_embed.fc.0'),
    ('place.out', 'model.src_embed.fc.2'),
    ('word_embed', 'model.tgt_embed.0.embedding', 'model.tgt_embed.0.lut'),
    ('output', 'model.generator.proj'),
)
TOPDOWN = (
    ('word_embed', 'embed.0'),
    ('mean_embed', 'fc_embed.0'),
    ('attention.key', 'ctx2att'),
    ('attention.query', 'core.attention.h2att'),
    ('attention.score', 'core.attention.alpha_net'),
    ('attention_cell', 'core.att_lstm'),
    ('language_cell', 'core.lang_lstm'),
    ('output', 'logit'),
)
SHOW_TELL = (
    ('image_embed', 'img_embed'),
    ('word_embed', 'embed'),
    ('cell', 'rnn', 'core'),
    ('output', 'logit'),
)
TABLES = {'topdown': TOPDOWN, 'show_tell': SHOW_TELL}  # all others: TRANSFORMER
# The feature embedding, by `use_bn`: batch normalisation before it, and after it too.
FEATURES = (
    (('feature_embed', 'att_embed.0'),),
    (('feature_norm', 'att_embed.0'), ('feature_embed', 'att_embed.1')),
    (('feature_norm', 'att_embed.0'), ('feature_embed', 'att_embed.1'), ('embedded_norm', 'att_embed.4')),
)
# The last part of a name, in the file and here, where they differ.
CELL_LEAVES = {'weight_ih_l0': 'weight_ih', 'weight_hh_l0': 'weight_hh'}
NORM_LEAVES = {'a_2': 'gain', 'b_2': 'shift'}
LEAVES: dict[str, dict[str, str]] = {'topdown': {}, 'show_tell': CELL_LEAVES}  # all others: NORM_LEAVES

# Option: the keys of the weights, and the axis along which their size is the option's value.
TRANSFORMER_SIZES = {
    'input_encoding_size': (r'model\.(en|de)coder\.(layers\.\d+\.sublayer\.\d+\.)?norm\.(weight|a_2|scale)',
                            0),
    'ff_size': (r'model\.(en|de)coder\.layers\.\d+\.feed_forward\.(fc\.0|w_1)\.weight', 0),
    'img_feat_size': (r'att_embed\.[01]\.weight', 1),
    'vocab_size': (r'model\.(generator\.proj\.(weight|bias)|tgt_embed\.0\.(lut|embedding)\.weight)', 0),
}
SIZES = {
    'topdown': {
        'input_encoding_size': (r'embed\.0\.weight', 1),
        'hidden_size': (r'core\.(att|lang)_lstm\.weight_hh', 1),
        'att_hid_size': (r'(ctx2att|core\.attention\.h2att)\.(weight|bias)', 0),
        'img_feat_size': (r'(att_embed\.[01]|fc_embed\.0)\.weight', 1),
        'vocab_size': (r'(embed\.0\.weight|logit\.(weight|bias))', 0),
    },
    'show_tell': {
        'input_encoding_size': (r'(embed\.weight|(core|rnn)\.weight_ih_l0)', 1),
        'hidden_size': (r'((core|rnn)\.weight_hh_l0|logit\.weight)', 1),
        'img_feat_size': (r'img_embed\.weight', 1),
        'vocab_size': (r'(embed\.weight|logit\.(weight|bias))', 0),
    },
}
PLACES = {'gxg': (r'model\.src_embed\.fc[12]\.weight', 1), 'g2': (r'model\.src_embed\.fc\.weight', 1)}
GEOMETRY = (r'model\.encoder\.layers\.\d+\.self_attn\.WGs\.\d+\.weight', 1)
CELLS = (r'(core|rnn)\.weight_hh_l0', 0)
LAYERS = r'model\.encoder\.layers\.(\d+)\..*'

# Option: its names in infos files, the first one that is there counts.
ALIASES = {
    'img_feat_size': ('img_feat_size', 'att_feat_size', 'fc_feat_size'),
    'norm_img_feat': ('norm_img_feat', 'norm_att_feat'),
    'ff_size': ('ff_size', 'rnn_size'),
    'hidden_size': ('rnn_size', 'hidden_size'),
}


def is_legacy(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of a legacy checkpoint."""
    return any(isinstance(key, str) and key.startswith(PREFIXES) for key in weights)


def recognise(weights: Mapping[str, Tensor], saved: Mapping[str, Any], words: int) -> dict[str, Any]:
    """The model that a legacy state dict belongs to: {option: value}, with the names of `opts.py`.

    Names and shapes of the weights have to agree with `saved`, the options of the infos file, and with the number of
    `words` in its vocabulary; the remaining options are those of the file.  Raises `DataError` that lists all
    contradictions.
    """
    family, saved = family_of(weights), {**saved, 'vocab_size': words}
    found: dict[str, tuple[Any, str]] = {'caption_model': (family, 'the names of the weights'),
                                         **sizes_in(weights, family)}
    if family not in TABLES:
        found.update(variants_in(weights, family))
    if family != 'show_tell':
        found['use_bn'] = batch_norms(weights), 'att_embed'
    wrong = []
    for name, (value, key) in found.items():
        claims = saved_values(saved, name)
        if claims and not any(agrees(name, claim, value) for claim in claims):
            wrong.append(f'{name} is {claims[0]} in the infos file and {value} by {key}')
    if saved.get('use_grid') and family == 'transformer':
        wrong.append('use_grid is true in the infos file, there is no model.src_embed')
    if wrong:
        raise DataError('; '.join(wrong))
    named = [*SIZES.get(family, TRANSFORMER_SIZES), 'norm_img_feat', 'seq_length', 'id']
    if family not in TABLES:
        named += ['num_grids', 'ff_activation', 'norm_box_feat', 'legacy_extra_skip', 'heads']
    options = {name: next(iter(saved_values(saved, name)), None) for name in named}
    options.update({name: value for name, (value, _) in found.items()})
    if family not in TABLES:
        options['heads'] = options['heads'] or ZOO_HEADS
    return {**options, **dropout_rates(saved), 'keeps_rates': True}  # see opts.with_dropout_rates


def family_of(weights: Iterable[str]) -> str:
    """The `--caption_model` that has weights of these names; raises `DataError`."""
    for family, keys in FAMILIES:
        if any(map(re.compile(keys).fullmatch, weights)):
            return family
    raise DataError(f'weights named {", ".join(list(weights)[:2])} ... belong to none of the legacy models that '
                    f'are known: {", ".join(family for family, _ in FAMILIES)}')


def usual_size(weights: Mapping[str, Tensor], keys: str, axis: int) -> tuple[int, str] | None:
    """The most frequent size along `axis` of the tensors whose names match `keys`, and the name of one that has it;
    or None.  A tensor of another size is broken, and no reason to doubt the others."""
    seen = [(tensor.shape[axis], key) for key, tensor in weights.items()
            if re.fullmatch(keys, key) and tensor.dim() > axis]
    if not seen:
        return None
    size = collections.Counter(size for size, _ in seen).most_common(1)[0][0]
    return size, next(key for other, key in seen if other == size)


def sizes_in(weights: Mapping[str, Tensor], family: str) -> dict[str, tuple[Any, str]]:
    """{option: (its value, the key it was read from)} of the model's sizes."""
    wanted = SIZES.get(family, TRANSFORMER_SIZES)
    sizes = {name: usual_size(weights, *where) for name, where in wanted.items()}
    found: dict[str, tuple[Any, str]] = {name: seen for name, seen in sizes.items() if seen}
    if 'vocab_size' in found:  # not counting the end token
        found['vocab_size'] = found['vocab_size'][0] - 1, found['vocab_size'][1]
    gates = usual_size(weights, *CELLS)
    if gates and found.get('hidden_size', (0,))[0]:
        found['rnn_type'] = 'gru' if gates[0] == 3 * found['hidden_size'][0] else 'lstm', gates[1]
    return found


def variants_in(weights: Mapping[str, Tensor], family: str) -> dict[str, tuple[Any, str]]:
    """{option: (its value, the key it was read from)} of the variants of a transformer."""
    layers = collections.Counter(found[1] for found in map(re.compile(LAYERS).fullmatch, weights) if found)
    whole = [layer for layer, keys in layers.items() if keys > max(layers.values()) / 2]
    found: dict[str, tuple[Any, str]] = {'num_layers': (len(whole), 'model.encoder.layers')} if whole else {}
    leaves = {key.rpartition('.')[2]: key for key in weights if '.norm.' in key}
    norm = 'deviation' if 'a_2' in leaves else 'rms' if 'scale' in leaves else 'layer'
    found['norm'] = norm, next(iter(leaves.values()), 'model.encoder.norm')
    cross = [key for key in weights if '.cross_attn.attention.' in key]
    found['cross_attn'] = ('xlinear', cross[0]) if cross else ('dot-product', 'model.decoder.layers')
    if family == 'spatial_pe':
        found['enc_pos_embedding'] = True, 'model.src_embed'
        kind = position_type(weights)
        found['enc_pos_type'] = kind, 'model.src_embed'
        size = usual_size(weights, *PLACES[kind]) if kind in PLACES else None
        if size:
            found['num_grids'] = size[0] ** 2 if kind == 'gxg' else size[0], size[1]
    size = usual_size(weights, *GEOMETRY)
    if size:
        found['box_trignometric_embedding'] = size[0] != 4, size[1]
    return found


def position_type(weights: Iterable[str]) -> str:
    """The `--enc_pos_type` that has these names under model.src_embed."""
    names = {key.removeprefix('model.src_embed.').rpartition('.')[0] for key in weights}
    return 'gxg' if names & {'fc1', 'fc2', 'fc3'} else 'box-coord' if names & {'fc.0', 'fc.2'} else 'g2'


def batch_norms(weights: Iterable[str]) -> int:
    """The `use_bn` that has these names under att_embed."""
    weights = list(weights)
    if any(key.startswith('att_embed.4.') for key in weights):
        return 2
    return int(any(key.startswith('att_embed.1.') for key in weights))


def saved_values(saved: Mapping[str, Any], name: str) -> list[Any]:
    """The values that the options `saved` have for option `name` under any of its names."""
    values = [saved.get(alias) for alias in ALIASES.get(name, (name,))]
    return [value.lower() if isinstance(value, str) and name != 'id' else value
            for value in values if isinstance(value, (str, numbers.Real))]


def agrees(name: str, claimed: Any, value: Any) -> bool:
    """Whether the infos file's value of an option is consistent with that of the weights."""
    if name == 'caption_model':  # the Spatial code has one name, and a switch
        return claimed == ('transformer' if value == 'spatial_pe' else value) or claimed == value
    return claimed == value or (name, claimed, value) == ('norm', 'layer', 'deviation')


def dropout_rates(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The `--dropout` and `--drop_prob_lm` that the legacy run was trained with."""
    if saved.get('dropout') is not None:  # the Spatial code has one rate for all
        return {'dropout': saved['dropout'], 'drop_prob_lm': saved['dropout']}
    return {'dropout': ZOO_DROPOUT, 'drop_prob_lm': saved.get('drop_prob_lm', ZOO_FEATURE_DROPOUT)}


def translated_infos(infos: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The content of a legacy infos file in this project's form; `options` are what `recognise` found.

    It does not say where in its epoch the run stopped, so the epoch starts from its beginning.
    """
    epoch = whole_number(infos.get('epoch'))
    best = infos.get('best_val_score')
    if not isinstance(best, numbers.Real) or not math.isfinite(best):
        best = None
    return {'opt': options, 'vocab': infos['vocab'], 'iter': whole_number(infos.get('iter')), 'epoch': epoch,
            'best_val_score': None if best is None else float(best),
            'best_measure': 'CIDEr' if infos['opt'].get('language_eval') else 'loss',
            'loader': {'epoch': epoch, 'position': 0}}


def whole_number(value: Any) -> int:
    """`value` as an int if it is a whole number from 0, else 0."""
    return int(value) if isinstance(value, numbers.Integral) and int(value) >= 0 else 0


def describe(options: Mapping[str, Any]) -> str:
    """What was recognised, in one line."""
    names = ('caption_model', 'enc_pos_type', 'cross_attn', 'num_layers', 'heads', 'input_encoding_size',
             'ff_size', 'hidden_size', 'img_feat_size', 'norm', 'use_bn', 'legacy_extra_skip', 'vocab_size')
    return (', '.join(f'{name} {options[name]}' for name in names if options.get(name))
            + f'; trained with dropout {options["dropout"]}, drop_prob_lm {options["drop_prob_lm"]}')


class Names:
    """The names of one model's weights in a legacy checkpoint, and here."""

    def __init__(self, family: str, use_bn: int = 0, spatial: bool = False, modules: Collection[str] = ()) -> None:
        """Those of the model `family` (a `--caption_model`) in files of the Spatial code or of the zoo; where one of
        `modules`, the names in a file, is the other program's, that one counts."""
        rows = [*TABLES.get(family, TRANSFORMER)]
        if family != 'show_tell':
            rows += FEATURES[use_bn]
        self.rows = []
        for ours, *theirs in rows:
            there = [name for name in theirs if any(map(pattern(name).fullmatch, modules))]
            self.rows.append((ours, (there or (theirs if spatial else theirs[::-1]))[0]))
        self.leaves = LEAVES.get(family, NORM_LEAVES)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> 'Names':
        """The names in a file with the state dict `weights`."""
        spatial = any('.feed_forward.fc.' in key or key.startswith('rnn.') for key in weights)
        modules = {key.rpartition('.')[0] for key in weights}
        return cls(family_of(weights), batch_norms(weights), spatial, modules)

    def ours(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{name in the file: tensor} -> {name here: tensor}; unknown names stay."""
        made: dict[str, Tensor] = {}
        rows: dict[str, dict[int, Tensor]] = collections.defaultdict(dict)
        for key, tensor in weights.items():
            module, _, leaf = key.rpartition('.')
            row = first_match(self.rows, module, 1)
            name = f'{filled(row[0], row[2])}.{self.leaves.get(leaf, leaf)}' if row else key
            made[name] = tensor
            if row and '#' in row[1]:
                rows[name][int(module.rpartition('.')[2])] = tensor
        for name, parts in rows.items():
            made[name] = torch.cat([parts[number] for number in sorted(parts)])
        return made

    def theirs(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{name here: tensor} -> {name in the file: tensor}."""
        leaves = {ours: theirs for theirs, ours in self.leaves.items()}
        made: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            module, _, leaf = name.rpartition('.')
            row = first_match(self.rows, module, 0)
            if row is None:
                raise DataError(f'{name} has no name in legacy checkpoints')
            _, theirs, found = row
            key = f'{filled(theirs, found)}.{leaves.get(leaf, leaf)}'
            rows = tensor.split(1) if '#' in theirs else [tensor]
            made.update({key.replace('#', str(number)): row for number, row in enumerate(rows)})
        return made


@functools.cache
def pattern(name: str) -> re.Pattern[str]:
    """The regular expression for a name of the tables."""
    return re.compile(re.escape(name).replace(r'\*', r'(\d+)').replace(r'\#', r'\d+'))


def first_match(rows: Sequence[tuple[str, str]], module: str,
                side: int) -> tuple[str, str, re.Match[str]] | None:
    """The first of `rows` (name here, name in the file) whose name on `side` (0 or 1) matches `module`, with the
    match; or None."""
    for row in rows:
        found = pattern(row[side]).fullmatch(module)
        if found:
            return *row, found
    return None


def filled(name: str, found: re.Match[str]) -> str:
    """A name of the tables with the numbers of the match `found` in place of its *."""
    for number in found.groups():
        name = name.replace('*', number, 1)
    return name


def optimiser_kind(state: Any) -> str | None:
    """The `--optim` whose settings the state of a legacy optimiser has, or None."""
    try:
        group = state['param_groups'][0]
        if 'nesterov' in group:
            return 'sgdmom' if group['nesterov'] else 'sgdm' if group['momentum'] else 'sgd'
        return next((kind for kind, setting in SETTINGS if setting in group), None)
    except (KeyError, TypeError, IndexError):
        return None


def translated_moments(state: Any, weights: Mapping[str, Tensor], optimiser: Any,
                       parameters: Sequence[str]) -> dict[str, Any] | None:
    """The state of a legacy optimiser as a state of `optimiser`; None if it is no such state, or lacks its moments.

    Legacy programs list parameters in the order of their state dict `weights`; `parameters` are the names of those
    that `optimiser` has, in its order.
    """
    keys = [key for key in weights if key not in IGNORED and key.rpartition('.')[2] not in BUFFERS]
    try:
        places = [place for group in state['param_groups'] for place in group['params']]
        settings = {name for group in state['param_groups'] for name in group} - {'initial_lr'}
        by_key = {key: state['state'][place] for key, place in zip(keys, places, strict=True)
                  if place in state['state']}
        kinds = {kind for moments in by_key.values() for kind, value in moments.items()
                 if kind != 'step' and torch.is_tensor(value)}
        steps = {key: torch.tensor([float(moments['step'])]) for key, moments in by_key.items()
                 if 'step' in moments}  # momentum has no step count
        names = Names.of(weights)
        here = {kind: names.ours({key: moments[kind] for key, moments in by_key.items()}) for kind in kinds}
        here['step'] = {name: counts.max() for name, counts in names.ours(steps).items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    groups = optimiser.state_dict()['param_groups']
    has_moments = any('nesterov' not in group or group['momentum'] for group in groups)  # all but plain SGD
    if has_moments and not kinds or not all(settings <= set(group) for group in groups):
        return None
    found = [{kind: of[name] for kind, of in here.items() if name in of} for name in parameters]
    return {'param_groups': groups,
            'state': {place: moments for place, moments in enumerate(found) if moments}}
