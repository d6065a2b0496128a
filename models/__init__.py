"""The one place where options become models."""

from models.decoding import Constraints, beam_search, sample
from models.geometry import RelationBias
from models.position import build_place
from models.recurrent import ShowAttendTell, ShowTell, TopDown
from models.transformer import TransformerCaptioner


def build(options, vocab_size, longest):
    """The model that `options` (a namespace of `opts.py`'s model flags) describe.

    `vocab_size` counts the words and the end token; captions are cut at `longest` words.
    """
    makers = {'show_tell': build_show_tell, 'show_attend_tell': build_show_attend_tell,
              'topdown': build_topdown}
    return makers.get(options.caption_model, build_transformer)(options, vocab_size, longest)


def build_transformer(options, vocab_size, longest):
    """`spatial_pe`, `relation_transformer` or `transformer`."""
    place = relations = None
    if options.caption_model == 'spatial_pe':
        place = build_place(options.enc_pos_type, options.enc_pos_embedding,
                            options.input_encoding_size, round(options.num_grids ** 0.5),
                            options.dropout)
    if options.caption_model == 'relation_transformer':
        relations = RelationBias(options.num_layers, options.heads, options.box_trignometric_embedding)
    return TransformerCaptioner(
        vocab_size, longest, feature_size=options.img_feat_size, size=options.input_encoding_size,
        hidden=options.ff_size, layers=options.num_layers, heads=options.heads,
        dropout=options.dropout, feature_dropout=options.drop_prob_lm, norm=options.norm,
        activation=options.ff_activation, cross=options.cross_attn, place=place, relations=relations,
        extra_skip=relations is not None and options.legacy_extra_skip, use_bn=options.use_bn)


def recurrent_sizes(options):
    """The arguments that all recurrent models take."""
    return {'feature_size': options.img_feat_size, 'word_size': options.input_encoding_size,
            'size': options.hidden_size, 'dropout': options.drop_prob_lm}


def build_show_tell(options, vocab_size, longest):
    """`show_tell`."""
    return ShowTell(vocab_size, longest, cell=options.rnn_type, **recurrent_sizes(options))


def build_show_attend_tell(options, vocab_size, longest):
    """`show_attend_tell`."""
    return ShowAttendTell(vocab_size, longest, cell=options.rnn_type, inner=options.att_hid_size,
                          **recurrent_sizes(options))


def build_topdown(options, vocab_size, longest):
    """`topdown`."""
    return TopDown(vocab_size, longest, inner=options.att_hid_size, use_bn=options.use_bn,
                   **recurrent_sizes(options))


def build_decoder(options, longest, vocabulary, copies=1):
    """The way of decoding that `options` describe: a function (model, memory, chances) -> `Decoded`.

    `chances(copies, longest)` gives the numbers by which words are drawn (see `sample`).  `vocabulary`
    {index as text: word} tells whether the last word is UNK; `copies` captions per image are wanted.
    """
    last = len(vocabulary)
    unknown = last if options.suppress_UNK and vocabulary.get(str(last)) == 'UNK' else None
    constraints = Constraints(unknown, options.decoding_constraint, options.block_trigrams)

    def decode(model, memory, chances):
        if not options.sample_max:
            return sample(model, memory, longest, copies, temperature=options.temperature, top_k=options.top_k,
                          top_p=options.top_p, constraints=constraints, chances=chances(copies, longest))
        if options.beam_size == 1:
            return sample(model, memory, longest, greedy=True, constraints=constraints)
        return beam_search(
            model, memory, longest, options.beam_size, options.group_size, options.diversity_lambda,
            options.length_penalty, options.max_ppl, copies, constraints)

    return decode
