"""The one place where options become models."""

from models.position import build_place
from models.transformer import Captioner

FAMILY = ('spatial_pe', 'transformer')


def build(options, vocab_size, longest):
    """The model that `options` (a namespace of `opts.py`'s model flags) describe.

    `vocab_size` counts the words and the end token; captions are cut at `longest` words.
    """
    place = None
    if options.caption_model == 'spatial_pe':
        place = build_place(options.enc_pos_type, options.enc_pos_embedding,
                            options.input_encoding_size, round(options.num_grids ** 0.5),
                            options.dropout)
    return Captioner(
        vocab_size, longest, feature_size=options.img_feat_size, size=options.input_encoding_size,
        hidden=options.ff_size, layers=options.num_layers, heads=options.heads,
        dropout=options.dropout, feature_dropout=options.drop_prob_lm, norm=options.norm,
        activation=options.ff_activation, cross=options.cross_attn, place=place)
