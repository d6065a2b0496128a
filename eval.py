"""Caption a split with a trained model and score it; `python eval.py --help` lists the options.

With `torchrun --nproc_per_node N eval.py ...` N processes share the images; the output is the same.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault('GOMP_SPINCOUNT', '2000')  # why: see train.py

import numpy as np
import torch

import models
import opts
from dataloader import image_batches, worker_errors
from misc import parallel
from misc.captioner import build_model, read_runs
from misc.cli import DataError, UserError, note, run_command
from misc.dataset.corpus import Corpus
from misc.dataset.image_list import read_image_list
from misc.dataset.labels import caption_width, image_path
from misc.disk.files import check_writable
from misc.disk.locks import held_output
from misc.evaluation.captioning import ImageCaptions, caption_images, mean_loss
from misc.evaluation.lengths import LengthCheck
from misc.evaluation.output import caption_lines, file_name, joined_name, scored_caption, vis_entries
from misc.evaluation.scoring import Scores, references_of, score_captions
from misc.machine import memory_errors, pick_device
from misc.page import facts as page_facts
from misc.page.data import Entry
from misc.page.page import write_page
from misc.page.thumbnails import as_seen
from misc.pictures.coco_list import ServerFile, listed_images
from misc.pictures.image_folder import ImageFolder
from misc.pictures.images import read_rgb
from misc.pictures.recipes import RecipeFlags, warn_of_other_recipe
from misc.run.folder import Run
from misc.run.record import note_other_features
from misc.scoring.endings import forbidden_endings
from misc.scoring.references import ImageId, References
from misc.scoring.results import image_rows, write_results, write_vis
from misc.scoring.scores import score_table
from models.registry import MODELS

LOSS_CAPTIONS = 5  # reference captions of each image that --verbose_loss takes
BYTES = 200        # about what is written of each image, at least


def main() -> int:
    """Check the options and the files, caption, score, write; returns the exit status."""
    with parallel.processes(), contextlib.ExitStack() as at_end:
        evaluation = parallel.together(lambda: set_up(at_end))
        parallel.on_main(lambda: reserve_outputs(evaluation, at_end))
        results, loss = caption_split(evaluation)
        status = parallel.on_main(lambda: write_all(evaluation, results, loss))
        # torchrun kills the other processes as soon as one fails: only the main one reports it.
        return status if parallel.is_main() else 0


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, checked and ready to run.

    options       of the command line, with the inputs that --image_folder stands for
    members       the options of each model
    name          ID in the names of the files that are written
    decode        the decoding method, see `models.build_decoder`
    rows          the images of the corpus that are captioned
    references    the reference captions, or None without --language_eval
    folder        the pictures of --image_folder, or None
    server_file   the file for COCO's test server, or None without COCO's list of images
    page_files    the image files that the page shows, one for each row; [] without --dump_images
    page_reader   how the page reads them
    """

    options: opts.Options
    members: list[opts.Options]
    name: str
    model: torch.nn.Module
    decode: Callable[..., Any]
    device: torch.device
    corpus: Corpus
    rows: list[int]
    references: References | None
    folder: ImageFolder | None
    server_file: ServerFile | None
    page_files: list[str]
    page_reader: Callable[[str], np.ndarray]

    def path(self, *names: str) -> str:
        """The path of an output."""
        return os.path.join(self.options.output_dir, *names)

    @property
    def vis(self) -> str:
        """The file of the captions."""
        return self.path('vis', 'vis.json')

    @property
    def results(self) -> str:
        """The results file."""
        return self.path('eval_results', f'{self.name}_{self.options.split}.json')

    def outputs(self) -> list[str]:
        """The files that are written; of the page the one that is opened."""
        options, found = self.options, []
        if options.dump_json:
            found.append(self.vis)
        if self.server_file:
            found.append(self.server_file.path(self.name, options.output_dir))
        if options.dump_images:
            found.append(self.path('vis', 'index.html'))
        if self.references is not None or options.verbose_loss:
            found.append(self.results)
        return found


def set_up(at_end: contextlib.ExitStack) -> Evaluation:
    """Check the command line and the files that it names.  `at_end` removes temporary files when it closes."""
    options, given, folder, listed = read_options(at_end)
    device = pick_device(options.device, options.matmul_precision)
    opts.check_cuda_graphs(options, device.type)
    runs = read_runs(options.model, options.infos_path, caption_width(options.input_label_h5))
    members = opts.member_options(options, given, [(run.infos_path, run.infos['opt']) for run in runs])
    model = build_model(members, runs, device)
    if folder and options.language_eval:   # checked before regions are extracted, which may take a day
        references_of(folder.pictures.files, options.input_json, options.coco_json, options.score_tokens)
    info = find_regions(folder, options, runs, device) if folder else \
        {'images': listed, 'ix_to_word': runs[0].infos['vocab']} if listed else None
    corpus = open_corpus(options, members, runs, model.needs, info)
    rows = corpus.rows('all' if folder else options.split, train_only=True)
    rows = rows[:options.num_images] if options.num_images >= 0 else rows
    corpus.check_files(rows)
    if not folder:
        for row in rows[:1]:   # features of another width are refused here, before any warning about them
            corpus.arrays(row)
        for run in runs:
            if not warn_of_other_recipe(corpus.region_recipe(), run.infos_path, run.infos):
                note_other_features(corpus, run.infos, run.infos_path)
    references = references_of([corpus.ids[row] for row in rows], options.input_json, options.coco_json,
                               options.score_tokens, corpus.vocabulary.values()) if options.language_eval else None
    if corpus.file is not None:   # references were read from it a second time
        corpus.file.check()
    shown = options.beam_size if options.verbose_beam and options.sample_max else options.sample_n
    decode = decoding_method(options, runs[0].infos['opt']['seq_length'], corpus.vocabulary, shown,
                             models.decoding_run(options, device))
    # This project extracts regions from upright pictures, other extractors from the pixels as stored.
    is_upright = folder or any(run.infos.get('regions') for run in runs)
    name = options.id or joined_name(file_name(run.infos['opt'].get('id')) for run in runs)
    files = page_files(options.image_root, corpus, rows) if options.dump_images else []
    server_file = folder.server_file if folder else \
        ServerFile(options.coco_json, len(listed)) if listed and not options.images_json else None
    return Evaluation(options, members, name, model, decode, device, corpus, rows, references, folder, server_file,
                      files, as_seen if is_upright else read_rgb)


def decoding_method(options: opts.Options, longest: int, vocabulary: dict[str, str], shown: int,
                    run: Callable[..., Any]) -> Callable[..., Any]:
    """The decoding method, with `shown` captions of each image; beam search that ranks by sums is checked for short
    captions."""
    endings = forbidden_endings(vocabulary.values(), options.remove_bad_endings)
    decode = models.build_decoder(options, longest, vocabulary, shown, endings=endings, run=run)
    if options.sample_max and options.beam_size > 1 and options.group_size == 1 and not options.max_ppl \
            and not options.length_penalty:
        greedy = models.build_decoder(opts.replaced(options, beam_size=1), longest, vocabulary, endings=endings,
                                      run=run)
        return LengthCheck(decode, greedy, options.beam_size)
    return decode


def reserve_outputs(evaluation: Evaluation, at_end: contextlib.ExitStack) -> None:
    """Raise `DataError` if what the evaluation is to write cannot be written, before anything is captioned, and
    `UsageError` if another evaluation is going to write it; until `at_end`, no other one may."""
    for path in evaluation.outputs():
        check_writable(path, BYTES * len(evaluation.rows))
    for path in evaluation.outputs():
        at_end.enter_context(held_output(path, (
            f'another evaluation is at work that will write {path}; wait for it, or give this one a folder of its '
            'own with --output_dir')))


def read_options(at_end: contextlib.ExitStack) -> tuple[opts.Options, set[str], ImageFolder | None,
                                                        list[dict[str, Any]] | None]:
    """The options, the names of those given on the command line, the pictures of --image_folder, whose inputs replace
    those of a data set, and the images of --images_json, or of COCO's list, where there are features of them."""
    options, given = opts.eval_options()
    if options.image_folder:
        folder = ImageFolder(options.image_folder, at_end, options.regions_dir, options.coco_json,
                             None if options.num_images < 0 else options.num_images)
        return opts.replaced(options, **folder.inputs()), given, folder, None
    if options.images_json:
        images = read_image_list(options.images_json)
        return opts.replaced(options, split=images[0]['split'], input_json=options.images_json), given, None, images
    listed = listed_images(options.coco_json) if options.coco_json else None
    if listed:
        options = opts.of_listed_images(options, given, listed[0]['split'])
    return options, given, None, listed


def find_regions(folder: ImageFolder, options: opts.Options, runs: list[Run], device: torch.device) -> dict[str, Any]:
    """Find the regions of the folder's pictures; what stands in for the content of --input_json."""
    flags = RecipeFlags(options.detector, options.cnn_model, options.cnn_layout, options.cnn_weight_dir,
                        options.extractor)
    return folder.find_regions([(run.infos_path, run.infos) for run in runs], flags, device, options.batch_size,
                               options.num_workers)


def open_corpus(options: opts.Options, members: list[opts.Options], runs: list[Run], needs: tuple[str, ...],
                info: dict[str, Any] | None) -> Corpus:
    """The images with what the model `needs`; `info` stands in for the content of --input_json if not None.

    Raises `DataError` if their vocabulary or captions are not those of the model.
    """
    corpus, infos = Corpus(opts.sources(opts.shared_inputs(members)), options.verbose_loss, info), runs[0].infos
    if corpus.vocabulary != infos['vocab']:
        raise DataError(f'the vocabulary of {options.input_json} is not that of {runs[0].infos_path}; '
                        'give the --input_json the model was trained with')
    if corpus.labels is not None and corpus.labels.longest > infos['opt']['seq_length']:
        raise DataError(f'{options.input_label_h5} has captions of up to {corpus.labels.longest} words, the '
                        f'model of up to {infos["opt"]["seq_length"]}; give the --input_label_h5 it was trained with')
    corpus.open_for(needs)
    if options.dump_images:
        corpus.open_boxes_and_grids()
    return corpus


def page_files(image_root: str, corpus: Corpus, rows: list[int]) -> list[str]:
    """The image files of the page; `DataError` if one does not exist, before anything is captioned."""
    paths = [image_path(image_root, corpus.images[row]) for row in rows]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(f'there is no image {missing[0]} ({len(missing)} of {len(paths)} are missing); '
                        '--image_root is the folder that holds train2014/ and val2014/')
    return paths


def caption_split(evaluation: Evaluation) -> tuple[list[ImageCaptions], float | None]:
    """The captions of all images, and with --verbose_loss the loss on their reference captions."""
    options, corpus, rows, device = evaluation.options, evaluation.corpus, evaluation.rows, evaluation.device

    def batches(captions_per_image=0):
        return image_batches(corpus, rows, options.batch_size, options.num_workers, captions_per_image,
                             pin=device.type == 'cuda')

    with memory_errors('--batch_size'), worker_errors():
        results = caption_images(evaluation.model, batches(), evaluation.decode, corpus.images, corpus.vocabulary,
                                 device, len(rows), options.seed, with_attention=options.dump_images,
                                 best_of=options.sample_n if options.score_caption == 'best' else 1)
        loss = mean_loss(evaluation.model, batches(LOSS_CAPTIONS), device, len(rows)) \
            if options.verbose_loss else None
    return results, loss


def write_all(evaluation: Evaluation, results: list[ImageCaptions], loss: float | None) -> int:
    """Print and write everything; returns the exit status."""
    options, folder, scores = evaluation.options, evaluation.folder, Scores()
    for line in caption_lines(results, options.verbose_beam, by_file=folder is not None):
        print(line)
    if options.sample_n > 1 and not options.verbose_beam:
        note(f'printed: of the {options.sample_n} captions of each image '
             f'{scored_caption(options.score_caption == "best", options.sample_max)}'
             + (f'; all of them are in {evaluation.vis}, as "beams"' if options.dump_json else ''))
    failures: list[UserError | OSError] = []

    def attempt(write: Callable[[], None]) -> None:
        # If one file cannot be written, the others are: captioning took hours.
        try:
            write()
        except (UserError, OSError) as error:
            failures.append(error)

    if options.dump_json:
        attempt(lambda: write_captions(evaluation, results))
    if isinstance(evaluation.decode, LengthCheck) and (hint := evaluation.decode.hint()):
        note(hint)
    if server := evaluation.server_file:
        attempt(lambda: server.write({image.image_id: image.first.text for image in results},
                                     server.path(evaluation.name, options.output_dir)))
    if evaluation.references is not None:
        scores = score_captions(results, evaluation.references, options.sample_n > 1)
        print_scores(evaluation.name, scores, options)
    if loss is not None:
        print(f'loss: {loss:.4f}')
    if evaluation.references is not None or loss is not None:
        attempt(lambda: write_scores(evaluation, results, scores, loss))
    if options.dump_images:
        attempt(lambda: write_captions_page(evaluation, results, scores))
    if failures:
        raise failures[0]
    return folder.finish() if folder else 0


def write_captions(evaluation: Evaluation, results: list[ImageCaptions]) -> None:
    """Write vis/vis.json."""
    write_vis(evaluation.vis, vis_entries(results, evaluation.options.sample_n, evaluation.options.dump_path))
    note(f'wrote {evaluation.vis}')
    page = evaluation.path('vis', 'index.html')
    if not evaluation.options.dump_images and os.path.exists(page):
        note(f'note: {page} shows an earlier evaluation still; --dump_images 1 writes it anew')


def print_scores(name: str, scores: Scores, options: opts.Options) -> None:
    """The table of scores, and one of the scores of several captions."""
    print(score_table({name: scores.overall}))
    if scores.several:
        print(f'these are the scores of one of the {options.sample_n} captions of each image: '
              f'{scored_caption(options.score_caption == "best", options.sample_max)}')
        print(score_table({f'{options.sample_n} captions per image': scores.several}))


def write_scores(evaluation: Evaluation, results: list[ImageCaptions], scores: Scores, loss: float | None) -> None:
    """Write eval_results/ID_SPLIT.json: scores, captions, and the options that led to them."""
    options, folder = evaluation.options, evaluation.folder
    used = [{name: getattr(member, name) for name in opts.MODEL_OPTIONS} for member in evaluation.members]
    recorded = {**vars(options), 'id': evaluation.name, **(used[0] if len(used) == 1 else {'models': used}),
                **scores.scored_by}
    for name in folder.temporary if folder else ():
        del recorded[name]
    captions: dict[ImageId, str] = {image.image_id: image.first.text for image in results
                                    if not scores.overall or image.image_id in scores.per_image}
    path = write_results(evaluation.results, {**scores.overall, **scores.several},
                         image_rows(captions, scores.per_image), recorded, loss, scores.bad_endings)
    note(f'wrote {path}')


def write_captions_page(evaluation: Evaluation, results: list[ImageCaptions], scores: Scores) -> None:
    """Write vis/index.html, with the scores if there are any."""
    options, corpus, rows = evaluation.options, evaluation.corpus, evaluation.rows
    references, problems = evaluation.references.captions if evaluation.references else {}, []
    entries = [Entry(
        image.image_id, image.first.words, file, image.file_path or os.path.basename(file),
        references=references.get(image.image_id) or corpus.images[row].get('captions') or [],
        scores={**scores.per_image.get(image.image_id, {}), 'log_prob': image.first.log_prob},
        others=[caption.text for caption in image.captions[1:options.sample_n]], attention=image.attention)
        for row, file, image in zip(rows, evaluation.page_files, results)]

    def regions(index):
        attention = results[index].attention
        try:
            return page_facts.matching_places(corpus.boxes_and_grids(rows[index]),
                                              attention and attention['mean'].shape[1])
        except DataError as error:
            problems.append(str(error))
            return None, None

    source = os.path.basename(os.path.abspath(options.image_folder)) if options.image_folder \
        else os.path.basename(options.images_json) if options.images_json else f'the {options.split} split'
    decoding = page_facts.decoding_method(options.sample_max, options.temperature, options.beam_size,
                                          options.group_size)
    facts = page_facts.page_facts(evaluation.name, source, list(map(model_facts, evaluation.members)), decoding,
                                  {**scores.overall, **scores.several}, len(entries))
    broken = write_page(evaluation.path('vis'), facts, entries, regions, max(1, options.num_workers),
                        evaluation.page_reader)
    page_facts.report_missing(broken, problems)
    note(f'wrote {evaluation.path("vis", "index.html")}')


def model_facts(member: opts.Options) -> page_facts.ModelFacts:
    """What the page says about a model."""
    model = MODELS[member.caption_model]
    place, encoding = model.place(member), model.encoding(member)
    details, layers = [encoding] if encoding else [], 1
    if opts.is_used('num_layers', member):
        layers = member.num_layers
        details.append(f'{layers} layers')
    if opts.is_used('cross_attn', member):
        details.append(f'{member.cross_attn} cross-attention')
    return page_facts.ModelFacts(member.caption_model, details, layers, model.attends_with(member), str(place or ''))


if __name__ == '__main__':
    run_command(main)
