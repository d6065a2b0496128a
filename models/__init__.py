"""The one place where options become models."""

from models.decoding import Constraints, beam_search, sample
from models.position import build_place
from models.transformer import Captioner


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


def build_decoder(options, longest, vocabulary, copies=1):
    """The way of decoding that `options` describe: a function (model, memory, chances) -> `Decoded`.

    `chances(copies, longest)` gives the numbers by which words are drawn (see `sample`).  `vocabulary` {index as text: word} tells whether the last word is UNK; `copies` captions per
    image are wanted.
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
