"""The detector that proposes boxes: torchvision's Faster R-CNN (version 2), of COCO's 80 classes."""

from torchvision.models import detection

from misc.pictures import cnn, weights

PROPOSALS = 300     # that are classified, in every class: what suppression within each class is applied to
CALIBRATION = 128   # pixels of the sides of pictures, while statistics are taken


def build_detector(most):
    """The detector without weights of its own.  It returns the `most` (a number) surest boxes of all classes,
    after suppression within each class, however unsure."""
    return detection.fasterrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, rpn_post_nms_top_n_test=PROPOSALS, box_score_thresh=0.0,
        box_detections_per_img=most)


def load_detector(path, most):
    """The detector with the weights at `path`, in evaluation mode.  Raises `DataError`."""
    detector = build_detector(most)
    detector.load_state_dict(cnn.fitting_weights(detector, path))
    return detector.eval().requires_grad_(False)


def random_detector(seed, most):
    """The detector with random weights, the same for the same `seed`: see misc/pictures/weights.py."""
    return weights.random_network(lambda: build_detector(most), seed, look).requires_grad_(False)


def look(detector, pictures):
    """Show pictures (n, 3, side, side) to a detector in their own size."""
    transform = detector.transform
    least, most = transform.min_size, transform.max_size
    transform.min_size, transform.max_size = (CALIBRATION,), CALIBRATION
    try:
        detector(list(pictures))
    finally:
        transform.min_size, transform.max_size = least, most
