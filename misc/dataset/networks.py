"""The networks whose last feature map describes regions: names, feature widths and preprocessing.

Plain values, so that options can be checked without loading torch.  Networks are built, and their weights are
found, by the names that torchvision gives them (misc/pictures/cnn.py and weights.py).
"""

from dataclasses import dataclass

LAYOUTS = ('caffe', 'torchvision')        # where a ResNet strides; see misc/pictures/cnn.py
DETECTOR = 'fasterrcnn_resnet50_fpn_v2'   # torchvision's name of the detector that proposes boxes
# Of the colours of ImageNet, red, green, blue from 0 to 1, which all networks here are trained on.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Network:
    """A CNN: torchvision's name of it, and the channels of its last map, which are the numbers per region."""

    name: str
    width: int


NETWORKS = {network.name: network for network in (Network('resnet101', 2048), Network('resnet152', 2048))}
NAMES = tuple(NETWORKS)
DEFAULT_NETWORK = 'resnet101'
