"""What `eval.py --image_folder` captions: from pictures to all that a `Corpus` reads, without any labels."""

import os
import signal
import sys
import tempfile

from misc import parallel
from misc.cli import DataError, UsageError, note
from misc.dataset import recipe
from misc.machine import memory_errors
from misc.pictures.own_images import OwnPictures, listed_name, results_path
from misc.prepare.broken import Broken
from misc.scoring.report import write_vis

MOST_TOGETHER = 8   # pictures that the networks look at at a time, where --batch_size allows it


class ImageFolder:
    """The pictures of `--image_folder`.  Each of several processes has one; the main one does the work.

    pictures   an `OwnPictures`
    passing    the options of `inputs` that name what is removed in the end
    """

    def __init__(self, options, at_end):
        """List the pictures of the `options`; `at_end`, an ExitStack, removes the regions that are found, unless
        they are to be kept."""
        self.options, self.broken = options, Broken()
        self.passing = () if options.regions_dir else ('input_img_feat_dir', 'input_box_dir')
        self.base = parallel.on_main(lambda: self._place(at_end))
        self.pictures = parallel.on_main(lambda: OwnPictures(
            options.image_folder, self.base, self.broken, options.coco_json,
            None if options.num_images < 0 else options.num_images))

    def _place(self, at_end):
        """What the names of the regions' folders begin with."""
        if self.options.regions_dir:
            return os.path.normpath(self.options.regions_dir)
        # SIGTERM alone would leave the folder behind.
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        at_end.callback(signal.signal, signal.SIGTERM, before)
        return os.path.join(at_end.enter_context(tempfile.TemporaryDirectory(prefix='regions_')), 'own')

    def inputs(self):
        """The options that say where pictures and regions lie, {name: value}, and what the images are called:
        by their list, and not as a split of the data set is, whose results have names of that form too."""
        listed = f'_{listed_name(self.options.coco_json)}' if self.options.coco_json else ''
        return {'input_json': self.options.image_folder,   # for messages; there is no such file
                'split': f'pictures{listed}', 'image_root': self.pictures.root,
                'input_img_feat_dir': f'{self.base}_att', 'input_box_dir': f'{self.base}_box'}

    def found(self, vocabulary, infos, device):
        """Find the regions of the pictures in the way that the models, by their `infos` (a list), were trained
        with -> what stands in for --input_json.  Raises `UsageError` where that way is not known."""
        options = self.options

        def find():
            way = self._way(infos)
            from misc.pictures.extraction import Extraction  # loads torchvision
            note(f'regions: {recipe.told(way)}')
            extraction = Extraction(self.base, way, self.broken)
            with memory_errors('--batch_size'):
                there = extraction.run(self.pictures, device, min(options.batch_size, MOST_TOGETHER),
                                       max(1, options.num_workers), options.cnn_weight_dir)
            if not there:
                raise DataError(f'none of the {len(self.pictures.paths)} pictures of {options.image_folder} can '
                                'be read, for the reasons above')
            return self.pictures.corpus(there, extraction.sizes, vocabulary)
        return parallel.on_main(find, may_take_days=True)

    def _way(self, infos):
        """How regions are to be found."""
        options = self.options
        ways = [one.get('regions') for one in infos]
        for way, path, one in zip(ways, options.infos_path, infos):
            size = one['opt'].get('img_feat_size') or recipe.FEATURES
            if size != recipe.FEATURES:
                raise UsageError(f'{path} has img_feat_size {size}, and regions that are found have features of '
                                 f'{recipe.FEATURES} numbers; train on those of scripts/extract_regions.py')
            if way is not None:
                recipe.checked_way(way, path)
        way = ways[0] if all(one == ways[0] for one in ways) else None
        if options.detector:
            return self._other_way(way)
        for one, path in zip(ways, options.infos_path):
            if one is None:
                raise UsageError(
                    f'{path} does not say how the regions of its features were found: they come from elsewhere, '
                    "such as the bottom-up-attention archive, whose extractor is no part of this project;\n"
                    'train on features of scripts/extract_regions.py, or find others all the same with --detector '
                    'grid or fasterrcnn: they look alike and mean something else, so captions are guesses')
        if way is None:
            raise UsageError('the models of the ensemble were trained on regions found in different ways '
                             f'({"; ".join(map(recipe.told, ways))}); give models of one way')
        for name in ('cnn_model', 'cnn_layout'):
            if getattr(options, name) not in (None, way[name]):
                raise UsageError(f'--{name} {getattr(options, name)} contradicts {options.infos_path[0]}, whose '
                                 f'features come from {way[name]}; leave the flag out')
        return way

    def _other_way(self, trained):
        """The way of `--detector`, and a word where it is another than that of the training (or None)."""
        from misc.pictures.regions import new_way
        options = self.options
        same = trained and trained['detector'] == options.detector
        if same and not options.cnn_weight_dir and all(
                getattr(options, name) in (None, trained[name]) for name in ('cnn_model', 'cnn_layout')):
            return trained
        settings = {**recipe.DEFAULTS, **(trained if same else {})}
        way = new_way(options.detector, settings, options.cnn_model or recipe.MODELS[0],
                      options.cnn_layout, options.cnn_weight_dir)
        if way != trained:
            was = recipe.told(trained) if trained else 'features of another origin'
            note(f'warning: the model was trained on {was}; what it says of other features is a guess')
        return way

    def write_results(self, results, run_id):
        """Write the captions under the name and in the form that COCO's test server takes."""
        path = results_path(self.options.coco_json, run_id)
        write_vis(path, [{'image_id': entry['image_id'], 'caption': entry['caption']} for entry in results])
        note(f"wrote {path}, in the form of COCO's test server: {len(results)} captions")
        if len(results) < self.pictures.wanted:
            note(f'note: {self.options.coco_json} lists {self.pictures.wanted} images, and the server wants a '
                 'caption of each')

    def finish(self):
        """List the pictures that could not be read; returns the exit status."""
        return self.broken.finish('the others are captioned; put whole pictures there and run the command again')
