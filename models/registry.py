"""What every model is called, reads and takes: the one place that opts.py, the programs and the page ask.

A new model is a file with its class and a line in `MODELS`.  This file loads nothing, so that `--help` is quick.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field

BOX_FLAGS = ('input_box_dir', 'input_rel_box_dir', 'norm_box_feat')
# Input of a model (see `models.base.Batch`): the flags by which it is read.  Grid vectors can come from boxes.
INPUT_FLAGS = {
    'features': ('norm_img_feat',), 'fc': ('input_fc_feat_dir',), 'boxes': BOX_FLAGS,
    'grids': ('input_grid_vec_dir', 'num_grids', *BOX_FLAGS)}
SAMPLING_FLAGS = tuple(f'scheduled_sampling_{name}'
                       for name in ('start', 'increase_every', 'increase_prob', 'max_prob'))
# Flags that matter beside any model: the learning rate depends on the size, and the data set on the features.
ALWAYS_USED = ('input_encoding_size', 'img_feat_size')
PLACES = {'boxes': 'the box of each region', 'grids': 'what share of each grid cell every region covers'}
CROSS_ATTENTION = {
    'xlinear': 'the spatial weights of its X-linear attention',
    'dot-product': 'the weights of its dot-product attention, averaged over the heads'}


@dataclass(frozen=True)
class Place:
    """How a model knows where regions are.

    source  the input that says so: 'grids' or 'boxes'
    words   what it knows, as the page says it after "The model knows" (default: that of the source)
    """

    source: str
    words: str = ''

    def __str__(self) -> str:
        return self.words or PLACES[self.source]


@dataclass(frozen=True)
class Model:
    """What a model needs.

    builder        'file:name', a file of models/ and what it calls with (vocab_size, longest, **arguments)
    about          a few words for `--help`
    arguments      {argument of the builder: the option that it takes}
    inputs         what it reads of a batch, besides places: 'features', 'fc'
    places         how it knows where regions are: one `Place`; or one for each --enc_pos_type, and one for 'fixed',
                   --enc_pos_embedding 0; empty for a model without positions
    attention      what its attention weights are, as the page says it; '' for a model that does not attend to single
                   regions.  With an argument from --cross_attn, that decides
    word_by_word   whether it reads a caption word by word, so that scheduled sampling is possible
    default_cross  --cross_attn unless given
    fixed          {option: the only value that the model knows}
    """

    builder: str
    about: str
    arguments: Mapping[str, str]
    inputs: tuple[str, ...] = ('features',)
    places: Mapping[str, Place] | Place | None = None
    attention: str = 'the weights of its attention over the regions'
    word_by_word: bool = False
    default_cross: str = 'dot-product'
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> set[str]:
        """The options that the model uses, besides those that all use."""
        places = self.places.values() if isinstance(self.places, Mapping) else [self.places] if self.places else []
        sources = (*self.inputs, *(place.source for place in places))
        read = [flag for source in sources for flag in INPUT_FLAGS[source]]
        return {*self.arguments.values(), *read, *self.fixed, *(SAMPLING_FLAGS if self.word_by_word else ())}

    def encoding(self, options: Namespace) -> str:
        """Which of its spatial encodings the model that `options` describe has, a key of `places`; '' without a
        choice."""
        if not isinstance(self.places, Mapping):
            return ''
        return options.enc_pos_type if options.enc_pos_embedding else 'fixed'

    def place(self, options: Namespace) -> Place | None:
        """How the model that `options` describe knows where regions are; None if it does not."""
        return self.places[self.encoding(options)] if isinstance(self.places, Mapping) else self.places

    def needs(self, options: Namespace) -> set[str]:
        """What the model that `options` describe may read of a batch."""
        place = self.place(options)
        return {*self.inputs, *([place.source] if place else ())}

    def attends_with(self, options: Namespace) -> str:
        """What the attention weights of the model that `options` describe are; '' if it has none."""
        return CROSS_ATTENTION[options.cross_attn] if 'cross_attn' in self.arguments.values() else self.attention


def is_used(name: str, options: Namespace) -> bool:
    """Whether the model that `options` describe uses the option `name`: unless only other models do."""
    return name in ALWAYS_USED or name in MODELS[options.caption_model].flags \
        or not any(name in model.flags for model in MODELS.values())


def users(name: str) -> str:
    """The models that use the option `name`, for a help text: 'topdown and show_tell'."""
    names = [model for model, described in MODELS.items() if name in described.flags - set(described.fixed)]
    return ' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)


def about(word_by_word: bool) -> str:
    """The names and descriptions of the models that read captions word by word, or of the others, for `--help`."""
    return ', '.join(f'{name} ({model.about})' for name, model in MODELS.items()
                     if model.word_by_word == word_by_word)


TRANSFORMER = dict(
    feature_size='img_feat_size', size='input_encoding_size', hidden='ff_size', layers='num_layers', heads='heads',
    dropout='dropout', feature_dropout='drop_prob_lm', norm='norm', activation='ff_activation', cross='cross_attn',
    use_bn='use_bn', xlinear='xlinear')
RECURRENT = dict(
    feature_size='img_feat_size', word_size='input_encoding_size', size='hidden_size', dropout='drop_prob_lm')
PROFILES = 'how many grid cells each region covers in every row and every column'
EACH_WORD = 'the weights of its attention over the regions, computed before each word'

MODELS = {
    'spatial_pe': Model(
        'transformer:spatial_transformer', 'regions carry a spatial encoding',
        {**TRANSFORMER, 'kind': 'enc_pos_type', 'learned': 'enc_pos_embedding', 'cells': 'num_grids'},
        places={'gxg': Place('grids', PROFILES), 'g2': Place('grids'), 'box-coord': Place('boxes'),
                'fixed': Place('grids', f'{PROFILES}, as a fixed mixture of sinusoids')}, default_cross='xlinear'),
    'relation_transformer': Model(
        'transformer:relation_transformer', 'self-attention weighted by the geometry of the regions',
        {**TRANSFORMER, 'trigonometric': 'box_trignometric_embedding', 'extra_skip': 'legacy_extra_skip'},
        places=Place('boxes', 'how each pair of regions lies relative to one another')),
    'transformer': Model('transformer:transformer', 'no positions', TRANSFORMER),
    'show_tell': Model(
        'recurrent:ShowTell', 'sees the mean feature once', {**RECURRENT, 'cell': 'rnn_type'}, inputs=('fc',),
        attention='', word_by_word=True),
    'show_attend_tell': Model(
        'recurrent:ShowAttendTell', 'an LSTM with soft attention',
        {**RECURRENT, 'cell': 'rnn_type', 'inner': 'att_hid_size'}, inputs=('features', 'fc'), attention=EACH_WORD,
        word_by_word=True),
    'topdown': Model(
        'recurrent:TopDown', 'an attention LSTM and a language LSTM',
        {**RECURRENT, 'inner': 'att_hid_size', 'use_bn': 'use_bn'}, inputs=('features', 'fc'), attention=EACH_WORD,
        word_by_word=True, fixed={'rnn_type': 'lstm'}),
}
