"""The detector that proposes boxes: torchvision's Faster R-CNN (version 2), trained on COCO's 80 classes."""

import torch
from torchvision.models import detection

from misc.pictures import cnn, random_weights

PROPOSALS = 300     # proposals that are classified, each for every class, before suppression within each class
CALIBRATION = 128   # side in pixels of the pictures that batch statistics are computed from


def build_detector(most: int) -> detection.FasterRCNN:
    """The detector without weights.  It returns the `most` most confident boxes of all classes, after suppression
    within each class, however low their scores."""
    return detection.fasterrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, rpn_post_nms_top_n_test=PROPOSALS, box_score_thresh=0.0,
        box_detections_per_img=most)


def load_detector(path: str, most: int) -> detection.FasterRCNN:
    """The detector with the weights at `path`, in evaluation mode.  Raises `DataError`."""
    detector = build_detector(most)
    detector.load_state_dict(cnn.fitting_weights(detector, path))
    return detector.eval().requires_grad_(False)


def random_detector(seed: int, most: int) -> detection.FasterRCNN:
    """The detector with random weights, which depend on `seed` alone: see misc/pictures/random_weights.py."""
    return random_weights.random_network(lambda: build_detector(most), seed, forward_unscaled).requires_grad_(False)


def forward_unscaled(detector: detection.FasterRCNN, pictures: torch.Tensor) -> None:
    """Run pictures (I, 3, side, side) through a detector without the scaling that it starts with."""
    transform = detector.transform
    least, most = transform.min_size, transform.max_size
    transform.min_size, transform.max_size = (CALIBRATION,), CALIBRATION
    try:
        detector(list(pictures))
    finally:
        transform.min_size, transform.max_size = least, most
