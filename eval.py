"""Caption a split with a trained model and score it; `python eval.py --help` lists the options.

With `torchrun --nproc_per_node N eval.py ...` N processes share the images; what is written is the same.
"""

import argparse
import contextlib
import os
import re
import zlib

os.environ.setdefault('GOMP_SPINCOUNT', '2000')  # why: see train.py

import models
import opts
from dataloader import image_batches, worker_errors
from misc import parallel
from misc.cli import DataError, UsageError, note, plain_text, run_command
from misc.dataset.corpus import Corpus
from misc.dataset.labels import caption_width, image_path
from misc.dataset.recipe import describe
from misc.evaluation.captioning import caption_images, mean_loss
from misc.machine import memory_errors, pick_device
from misc.page import facts as page_facts
from misc.page.data import Entry
from misc.page.page import write_page
from misc.page.thumbnails import as_seen
from misc.pictures.image_folder import ImageFolder
from misc.pictures.images import read_rgb
from misc.pictures.recipes import RecipeFlags
from misc.run import checkpoint
from misc.scoring.results import image_rows, write_results, write_vis
from misc.scoring.scores import score_table
from models.ensemble import Ensemble

LONGEST_NAME = 200  # bytes of ID in ID_SPLIT.json, which may have 255 and is longer while it is written


def main():
    """Parse the options, check them and the files, caption, score, write."""
    with parallel.processes(), contextlib.ExitStack() as at_end:
        found = parallel.together(lambda: set_up(at_end))
        results, loss = caption_split(found)
        status = parallel.on_main(lambda: write_all(found, results, loss))
        # One that fails ends the others, in the middle of the end.
        return status if parallel.is_main() else 0


def set_up(at_end):
    """What the command line describes, checked: a namespace of all that the later parts need.  `at_end`, an
    ExitStack, removes in the end what is not to stay."""
    options, given = opts.parse(opts.eval_parser())
    opts.check_decoding(options, options.sample_n)
    opts.check_image_folder(options, given)
    own = None
    if options.image_folder:
        own = ImageFolder(options.image_folder, at_end, options.regions_dir, options.coco_json,
                          None if options.num_images < 0 else options.num_images)
        vars(options).update(own.inputs())
    if options.dump_images and not options.image_root:
        raise UsageError('--dump_images 1 needs --image_root, the folder that holds train2014/ and val2014/')
    device = pick_device(options.device)
    members, runs = read_members(options, given)
    infos = runs[0].infos
    options.id = options.id or joined_name([member.id for member in members])
    longest = infos['opt']['seq_length']
    networks = [load_model(member, run, longest) for member, run in zip(members, runs)]
    model = (networks[0] if len(networks) == 1 else Ensemble(networks)).to(device)
    if own and options.language_eval:   # refused before regions are looked for, which may take a day
        split_references(options, own.pictures.files)
    info = own and own.find_regions(
        [(path, run.infos) for path, run in zip(options.infos_path, runs)],
        RecipeFlags(options.detector, options.cnn_model, options.cnn_layout, options.cnn_weight_dir), device,
        options.batch_size, options.num_workers)
    corpus = fitting_corpus(options, members, infos, info)
    corpus.open_for(model.needs)
    if not own:   # whose regions were just found
        warn_of_other_regions(corpus.region_recipe(), runs, options.infos_path)
    if options.dump_images:
        corpus.open_boxes_and_grids()
    rows = corpus.rows('all' if own else options.split, train_only=True)
    if 0 <= options.num_images < len(rows):
        rows = rows[:options.num_images]
    corpus.check_files(rows)
    pictures = image_files(options, corpus, rows) if options.dump_images else []
    references = split_references(options, [corpus.ids[row] for row in rows]) if options.language_eval else None

    shown = options.beam_size if options.verbose_beam and options.sample_max else options.sample_n
    decode = models.build_decoder(options, longest, infos['vocab'], shown)
    # Regions that this project found lie on pictures as people see them, others on the pixels as stored.
    seen = as_seen if own or any(run.infos.get('regions') for run in runs) else read_rgb
    return argparse.Namespace(
        options=options, members=members, corpus=corpus, rows=rows, model=model, decode=decode, device=device,
        vocabulary=infos['vocab'], pictures=pictures, references=references, own=own, seen=seen)


def warn_of_other_regions(way, runs, infos_paths):
    """A word where the regions that are read were found in another `way` than those that a model was trained
    on: they look alike and mean something else.  Runs of older code do not say."""
    for run, path in zip(runs, infos_paths):
        if 'regions' in run.infos and run.infos['regions'] != way:
            was, now = (describe(one) if one else 'those of another origin' for one in (run.infos['regions'], way))
            note(f'warning: the model of {path} was trained on these features: {was}; what it says of others is a '
                 f'guess, and here are: {now}. Give the features it was trained with')


def fitting_corpus(options, members, infos, info):
    """The images, if their words are those of the model with these `infos`; `info` stands in for
    --input_json where it is not None."""
    corpus, longest = Corpus(opts.sources(reading(members)), options.verbose_loss, info), infos['opt']['seq_length']
    if corpus.vocabulary != infos['vocab']:
        raise DataError(f'the vocabulary of {options.input_json} is not that of {options.infos_path[0]}; '
                        'give the --input_json the model was trained with')
    if options.verbose_loss and corpus.labels.longest > longest:
        raise DataError(f'{options.input_label_h5} has captions of up to {corpus.labels.longest} words, the '
                        f'model of up to {longest}; give the --input_label_h5 it was trained with')
    return corpus


def caption_split(found):
    """The results of the split's images, and the loss on their captions where it is asked for."""
    options, model, device, images = found.options, found.model, found.device, len(found.rows)

    def batches(**captions):
        return image_batches(found.corpus, found.rows, options.batch_size, options.num_workers,
                             pin=device.type == 'cuda', **captions)

    with memory_errors('--batch_size'), worker_errors():
        results = caption_images(model, batches(), found.decode, found.corpus.images, found.vocabulary, device,
                                 images, options.seed, looks=options.dump_images)
        loss = mean_loss(model, batches(captions_per_image=5), device, images) if options.verbose_loss else None
    return results, loss


def write_all(found, results, loss):
    """Everything that is printed and written; returns the exit status."""
    options = found.options
    print_captions(results, options.verbose_beam, 'file_path' if found.own else 'image_id')
    if options.dump_json:
        write_vis('vis/vis.json', [vis_entry(entry, options) for entry in results])
        note('wrote vis/vis.json')
    if found.own and options.coco_json:
        found.own.write_results(results, options.id)
    overall, per_image = {}, {}
    if options.language_eval or loss is not None:
        overall, per_image = write_scores(found, results, loss)
    if options.dump_images:
        write_vis_page(found, results, overall, per_image)
    return found.own.finish() if found.own else 0


def reading(members):
    """The options that say how inputs are read: each from the first member that it matters to."""
    shared = argparse.Namespace(**vars(members[0]))
    for name in opts.INPUT_OPTIONS:
        values = [getattr(member, name) for member in members if opts.matters(name, member)]
        if values:
            setattr(shared, name, values[0])
    return shared


def read_members(options, given):
    """The options of each model of `--model`, model options from its infos file, and their `Run`s.

    Raises `UsageError` where the models cannot work together.
    """
    if len(options.model) != len(options.infos_path):
        raise UsageError(f'--model names {len(options.model)} files and --infos_path '
                         f'{len(options.infos_path)}; give one infos file for each model, in the same order')
    members, runs, longest = [], [], caption_width(options.input_label_h5)
    for model_path, path in zip(options.model, options.infos_path):
        runs.append(checkpoint.read_run(model_path, path, longest))
        infos, first = runs[-1].infos, runs[0].infos
        member = opts.with_model_options(options, given, infos['opt'], path)
        member = opts.checked_model(member, given, path)
        # The name becomes part of a file's name, and the file may be a stranger's.
        member.id = re.sub(r'[^\w.+-]+', '_', str(infos['opt'].get('id') or '')).strip('.')[:80] or 'captioner'
        if infos['vocab'] != first['vocab'] or infos['opt']['seq_length'] != first['opt']['seq_length']:
            raise UsageError(f'{path} and {options.infos_path[0]} have different vocabularies or longest '
                             'captions; models of an ensemble must share both')
        members.append(member)
        shared = reading(members)
        for name in opts.INPUT_OPTIONS:
            if opts.matters(name, member) and getattr(member, name) != getattr(shared, name):
                raise UsageError(f'{path} has {name} {opts.show(getattr(member, name))}, a model before it '
                                 f'{opts.show(getattr(shared, name))}; models of an ensemble read the same inputs')
    return members, runs


def joined_name(names):
    """One name for the models of an ensemble that can begin a file's name: a long one is cut, and ends in a
    number that tells it from others with the same beginning."""
    name = '+'.join(names).encode()
    if len(name) > LONGEST_NAME:
        end = f'+{zlib.crc32(name):08x}'.encode()
        name = name[:LONGEST_NAME - len(end)] + end
    return name.decode(errors='ignore')


def load_model(options, run, longest):
    """The model that `options` describe, with the weights of its `Run`."""
    model = models.build(options, len(run.infos['vocab']) + 1, longest)
    checkpoint.take_weights(model, run)
    run.weights = None  # as large as the model
    return model


def split_references(options, ids):
    """{image id: captions} of the images to be scored, those of `ids`."""
    from misc.scoring.references import load_references
    source = options.coco_json or options.input_json
    references = load_references(None if options.coco_json else options.input_json, options.coco_json)
    missing = [image_id for image_id in ids if not references.get(image_id)]
    if missing:
        raise DataError(f'{len(missing)} of {len(ids)} images have no reference captions in {source}: '
                        f'{", ".join(map(str, missing[:5]))}{", ..." if len(missing) > 5 else ""}\n'
                        'name a COCO caption-annotation file with --coco_json, or leave out --language_eval')
    return {image_id: references[image_id] for image_id in ids}


def print_captions(results, every_beam, name='image_id'):
    """The captions, one line per image, or with `every_beam` one per finished beam, each with the image's
    `name`."""
    for entry in results:
        for beam in entry['beams'] if every_beam else [entry]:
            print(plain_text(f'{entry[name]}: {beam["caption"]}'
                             + (f'  ({beam["log_prob"]:.3f})' if every_beam else '')))


def image_files(options, corpus, rows):
    """The image files for the page, looked for before anything is captioned."""
    paths = [image_path(options.image_root, corpus.images[row]) for row in rows]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(f'there is no image {missing[0]} ({len(missing)} of {len(paths)} are missing); '
                        '--image_root is the folder that holds train2014/ and val2014/')
    return paths


def vis_entry(entry, options):
    """What vis/vis.json says of an image: all captions where several were asked for."""
    shown = {name: entry[name] for name in ('image_id', 'caption', 'log_prob')}
    if options.dump_path:
        shown['file_path'] = entry['file_path']
    if options.sample_n > 1:
        shown['beams'] = entry['beams'][:options.sample_n]
    return shown


def write_vis_page(found, results, overall, per_image):
    """vis/index.html, with the scores where there are some."""
    options, corpus, unknown = found.options, found.corpus, []
    entries = [Entry(
        entry['image_id'], entry['words'], picture, entry['file_path'] or os.path.basename(picture),
        references=(found.references or {}).get(entry['image_id']) or corpus.images[row].get('captions') or [],
        scores={**per_image.get(entry['image_id'], {}), 'log_prob': entry['log_prob']},
        others=[beam['caption'] for beam in entry['beams'][1:options.sample_n]], attention=entry['attention'])
        for row, picture, entry in zip(found.rows, found.pictures, results)]

    def regions(place):
        seen = entries[place].attention
        try:
            return page_facts.matching_places(corpus.boxes_and_grids(found.rows[place]), seen and seen['mean'].shape[1])
        except DataError as error:
            unknown.append(str(error))
            return None, None

    models = [page_facts.ModelFacts(member.caption_model, member.num_layers, member.cross_attn, member.enc_pos_type,
                                    member.enc_pos_embedding) for member in found.members]
    source = (os.path.basename(os.path.abspath(options.image_folder)) if options.image_folder
              else f'the {options.split} split')
    decoding = page_facts.decoding_method(options.sample_max, options.temperature, options.beam_size,
                                          options.group_size)
    facts = page_facts.page_facts(options.id, source, models, decoding, overall, len(entries))
    broken = write_page('vis', facts, entries, regions, max(1, options.num_workers), found.seen)
    page_facts.report_missing(broken, unknown)
    note('wrote vis/index.html')


def write_scores(found, results, loss):
    """Score the captions, print the table, write eval_results/ID_SPLIT.json; returns the overall scores and
    those of each image."""
    options, references, overall, per_image = found.options, found.references, {}, {}
    if options.language_eval:
        from misc.scoring.metrics import score
        overall, per_image, notes = score(
            {entry['image_id']: entry['caption'] for entry in results}, references, show_progress=True)
        for line in notes:
            note(f'note: {line}')
        print(score_table({options.id: overall}))
        if options.sample_n > 1:
            several = several_scores(results, references)
            print(score_table({f'{options.sample_n} captions per image': several}))
            overall = {**overall, **several}
    if loss is not None:
        print(f'loss: {loss:.4f}')
    path = os.path.join('eval_results', f'{options.id}_{options.split}.json')
    captions = {entry['image_id']: entry['caption'] for entry in results}
    used = [{name: getattr(member, name) for name in opts.MODEL_OPTIONS} for member in found.members]
    told = {**vars(options), **(used[0] if len(used) == 1 else {'models': used})}
    for name in found.own.temporary if found.own else ():
        del told[name]
    write_results(path, overall, image_rows(captions, per_image), told, loss)
    note(f'wrote {path}')
    return overall, per_image


def several_scores(results, references):
    """Diversity of each image's captions, and the mean over images of the best one's CIDEr."""
    from misc.scoring.diversity import diversity
    from misc.scoring.metrics import oracle_cider
    captions = {entry['image_id']: [beam['caption'] for beam in entry['beams']] for entry in results}
    scores = {'oracle_CIDEr': oracle_cider(captions, references)}
    if min(map(len, captions.values())) > 1:
        scores.update(diversity(captions))
    return scores


if __name__ == '__main__':
    run_command(main)
