"""How many floating-point operations training steps and decoding need at least."""

from collections.abc import Sequence

from scripts.benchmarking.made_up import Sizes, model_options


def counted_operations(sizes: Sizes, counts: Sequence[int], lengths: Sequence[Sequence[int]]) -> int:
    """The floating-point operations of the matrix products that a cross-entropy step cannot avoid.

    `counts`: regions of each image; `lengths`: for each image, the words of each of its captions.  A product counts
    three times: its backward pass is two products of the same size, one for each factor's gradient.  Features and
    grid vectors need no gradient.  Not counted: elementwise operations, the optimiser, and whatever is computed
    twice.
    """
    inputs, others = multiplications(sizes, counts, lengths)
    return 2 * (2 * inputs + 3 * others)


def counted_decoding(sizes: Sizes, counts: Sequence[int], lengths: Sequence[Sequence[int]]) -> int:
    """Those of encoding images and writing captions with so many words, each word once."""
    return 2 * sum(multiplications(sizes, counts, lengths))


def multiplications(sizes: Sizes, counts: Sequence[int], lengths: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The multiply-adds of the products of a forward pass: those with features and grid vectors, and the others.

    A product of (n, a) with (a, b) is n a b multiply-adds.  With M regions, N words (each caption's end
    token, also predicted, included), d the model size, f the FFN's, D the features', g the grid's side,
    V the vocabulary + 1, in each of L layers of encoder and decoder:
      every region     D d to embed, d d + 2 g d for its position (`gxg`);
                       L (4 d d for queries, keys, values, output, + 2 d f of the FFN);
                       L 2 d d for keys and values of the decoder's X-linear attention
      pairs of regions of an image           L 2 d: the logit, and the weighted sum
      every word       L (4 d d + 2 d f); L (2 d d for both queries, + d/2 d for channel weights); d V
      a word with itself or an earlier one of its caption     L 2 d
      a word with a region of its image      L (d d/2 for e, + d/2 for its logit, + d for the sum)
    """
    options = model_options(sizes)
    d, f, D, L = options.input_encoding_size, options.ff_size, options.img_feat_size, options.num_layers
    g, V = round(options.num_grids ** 0.5), sizes.words + 1
    predicted = [[words + 1 for words in image] for image in lengths]
    M, N = sum(counts), sum(map(sum, predicted))
    pairs = sum(count * sum(image) for count, image in zip(counts, predicted))
    inputs = M * (D * d + 2 * g * d)
    regions = M * (d * d + L * (6 * d * d + 2 * d * f)) + L * 2 * d * sum(count ** 2 for count in counts)
    words = N * (L * (6 * d * d + 2 * d * f + d * d // 2) + d * V)
    earlier = L * 2 * d * sum(words * (words + 1) // 2 for image in predicted for words in image)
    return inputs, regions + words + earlier + pairs * L * (d * d // 2 + d // 2 + d)
