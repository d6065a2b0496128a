"""Regions of pictures and their features: cells of a grid, or boxes that a detector proposes.

Either way a region's feature is what a ResNet's last map holds where the region lies.
"""

import numpy as np
import torch
from torch.nn import functional

from misc.cli import UsageError
from misc.dataset.recipe import DETECTOR, SETTINGS, seed_of
from misc.pictures import cnn, weights

BINS, SAMPLES = 7, 2   # of RoI align: bins each way over a box, and samples each way in a bin


def new_way(detector, settings, cnn_model, layout=None, folder=None, seed=None):
    """The way of `detector` (one of DETECTORS) with `settings`, {name: value}, and the weights that are there:
    in `folder`, or where misc/pictures/weights.py looks; or random ones by `seed`.  Raises
    `DataError`, and `UsageError` where `layout` is None and the name of the ResNet's file does not tell it."""
    way = {'detector': detector, **{name: settings[name] for name in SETTINGS[detector]}}
    names = {'cnn_weights': cnn_model}
    if detector == 'fasterrcnn':
        names['detector_weights'] = DETECTOR
    paths = weights.find_files(names.values(), folder) if seed is None else []
    layout = layout or (weights.layout_of(paths[0], cnn_model) if paths else 'torchvision')
    if layout is None:
        raise UsageError(f'{paths[0]} may hold weights of either layout, and in the wrong one features look like '
                         'features and are not; give --cnn_layout caffe if they were converted from Caffe (as '
                         'the published file of that name was), --cnn_layout torchvision if they are '
                         "torchvision's")
    way.update(cnn_model=cnn_model, cnn_layout=layout)
    marks = map(weights.file_mark, paths) if paths else [weights.random_mark(seed)] * len(names)
    way.update(zip(names, marks))
    return way


class Finder:
    """Finds the regions of pictures in one way, on one device."""

    def __init__(self, way, device, folder=None):
        """The networks of `way`, their weights from where they are found (see `new_way`).  Raises `DataError`
        where the weights there are not those of the way."""
        self.way, self.device = way, device
        self.network = self._load(way['cnn_model'], way['cnn_weights'], folder)
        self.detector = (self._load(DETECTOR, way['detector_weights'], folder)
                         if way['detector'] == 'fasterrcnn' else None)

    def _load(self, name, mark, folder):
        seed = seed_of(mark)
        path = None if seed is not None else weights.file_of(mark, name, folder)
        if name == DETECTOR:
            from misc.pictures import detector
            most = int(self.way['max_regions'])
            return (detector.random_detector(seed, most) if path is None
                    else detector.load_detector(path, most)).to(self.device)
        layout = self.way['cnn_layout']
        return (cnn.random_network(name, seed, layout, self.device) if path is None
                else cnn.load_network(name, path, layout, self.device))

    def __call__(self, pictures):
        """The regions of `pictures` of one size, uint8 (I, height, width, 3) -> [(boxes (P, 4) in their
        pixels, features (P, D))], float32.  Raises `cnn.TooSmall`."""
        # In whole float32, so that features are the same to 1e-5 wherever they are computed.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._find(pictures)

    def _find(self, pictures):
        height, width = pictures.shape[1:3]
        images = cnn.colours(pictures, self.device)
        maps = cnn.last_maps(self.network, images)                               # (I, D, h, w)
        if self.detector is None:
            found = grid_features(maps, int(self.way['grid_size']))
            boxes = grid_boxes(int(self.way['grid_size']), width, height)
            return [(boxes, features) for features in found.cpu().numpy()]
        proposals = self.detector(list(images))
        found = []
        for one, proposed in zip(maps, proposals):
            boxes = chosen_boxes(proposed['boxes'], proposed['scores'], int(self.way['min_regions']),
                                 self.way['min_confidence'], width, height)
            found.append((boxes.cpu().numpy(), roi_features(one, boxes, width, height).cpu().numpy()))
        return found


def grid_boxes(side, width, height):
    """The cells of a side x side grid over a picture, row by row from the top: float32 (side * side, 4)."""
    across, down = (np.linspace(0, length, side + 1) for length in (width, height))
    left, top = np.meshgrid(across[:-1], down[:-1])
    right, bottom = np.meshgrid(across[1:], down[1:])
    return np.stack([left, top, right, bottom], 2).reshape(-1, 4).astype(np.float32)


def grid_features(maps, side):
    """Maps (I, D, h, w) averaged over the cells of a grid -> (I, side * side, D), in the order of
    `grid_boxes`."""
    return functional.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2).contiguous()


def chosen_boxes(boxes, scores, least, confidence, width, height):
    """Of boxes (P, 4) by falling `scores`, those above `confidence`, and at least `least`.  Where there are
    fewer, all of them and the whole picture."""
    if len(boxes) < least:
        return torch.cat([boxes, boxes.new_tensor([[0, 0, width, height]])])
    return boxes[:max(least, int((scores > confidence).sum()))]


def roi_features(one_map, boxes, width, height):
    """A map (D, h, w) of a picture, averaged over each of its boxes (P, 4, in pixels) by RoI align (He et al.,
    ICCV 2017) -> (P, D).  The map lies over the whole picture, whatever its size."""
    from torchvision.ops import roi_align
    D, h, w = one_map.shape
    on_map = boxes * boxes.new_tensor([w / width, h / height, w / width, h / height])
    return roi_align(one_map[None], [on_map], BINS, sampling_ratio=SAMPLES, aligned=True).mean((2, 3))
