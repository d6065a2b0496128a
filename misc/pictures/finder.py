"""Regions of pictures and their features: the cells of a grid, or the boxes that a detector proposes.

In both cases the feature of a region is the average of a network's last feature map over the region; those of several
networks are joined.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from misc.cli import DataError
from misc.dataset.networks import DETECTOR, Network
from misc.dataset.recipe import networks_of, seed_of
from misc.pictures import cnn, weights
from misc.pictures.images import picture_name, read_upright

BINS, SAMPLES = 7, 2   # RoI align: bins per side of a box, and samples per side of a bin


class Finder:
    """Finds regions by one recipe (see misc/dataset/recipe.py), on one device."""

    def __init__(self, recipe: Mapping[str, Any], device: torch.device, folder: str | None = None) -> None:
        """Load the networks; `folder`: where their weights are, as in `recipes.new_recipe`.

        Raises `DataError` where the weights there are not those of the recipe.
        """
        self.recipe, self.device = recipe, device
        self.networks = [self._load_network(network, folder) for network in networks_of(recipe)]
        self.detector = (self._load_detector(recipe['detector_weights'], folder)
                         if recipe['detector'] == 'fasterrcnn' else None)

    def _load_network(self, network: Network, folder: str | None) -> cnn.MapNetwork:
        seed = seed_of(network.weights)
        if seed is None:
            return cnn.load_network(network, weights.file_of(network.weights, network.name, folder), self.device)
        return cnn.random_network(network, seed, self.device)

    def _load_detector(self, recorded: str, folder: str | None) -> torch.nn.Module:
        from misc.pictures import detector
        seed, most = seed_of(recorded), int(self.recipe['max_regions'])
        found = (detector.load_detector(weights.file_of(recorded, DETECTOR, folder), most) if seed is None
                 else detector.random_detector(seed, most))
        return found.to(self.device)

    def __call__(self, pictures: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The regions of `pictures`, which share one size: uint8 (I, height, width, 3), red, green, blue.

        Returns for each picture (boxes (P, 4): x1, y1, x2, y2 in its pixels; features (P, D)), float32.
        Raises `cnn.TooSmall` for pictures of fewer than 3 x 3 pixels.
        """
        # Without TF32, features agree to 1e-5 across devices.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._find(pictures)

    def find_in_file(self, path: str | Image.Image) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """The regions of the picture at `path`, or open in Pillow: (boxes (P, 4) in pixels of the upright picture,
        features (P, D), (width, height)).  Raises `DataError` where it cannot be read."""
        pixels, size = read_upright(path, self.recipe['longest_side'])
        try:
            (boxes, features), = self(pixels[None])
        except cnn.TooSmall as error:
            raise DataError(f'{picture_name(path)}: {error}') from None
        return full_size(boxes, pixels, size).astype(np.float32), features, size

    def _find(self, pictures: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        height, width = pictures.shape[1:3]
        images = cnn.as_floats(pictures, self.device)
        maps = [network(images) for network in self.networks]                    # (I, D, h, w) of each
        if self.detector is None:
            side = int(self.recipe['grid_size'])
            cells = grid_boxes(side, width, height)
            features = torch.cat([grid_features(of_one, side) for of_one in maps], dim=2)
            return [(cells, one) for one in features.cpu().numpy()]
        found, proposals = [], self.detector(list(images))
        for index, proposed in enumerate(proposals):
            boxes = chosen_boxes(proposed['boxes'], proposed['scores'], int(self.recipe['min_regions']),
                                 self.recipe['min_confidence'], width, height)
            features = torch.cat([roi_features(of_one[index], boxes, width, height) for of_one in maps], dim=1)
            found.append((boxes.cpu().numpy(), features.cpu().numpy()))
        return found


def full_size(boxes: np.ndarray, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (P, 4) on `pixels` (h, w, 3), shrunk from a picture of `size` (width, height) -> float64 boxes on that
    picture."""
    height, width = pixels.shape[:2]
    return boxes * (np.array(size * 2, dtype=np.float64) / (width, height, width, height))


def grid_boxes(side: int, width: int, height: int) -> np.ndarray:
    """The cells of a side x side grid over a picture, row by row from the top: float32 (side * side, 4)."""
    return cell_boxes(side, side, width, height)


def cell_boxes(rows: int, columns: int, width: int, height: int) -> np.ndarray:
    """The cells of a grid over a picture, row by row from the top: float32 (rows * columns, 4)."""
    across, down = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
    left, top = np.meshgrid(across[:-1], down[:-1])
    right, bottom = np.meshgrid(across[1:], down[1:])
    return np.stack([left, top, right, bottom], 2).reshape(-1, 4).astype(np.float32)


def grid_features(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Maps (I, D, h, w) averaged over the cells of a grid -> (I, side * side, D), in the order of `grid_boxes`."""
    return functional.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2).contiguous()


def chosen_boxes(boxes: torch.Tensor, scores: torch.Tensor, least: int, confidence: float, width: int,
                 height: int) -> torch.Tensor:
    """Of boxes (P, 4), sorted by falling `scores` (P,), those with a score above `confidence`, but at least
    `least`.  Where there are fewer than that, all of them and a box of the whole picture."""
    if len(boxes) < least:
        return torch.cat([boxes, boxes.new_tensor([[0, 0, width, height]])])
    return boxes[:max(least, int((scores > confidence).sum()))]


def roi_features(one_map: torch.Tensor, boxes: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """A picture's map (D, h, w) averaged over each of its boxes (P, 4, in pixels) by RoI align (He et al.,
    ICCV 2017) -> (P, D).  The map is taken to cover the whole picture exactly."""
    from torchvision.ops import roi_align
    D, h, w = one_map.shape
    on_map = boxes * boxes.new_tensor([w / width, h / height, w / width, h / height])
    return roi_align(one_map[None], [on_map], BINS, sampling_ratio=SAMPLES, aligned=True).mean((2, 3))
