"""The pictures of `eval.py --image_folder`: their regions are found, and they stand in for a prepared data set."""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from misc import parallel
from misc.cli import DataError, UsageError, note
from misc.dataset.recipe import describe
from misc.machine import memory_errors
from misc.pictures.coco_list import ServerFile, list_name
from misc.pictures.listing import FolderPictures
from misc.pictures.recipes import RecipeFlags, recipe_for_models
from misc.prepare.broken import Broken

MOST_AT_ONCE = 8   # pictures in a batch of the feature networks, where --batch_size allows as many


class ImageFolder:
    """The pictures of a folder, and their regions once `find_regions` has run.

    With several processes each holds one.

    pictures   an `FolderPictures`
    temporary  the options of `inputs` that name folders which are removed when the evaluation ends
    """

    def __init__(self, place: str, at_end: contextlib.ExitStack, regions_dir: str | None = None,
                 coco_json: str | None = None, most: int | None = None) -> None:
        """List the pictures of `place`, a folder or a file; at most the first `most`.

        The regions go to `regions_dir` and stay there; without it, to a temporary folder that `at_end` removes.
        coco_json: COCO's list of images, which selects pictures and gives their ids.
        """
        if not regions_dir and not parallel.share_a_machine():
            raise UsageError('--image_folder: the processes are on several machines; give --regions_dir, a place '
                             'that all of them can reach')
        self.place, self.coco_json, self.broken = place, coco_json, Broken()
        self.temporary = () if regions_dir else ('input_img_feat_dir', 'input_box_dir')
        self.base = parallel.on_main(
            lambda: os.path.normpath(regions_dir) if regions_dir else temporary_base(at_end))
        self.pictures = parallel.on_main(lambda: FolderPictures(place, self.base, self.broken, coco_json, most))

    def inputs(self) -> dict[str, str]:
        """The options that say where pictures and regions lie, {name: value}.

        `split` gets a name that no split of the data set has, since results are stored under it.
        """
        listed = f'_{list_name(self.coco_json)}' if self.coco_json else ''
        return {'input_json': self.place,   # for messages; there is no such file
                'split': f'pictures{listed}', 'image_root': self.pictures.root,
                'input_img_feat_dir': f'{self.base}_att', 'input_box_dir': f'{self.base}_box'}

    def find_regions(self, runs: Sequence[tuple[str, Mapping[str, Any]]], flags: RecipeFlags, device: torch.device,
                     batch_size: int, threads: int) -> dict[str, Any]:
        """Find the regions of the pictures and return what stands in for the content of --input_json.

        runs: the path and the content of each model's infos file, which say how the regions of their training
        were found.  Raises as `recipe_for_models` does, and `DataError` where no picture can be read.
        """
        recipe = parallel.on_main(lambda: recipe_for_models(runs, flags))
        from misc.pictures.extraction import Extraction  # loads torchvision
        note(f'regions: {describe(recipe)}')
        extraction = Extraction(self.base, recipe, self.broken, flags.extractor)
        with memory_errors('--batch_size'):
            found = extraction.run(self.pictures, device, min(batch_size, MOST_AT_ONCE), max(1, threads),
                                   flags.cnn_weight_dir)
        if not found:
            raise DataError(f'none of the {len(self.pictures.paths)} pictures of {self.place} can be read, for '
                            'the reasons above')
        return self.pictures.corpus(found, extraction.sizes, runs[0][1]['vocab'])

    @property
    def server_file(self) -> ServerFile | None:
        """The file for COCO's test server; None without COCO's list."""
        return ServerFile(self.coco_json, self.pictures.wanted) if self.coco_json else None

    def finish(self) -> int:
        """List the pictures that could not be read; returns the exit status."""
        return self.broken.finish('the others are captioned; replace these files and run the command again')


def temporary_base(at_end: contextlib.ExitStack) -> str:
    """A prefix for the regions' folders in a temporary folder that `at_end` removes, also on SIGTERM and SIGHUP."""
    for name in ('SIGTERM', 'SIGHUP'):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            at_end.callback(signal.signal, number, signal.signal(number, lambda number, _: sys.exit(128 + number)))
    return os.path.join(at_end.enter_context(tempfile.TemporaryDirectory(prefix='regions_')), 'own')
