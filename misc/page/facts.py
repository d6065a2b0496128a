"""What evaluation tells the page of itself (see `misc/page/page.py`): how captions came about, in sentences."""

import os

from misc.cli import DataError, note

NAMED = 10  # broken pictures that are named one by one
KINDS = {
    'xlinear': 'the spatial weights of its X-linear attention',
    'dot-product': 'the weights of its dot-product attention, the mean over the heads',
    'recurrent': 'the weights of its attention, which looks at the regions before each word'}
PLACES = {
    'gxg': 'of each region, how many cells of the grid it covers in each row and in each column',
    'g2': 'of each region, the share that it covers of each cell of the grid',
    'box-coord': 'the box of each region',
    'fixed': 'of each region, how many cells of the grid it covers in each row and in each column, as a '
             'fixed mixture of waves',
    'relations': 'how any two regions lie to one another'}


def facts(options, members, overall, images):
    """The `facts` of a page about `images` captions; `members` are the options of each model, `overall` the
    scores of all."""
    source = f'the {options.split} split'
    if options.image_folder:
        source = os.path.basename(os.path.abspath(options.image_folder))
    title = f'{options.id}: {source}'
    about = [('model' if len(members) == 1 else 'models', ', '.join(map(model_name, members))),
             ('images', f'{images:,} of {source}'), ('decoding', decoding(options))]
    return {'title': title, 'about': about, 'overall': overall, 'attention': told_of_attention(members),
            'places': told_of_places(members)}


def model_name(member):
    """What a model is, in a few words."""
    more = [str(member.enc_pos_type) if member.enc_pos_embedding else 'fixed'] \
        if member.caption_model == 'spatial_pe' else []
    if attention_kind(member) in ('xlinear', 'dot-product'):
        more += [f'{member.num_layers} layers', f'{member.cross_attn} cross-attention']
    return member.caption_model + (f' ({", ".join(more)})' if more else '')


def attention_kind(member):
    """How a model looks at regions, a key of `KINDS`, or '' if it does not."""
    if member.caption_model == 'show_tell':
        return ''
    return 'recurrent' if member.caption_model in ('show_attend_tell', 'topdown') else member.cross_attn


def decoding(options):
    """How captions were made."""
    if not options.sample_max:
        return f'draws at temperature {options.temperature:g}'
    if options.beam_size == 1:
        return 'greedy'
    groups = f', in {options.group_size} groups' if options.group_size > 1 else ''
    return f'beam search with {options.beam_size} beams{groups}'


def told_of_attention(members):
    """A sentence on what lights up."""
    looking = [member for member in members if attention_kind(member)]
    if not looking:
        return ('This model sees the mean of all regions, once, before the first word. It does not look at '
                'single regions, so there is nothing to light up.')
    kinds = dict.fromkeys(KINDS[attention_kind(member)] for member in looking)
    text = f'For each word of the caption, {" and ".join(kinds)}. A word’s weights add up to 100 %.'
    if any(attention_kind(member) != 'recurrent' and member.num_layers > 1 for member in looking):
        text += ' “All layers” is their mean over the layers of the decoder.'
    if len(looking) < len(members):
        text += f' They are the mean over the {len(looking)} of {len(members)} models that look at regions.'
    elif len(members) > 1:
        text += f' They are the mean over the {len(members)} models.'
    return text


def told_of_places(members):
    """A sentence on what a model knows of where regions are."""
    known = []
    for member in members:
        if member.caption_model == 'spatial_pe':
            known.append(PLACES[member.enc_pos_type if member.enc_pos_embedding else 'fixed'])
        elif member.caption_model == 'relation_transformer':
            known.append(PLACES['relations'])
    who = 'The model' if len(members) == 1 else f'{len(known)} of the {len(members)} models'
    if not known:
        return (('This model is' if len(members) == 1 else 'These models are') + ' not told where regions are. '
                'The grid shows what they cover of it all the same.')
    return f'{who} {"is" if len(known) == 1 else "are"} told {" and ".join(dict.fromkeys(known))}.'


def fitting(places, regions):
    """`places` (boxes, grid vectors), if they are of as many `regions` as were looked at (None: not known);
    else a `DataError`."""
    for array in places:
        if array is not None and regions not in (None, len(array)):
            raise DataError(f'boxes or grid vectors of {len(array)} regions beside features of {regions}; they '
                            'were not made from the same boxes')
    return places


def name_broken(pictures, places):
    """Name pictures that the page has blanks for, and images whose regions it cannot draw: lists of what is
    wrong with each."""
    for wrong, what in ((pictures, 'pictures cannot be read; the page has blanks in their places'),
                        (places, 'images have regions that cannot be drawn')):
        if wrong:
            note(f'note: {len(wrong)} {what}:')
            for line in wrong[:NAMED]:
                note(f'  {line}')
            if len(wrong) > NAMED:
                note(f'  and {len(wrong) - NAMED} more')
