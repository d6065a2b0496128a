"""Plain, slow, obviously right versions of what the project does fast.

One image, one caption, one cell at a time; no cache, no batch, no tricks.  Tests compare the fast paths with
these, and `scripts/benchmark.py` times both.  The dimension letters are those of `models/__init__.py`.

Dropout is off where `drop` is None; else `drop(probability)` is the factor by which dropout with this probability
multiplies its numbers, all alike.
"""

import math

import torch


def factor(drop, module, name='dropout'):
    """By what a module's dropout multiplies."""
    if drop is None:
        return 1.0
    dropout = getattr(module, name)
    return drop(getattr(dropout, 'probability', dropout))


def norm(module, x):
    """The norm of each row of x (rows, d): layer norm, RMS norm, or that by the unbiased deviation."""
    if hasattr(module, 'scale'):
        return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-8) * module.scale
    mean = x.mean(-1, keepdim=True)
    if hasattr(module, 'gain'):
        unbiased = ((x - mean) ** 2).sum(-1, keepdim=True) / (x.shape[-1] - 1)
        return module.gain * (x - mean) / (unbiased.sqrt() + 1e-6) + module.shift
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * module.weight + module.bias


def embed_features(model, x, drop=None):
    """An image's features (P, D) -> (P, d), by Dropout(ReLU(x W^T + b)) between the batch normalisations that the
    model has, which use their running statistics."""
    def normalised(module, x):
        if not hasattr(module, 'running_mean'):
            return x
        return (x - module.running_mean) / (module.running_var + 1e-5).sqrt() * module.weight + module.bias

    scale = factor(drop, model, 'feature_dropout' if hasattr(model, 'encoder') else 'dropout')
    x = torch.relu(linear(model.feature_embed, normalised(getattr(model, 'feature_norm', None), x)))
    return normalised(getattr(model, 'embedded_norm', None), x * scale)


def linear(module, x):
    """x W^T + b."""
    return x @ module.weight.T + module.bias


def dot_attention(module, queries, keys, mask=None, bias=None, record=None, drop=None):
    """Multi-head attention of queries (n, d) to keys (m, d), a head at a time.

    mask (n, m) is True where a query may attend; bias (heads, n, m) is added to the logits.  A list `record`
    takes the weights (n, m), their mean over the heads.
    """
    q, k, v = linear(module.query, queries), linear(module.key, keys), linear(module.value, keys)
    size = q.shape[1] // module.heads
    heads, weights = [], 0
    for head in range(module.heads):
        part = slice(head * size, (head + 1) * size)
        logits = q[:, part] @ k[:, part].T / size ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        if bias is not None:
            logits = logits + bias[head]
        heads.append(logits.softmax(-1) * factor(drop, module) @ v[:, part])
        weights = weights + logits.softmax(-1) / module.heads
    if record is not None:
        record.append(weights)
    attended = torch.cat(heads, 1)
    if getattr(module, 'extra_skip', False):
        attended = attended + keys
    return linear(module.output, attended)


def box_relation(one, other):
    """The geometry of two boxes x1, y1, x2, y2 (Herdade et al. 2019): the distance of the other's centre and its
    relative size, as four logarithms."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = [
        ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1 + 1, y2 - y1 + 1) for x1, y1, x2, y2 in (one, other)]
    return [math.log(max(abs(ax - bx) / aw, 1e-3)), math.log(max(abs(ay - by) / ah, 1e-3)),
            math.log(aw / bw), math.log(ah / bh)]


def relation_bias(relations, layer, boxes):
    """What the geometry of an image's boxes (P, 4) adds to a layer's logits, (heads, P, P), a pair at a time."""
    module, corners, P = relations.layers[layer], boxes.tolist(), len(boxes)
    rows = []
    for m in range(P):
        for n in range(P):
            numbers = box_relation(corners[m], corners[n])
            if relations.trigonometric:
                angles = [100 * number / 1000 ** (i / 8) for number in numbers for i in range(8)]
                numbers = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            rows.append([linear(module, torch.tensor(numbers))[head].relu().clamp(min=1e-6).log()
                         for head in range(relations.heads)])
    return torch.stack([torch.stack(row) for row in rows]).T.reshape(relations.heads, P, P)


def xlinear_attention(module, queries, regions, record=None, drop=None):
    """X-linear attention (Pan et al. 2020) of queries (n, d) to regions (P, d), a query at a time.

    A list `record` takes the spatial weights (n, P).
    """
    def project(part, x):
        y = linear(part.linear, x)
        y = torch.where(y > 0, y, y.exp() - 1)
        return torch.stack([norm(part.norm, row[None])[0] for row in y])

    q1, q2 = project(module.query1, queries), project(module.query2, queries)
    k, v = project(module.key, regions), project(module.value, regions)
    out, weights = [], []
    for n in range(len(queries)):
        e = torch.relu(linear(module.embed, q1[n] * k)) * factor(drop, module)  # (P, d/2)
        a = linear(module.spatial, e).softmax(0)  # (P, 1)
        c = torch.sigmoid(linear(module.squeeze, e.mean(0)))
        out.append(c * (a * (q2[n] * v)).sum(0))
        weights.append(a[:, 0])
    if record is not None:
        record.append(torch.stack(weights))
    return torch.stack(out)


def cross_attention(module, queries, regions, record=None, drop=None):
    """Either kind of cross-attention."""
    if hasattr(module, 'squeeze'):
        return xlinear_attention(module, queries, regions, record, drop)
    return dot_attention(module, queries, regions, record=record, drop=drop)


def feed_forward(module, x, drop=None):
    """d -> ff_size -> d."""
    inner, scale = linear(module.inner, x), factor(drop, module)
    if module.activation == 'gelu':
        return linear(module.outer, inner * (1 + torch.erf(inner / 2 ** 0.5)) / 2 * scale)
    return linear(module.outer, inner.clamp(min=0) * scale)


def place_regions(place, x, grids, boxes, drop=None):
    """The spatial encoding of one image's regions x (P, d), a region and a grid cell at a time."""
    if place is None:
        return x
    kind, out = type(place).__name__, []
    for p in range(len(x)):
        if kind == 'BoxCoordinates':
            x1, y1, x2, y2 = boxes[p]
            corner = torch.stack([x1, y1, x2 - x1, y2 - y1])
            out.append(x[p] + linear(place.out, torch.relu(linear(place.hidden, corner))))
        elif kind == 'GridCells':
            out.append(x[p] + linear(place.cells, grids[p]))
        else:
            side = int(round(len(grids[p]) ** 0.5))
            u, w = torch.zeros(side, device=x.device), torch.zeros(side, device=x.device)
            for r in range(side):
                for c in range(side):
                    u[r] += grids[p, r * side + c]
                    w[c] += grids[p, r * side + c]
            if kind == 'GridProfiles':
                out.append(linear(place.features, x[p]) + linear(place.rows, u)
                           + linear(place.columns, w))
            else:
                d, total = x.shape[1], x[p].clone()
                for position in range(side):
                    for channel in range(d):
                        angle = position / 10000 ** (channel // 2 * 2 / d)
                        even = channel % 2 == 0
                        total[channel] += u[position] * (math.sin(angle) if even else math.cos(angle))
                        total[channel] += w[position] * (math.cos(angle) if even else math.sin(angle))
                out.append(total)
    return torch.stack(out) * factor(drop, place)


def encode(model, features, grids=None, boxes=None, drop=None):
    """One image's regions (P, D) -> what the decoder attends to: encoded regions (P, d), or the regions themselves
    where a model has no encoder."""
    if not hasattr(model, 'encoder'):
        return features
    x = embed_features(model, features, drop)
    x = place_regions(model.place, x, grids, boxes, drop)
    for number, layer in enumerate(model.encoder):
        y, scale = norm(layer.norms[0], x), factor(drop, layer)
        bias = None if model.relations is None else relation_bias(model.relations, number, boxes)
        x = x + dot_attention(layer.attention, y, y, bias=bias, drop=drop) * scale
        x = x + feed_forward(layer.feed_forward, norm(layer.norms[1], x), drop) * scale
    return norm(model.encoder_norm, x)


def cross_entropy(log_probs, targets, smoothing):
    """The mean over N tokens of the KL divergence from p (N, V), given as logarithms, to the distribution with
    1 - smoothing on the target and the rest spread evenly over the other words."""
    total = 0.0
    for row, target in zip(log_probs, targets.tolist()):
        for word, log_prob in enumerate(row):
            wanted = 1 - smoothing if word == target else smoothing / (len(row) - 1)
            if wanted:
                total = total + wanted * (math.log(wanted) - log_prob)
    return total / len(targets)


def next_word_log_probs(model, regions, words, record=None, drop=None):
    """Log-probabilities (len(words) + 1, V) of every next word of one caption, given `words`.

    A list `record` takes each layer's attention weights over the regions, (len(words) + 1, P); a recurrent
    model's, a word at a time, (P,).
    """
    if not hasattr(model, 'encoder'):
        return recurrent_log_probs(model, regions, words, record, drop)
    inputs = torch.tensor([0] + list(words), device=regions.device)
    d, T = model.size, len(inputs)
    table = torch.tensor([[(math.sin if c % 2 == 0 else math.cos)(t / 10000 ** (c // 2 * 2 / d))
                           for c in range(d)] for t in range(T)], device=regions.device)
    x = (model.word_embed.weight[inputs] * d ** 0.5 + table) * factor(drop, model, 'word_dropout')
    causal = torch.ones(T, T, device=regions.device).tril().bool()
    for layer in model.decoder:
        y, scale = norm(layer.norms[0], x), factor(drop, layer)
        x = x + dot_attention(layer.attention, y, y, causal, drop=drop) * scale
        x = x + cross_attention(layer.cross, norm(layer.norms[1], x), regions, record, drop) * scale
        x = x + feed_forward(layer.feed_forward, norm(layer.norms[2], x), drop) * scale
    return linear(model.output, norm(model.decoder_norm, x)).log_softmax(-1)


def cell_step(cell, parts, state):
    """One step of an LSTM or GRU cell: the parts of its input (vectors) and its state -> the new state."""
    x, h, r = torch.cat(parts), state[0], len(state[0])
    outer, inner = cell.weight_ih @ x, cell.weight_hh @ h
    if cell.bias_ih is not None:
        outer, inner = outer + cell.bias_ih, inner + cell.bias_hh
    if len(state) == 1:
        reset = torch.sigmoid(outer[:r] + inner[:r])
        update = torch.sigmoid(outer[r:2 * r] + inner[r:2 * r])
        new = torch.tanh(outer[2 * r:] + reset * inner[2 * r:])
        return [(1 - update) * new + update * h]
    input_gate, forget_gate, new, output_gate = ((outer + inner)[k * r:(k + 1) * r] for k in range(4))
    c = torch.sigmoid(forget_gate) * state[1] + torch.sigmoid(input_gate) * torch.tanh(new)
    return [torch.sigmoid(output_gate) * torch.tanh(c), c]


def additive_attention(module, query, regions, record=None):
    """Additive attention (Bahdanau et al. 2015) of a query (r,) to regions (P, r) -> their weighted mean (r,).

    A list `record` takes the weights (P,).
    """
    logits = torch.stack([linear(module.score, torch.tanh(linear(module.key, region)
                                                          + linear(module.query, query)))[0]
                          for region in regions])
    if record is not None:
        record.append(logits.softmax(0))
    return sum(weight * region for weight, region in zip(logits.softmax(0), regions))


def recurrent_log_probs(model, features, words, record=None, drop=None):
    """As `next_word_log_probs`, by a recurrent model that reads an image's features (P, D) and their mean."""
    kind, mean, scale = type(model).__name__, features.mean(0), factor(drop, model)
    blank, out = torch.zeros(model.size), []
    if kind != 'ShowTell':
        regions = embed_features(model, features, drop)
    if kind == 'ShowTell':
        state = cell_step(model.cell, [linear(model.image_embed, mean)], [blank] * model.cell.parts)
    elif kind == 'ShowAttendTell':
        state = [torch.tanh(linear(layer, mean)) for layer in model.initial]
    else:
        attention, state = [blank, blank], [blank, blank]
    for word in [0] + list(words):
        x = model.word_embed.weight[word]
        if kind == 'ShowTell':
            state = cell_step(model.cell, [x], state)
        elif kind == 'ShowAttendTell':
            attended = additive_attention(model.attention, state[0], regions, record)
            state = cell_step(model.cell, [x, attended], state)
        else:
            mean_in = torch.relu(linear(model.mean_embed, mean)) * scale
            attention = cell_step(model.attention_cell, [state[0], mean_in, torch.relu(x) * scale], attention)
            attended = additive_attention(model.attention, attention[0], regions, record)
            state = cell_step(model.language_cell, [attended, attention[0]], state)
        out.append(linear(model.output, state[0] * scale))
    return torch.stack(out).log_softmax(-1)


def allowed_words(log_probs, words, longest, unknown=None, no_repeat=False, no_trigram_repeat=False, endings=()):
    """log_probs (V,) of the next word, with -inf for words that the constraints forbid after `words` in captions of
    up to `longest` words."""
    log_probs = log_probs.clone()
    if words and words[-1] in endings:
        log_probs[0] = -torch.inf
    if len(words) + 1 == longest:
        log_probs[list(endings)] = -torch.inf
    if unknown is not None:
        log_probs[unknown] = -torch.inf
    if no_repeat and words:
        log_probs[words[-1]] = -torch.inf
    if no_trigram_repeat:
        for word in range(1, len(log_probs)):
            caption = list(words) + [word]
            trigrams = [tuple(caption[i:i + 3]) for i in range(len(caption) - 2)]
            if len(trigrams) != len(set(trigrams)):
                log_probs[word] = -torch.inf
    return log_probs


def draw(log_probs, uniform, temperature=1.0, top_k=0, top_p=1.0):
    """The word that the number `uniform` from [0, 1) draws from the softmax of log_probs (V,) / temperature, cut to
    the `top_k` most probable words and then to the fewest whose probability reaches `top_p`."""
    chances = (log_probs.double() / temperature).softmax(-1).tolist()
    kept = sorted(range(len(chances)), key=lambda word: -chances[word])[:top_k or None]
    whole, reached, few = sum(chances[word] for word in kept), 0.0, []
    for word in kept:
        if reached < top_p:
            few.append(word)
        reached += chances[word] / whole
    left = uniform * sum(chances[word] for word in few)
    for word in sorted(few):
        left -= chances[word]
        if left < 0:
            return word
    return max(few)


def sampled(next_log_probs, uniforms):
    """The caption of one image, up to as many words as there are `uniforms`, one number from [0, 1) for each."""
    words = []
    for uniform in uniforms:
        word = draw(next_log_probs(words), uniform)
        if word == 0:
            break
        words.append(word)
    return words


def greedy(next_log_probs, longest, **constraints):
    """The greedy caption of one image: (words, sum of log-probabilities).

    `next_log_probs(words)` returns the log-probabilities (V,) after `words`.
    """
    words, total = [], 0.0
    while len(words) < longest:
        log_probs = next_log_probs(words)
        word = int(allowed_words(log_probs, words, longest, **constraints).argmax())
        total += float(log_probs[word])
        if word == 0:
            break
        words.append(word)
    return words, total


def beam_search(next_log_probs, longest, beam_size, groups=1, diversity_lambda=0.5,
                length_penalty=0.0, max_ppl=False, **constraints):
    """Beam search and diverse beam search for one image: a list of (words, log-prob) of each group's finished
    captions, best first, one group after the other."""
    width = beam_size // groups
    live = [[([], 0.0, 0.0)] for _ in range(groups)]  # (words, penalised sum, sum)
    finished = [[] for _ in range(groups)]
    for position in range(longest):
        taken = []  # words that earlier groups' beams took at this position
        for group in range(groups):
            offers = []
            for words, score, total in live[group]:
                log_probs = next_log_probs(words)
                scores = allowed_words(log_probs, words, longest, **constraints).tolist()
                for word in taken:
                    scores[word] -= diversity_lambda
                best = sorted(range(len(scores)), key=lambda w: -scores[w])[:width]
                offers += [(words, word, score + scores[word], total + float(log_probs[word]))
                           for word in best if scores[word] > -torch.inf]
            offers = sorted(offers, key=lambda offer: -offer[2])[:width]
            live[group] = []
            for words, word, score, total in offers:
                taken.append(word)
                if word == 0 or position + 1 == longest:
                    length = position + 1
                    rank = score / length if max_ppl else score / length ** length_penalty
                    finished[group].append((words + [word] * (word != 0), rank, total))
                else:
                    live[group].append((words + [word], score, total))
    lists = [sorted(done, key=lambda entry: -entry[1])[:width] for done in finished]
    return [(words, total) for done in lists for words, _, total in done]


def words_of(row):
    """A row of word indices as a tuple of strings, up to and including its first 0."""
    row = [int(index) for index in row]
    return tuple(map(str, row[:row.index(0) + 1] if 0 in row else row))


def ngram_counts(words, n):
    """{n-gram: count} of a tuple of words."""
    counts = {}
    for i in range(len(words) - n + 1):
        counts[words[i:i + n]] = counts.get(words[i:i + n], 0) + 1
    return counts


def ngram_frequency(images):
    """{n-gram of 1 to 4 index strings: number of images that contain it}, from each image's caption rows."""
    table = {}
    for rows in images:
        held = {ngram for row in rows for n in (1, 2, 3, 4) for ngram in ngram_counts(words_of(row), n)}
        for ngram in held:
            table[ngram] = table.get(ngram, 0) + 1
    return table


def cider_d(caption, references, table, images):
    """CIDEr-D (Vedantam et al. 2015) of one caption row against its reference rows; `table` holds the document
    frequencies of `images` images."""
    def vector(words, n):
        return {ngram: count * (math.log(images) - math.log(max(1, table.get(ngram, 0))))
                for ngram, count in ngram_counts(words, n).items()}

    def norm_of(weights):
        return math.sqrt(sum(weight ** 2 for weight in weights.values()))

    own, total = words_of(caption), 0.0
    for reference in map(words_of, references):
        apart = max(len(own) - 1, 0) - max(len(reference) - 1, 0)
        for n in (1, 2, 3, 4):
            ours, theirs = vector(own, n), vector(reference, n)
            norms = norm_of(ours) * norm_of(theirs)
            if norms:
                dot = sum(min(weight, theirs[ngram]) * theirs[ngram]
                          for ngram, weight in ours.items() if ngram in theirs)
                total += dot / norms * math.exp(-apart ** 2 / (2 * 6.0 ** 2)) / 4
    return 10 * total / len(references)


def sentence_bleu(words, references, order=4):
    """BLEU of one caption (tuple of words) against its references, as coco-caption scores a sentence."""
    score = 1.0
    for n in range(1, order + 1):
        clipped = sum(min(count, max(ngram_counts(reference, n).get(ngram, 0) for reference in references))
                      for ngram, count in ngram_counts(words, n).items())
        score *= (clipped + 1e-15) / (max(len(words) - n + 1, 0) + 1e-9)
    closest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
    ratio = (len(words) + 1e-15) / (closest + 1e-9)
    return score ** (1 / order) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def corpus_bleu(captions, references, order=4):
    """BLEU (Papineni et al. 2002) of a corpus: n-gram matches and lengths summed over the images.

    `captions` are tuples of words, `references` a list of such tuples for each.  The reference length of a
    caption is the one closest to its own, the shorter of two.
    """
    log_precision = 0.0
    for n in range(1, order + 1):
        matched = possible = 0
        for words, others in zip(captions, references):
            for ngram, count in ngram_counts(words, n).items():
                matched += min(count, max(ngram_counts(other, n).get(ngram, 0) for other in others))
                possible += count
        if not matched:
            return 0.0
        log_precision += math.log(matched / possible) / order
    length = sum(len(words) for words in captions)
    wanted = sum(min((abs(len(other) - len(words)), len(other)) for other in others)[1]
                 for words, others in zip(captions, references))
    return math.exp(log_precision + min(0.0, 1 - wanted / length))


def longest_common_subsequence(a, b):
    """The length of the longest common subsequence, by the recursive definition; for short tuples only."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return longest_common_subsequence(a[:-1], b[:-1]) + 1
    return max(longest_common_subsequence(a[:-1], b), longest_common_subsequence(a, b[:-1]))


def rouge_l(words, references, beta=1.2):
    """ROUGE-L (Lin 2004) of one caption: F-measure of the best precision and the best recall."""
    common = [longest_common_subsequence(words, other) for other in references]
    precision = max(length / len(words) for length in common)
    recall = max(length / len(other) for length, other in zip(common, references))
    return (1 + beta ** 2) * precision * recall / (recall + beta ** 2 * precision) if recall else 0.0


def grid_vector(box, width, height, side):
    """The share of each cell of a side x side grid that a box covers, row by row."""
    shares = []
    for row in range(side):
        for column in range(side):
            left, right = width * column / side, width * (column + 1) / side
            top, bottom = height * row / side, height * (row + 1) / side
            across = max(0.0, min(right, box[2]) - max(left, box[0]))
            down = max(0.0, min(bottom, box[3]) - max(top, box[1]))
            shares.append(across * down / ((right - left) * (bottom - top)))
    return shares


def split_ngrams(images, split_names, index):
    """{n-gram of index strings: number of images of the splits that contain it}, from Karpathy's records."""
    table = {}
    for image in images:
        if image['split'] not in split_names:
            continue
        ngrams = []
        for sentence in image['sentences']:
            words = [index[token] if token in index else index['UNK'] for token in sentence['tokens']] + ['0']
            for n in (1, 2, 3, 4):
                for start in range(len(words) - n + 1):
                    ngram = tuple(words[start:start + n])
                    if ngram not in ngrams:
                        ngrams.append(ngram)
        for ngram in ngrams:
            table[ngram] = table.get(ngram, 0) + 1
    return table


def resnet_map(weights, image, layout):
    """The last map (D, h, w) of a bottleneck ResNet from its state dict alone; image uint8 (h, w, 3).

    Caffe strides in the 1 x 1 convolution that begins a stage, torchvision in the 3 x 3 convolution after it.
    """
    def convolve(name, x, stride=1, padding=0):
        return torch.nn.functional.conv2d(x, weights[f'{name}.weight'], stride=stride, padding=padding)

    def normalise(name, x):
        mean, var = weights[f'{name}.running_mean'], weights[f'{name}.running_var']
        scale = weights[f'{name}.weight'] / (var + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + weights[f'{name}.bias'][:, None, None]

    x = torch.tensor(image).float().permute(2, 0, 1) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225])[:, None, None]
    x = max_pool(torch.relu(normalise('bn1', convolve('conv1', x[None], 2, 3))[0]), layout)[None]
    for stage in range(1, 5):
        block = 0
        while f'layer{stage}.{block}.conv1.weight' in weights:
            name = f'layer{stage}.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            first, second = (stride, 1) if layout == 'caffe' else (1, stride)
            y = torch.relu(normalise(f'{name}.bn1', convolve(f'{name}.conv1', x, first)))
            y = torch.relu(normalise(f'{name}.bn2', convolve(f'{name}.conv2', y, second, 1)))
            y = normalise(f'{name}.bn3', convolve(f'{name}.conv3', y))
            if block == 0:
                x = normalise(f'{name}.downsample.1', convolve(f'{name}.downsample.0', x, stride))
            x = torch.relu(x + y)
            block += 1
    return x[0]


def max_pool(x, layout):
    """3 x 3 max pooling at stride 2 of x (D, h, w): Caffe's windows start at the corner, with a truncated one at
    the far end where needed; torchvision's are centred on every second pixel."""
    def windows(length):
        if layout == 'caffe':
            return [(2 * i, 2 * i + 3) for i in range(math.ceil((length - 3) / 2) + 1)]
        return [(max(0, 2 * i - 1), 2 * i + 2) for i in range((length - 1) // 2 + 1)]

    rows = [torch.stack([x[:, top:bottom, left:right].amax((1, 2)) for left, right in windows(x.shape[2])], 1)
            for top, bottom in windows(x.shape[1])]
    return torch.stack(rows, 1)


def roi_feature(one_map, box, width, height, points=14):
    """The mean of a feature map (D, h, w) of a width x height picture over points x points points spread evenly
    over a box (x1, y1, x2, y2), each interpolated bilinearly between the four nearest cell centres."""
    D, h, w = one_map.shape
    total = torch.zeros(D)
    for row in range(points):
        for column in range(points):
            x = (box[0] + (column + 0.5) * (box[2] - box[0]) / points) * w / width - 0.5
            y = (box[1] + (row + 0.5) * (box[3] - box[1]) / points) * h / height - 0.5
            x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
            left, top = int(x), int(y)
            right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
            upper = one_map[:, top, left] * (1 - x + left) + one_map[:, top, right] * (x - left)
            lower = one_map[:, bottom, left] * (1 - x + left) + one_map[:, bottom, right] * (x - left)
            total += upper * (1 - y + top) + lower * (y - top)
    return total / points ** 2
