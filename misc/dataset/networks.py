"""The networks whose last feature map describes regions: how they are named and what a recipe records of them.

Plain values, so that options and recipes can be checked without loading torch.  Networks are built, and their
weights are found, in misc/pictures/cnn.py and weights.py.
"""

import re
from dataclasses import dataclass
from typing import Any

LAYOUTS = ('caffe', 'torchvision')        # where a ResNet strides; see misc/pictures/cnn.py
DETECTOR = 'fasterrcnn_resnet50_fpn_v2'   # torchvision's name of the detector that proposes boxes
DEFAULT_NETWORK = 'resnet101'
# The networks of which weights in Caffe's layout are published.  They see pictures as these are, unless told a size.
TWO_LAYOUTS = ('resnet101', 'resnet152')
# Of the colours of ImageNet, red, green, blue from 0 to 1, which most networks are trained on.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ('bilinear', 'bicubic')

# How the names of torchvision's classification networks begin, and the part whose output is the last map.
FAMILIES = {
    'alexnet': 'features', 'convnext_': 'features', 'densenet': 'features', 'efficientnet_b': 'features',
    'efficientnet_v2_': 'features', 'googlenet': 'inception5b', 'inception_v3': 'Mixed_7c', 'maxvit_': 'blocks.3',
    'mnasnet': 'layers', 'mobilenet_v': 'features', 'regnet_': 'trunk_output', 'resnet': 'layer4',
    'resnext': 'layer4', 'shufflenet_v2_': 'conv5', 'squeezenet': 'features', 'swin_': 'permute', 'vgg': 'features',
    'vit_': 'encoder', 'wide_resnet': 'layer4'}
# Side in pixels of the pictures that each EfficientNet-Lite was trained on.
LITE_SIZES = {'efficientnet_lite0': 224, 'efficientnet_lite1': 240, 'efficientnet_lite2': 260}
# Their colours: (x - 127) / 128 of values from 0 to 255.
LITE_MEAN, LITE_DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3


@dataclass(frozen=True)
class Network:
    """A network as a recipe records it.

    name           torchvision's name of it, or a key of `LITE_SIZES`
    width          channels of its last map, the numbers per region
    input_size     side in pixels of the square that pictures are scaled to; None: they are taken as they are
    interpolation  how they are scaled, one of `INTERPOLATIONS`
    mean, std      the colours that are subtracted and divided by, red, green, blue from 0 to 1
    layout         of a network of `TWO_LAYOUTS`: one of `LAYOUTS`
    weights        'sha256 ' and a digest of their file, or 'random ' and a seed
    """

    name: str
    width: int = 2048
    input_size: int | None = None
    interpolation: str = 'bilinear'
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = DEVIATION
    layout: str | None = None
    weights: str = ''

    @property
    def is_plain(self) -> bool:
        """Whether it is one of `TWO_LAYOUTS` that sees pictures as they are, which recipes record in fewer words."""
        return self.name in TWO_LAYOUTS and self.input_size is None


def names_in(text: str) -> list[str]:
    """The names in `text`, joined by '+', in lower case.  Raises `ValueError` for one of no known family, and for two
    alike."""
    names = text.lower().split('+')
    for name in names:
        if not (name in LITE_SIZES or any(re.fullmatch(rf'{family}\w*', name) for family in FAMILIES)):
            raise ValueError(f'{name!r} is not known; allowed are the classification networks of torchvision, such '
                             f'as resnet101, convnext_tiny, regnet_y_16gf, swin_b, vit_b_16, and '
                             f'{", ".join(LITE_SIZES)}; join several by +')
        if names.count(name) > 1:
            raise ValueError(f'{name} is named twice')
    return names


def layer_of(name: str) -> str:
    """The part of torchvision's network `name` whose output is the last map."""
    return FAMILIES[max((family for family in FAMILIES if name.startswith(family)), key=len)]


def is_network(value: Any) -> bool:
    """Whether `value`, read from a file, is a dict of the fields of a `Network` (weights aside) with possible
    values."""
    def are_colours(colours: Any) -> bool:
        return isinstance(colours, list) and len(colours) == 3 and all(type(one) in (int, float) for one in colours)

    return (isinstance(value, dict) and set(value) <= set(Network.__dataclass_fields__)
            and isinstance(value.get('name'), str) and re.fullmatch(r'\w{1,80}', value['name']) is not None
            and type(value.get('width')) is int and 0 < value['width'] < 1 << 20
            and (value.get('input_size') is None or type(value['input_size']) is int
                 and 32 <= value['input_size'] <= 10000)
            and value.get('interpolation') in INTERPOLATIONS and value.get('layout') in (None, *LAYOUTS)
            and are_colours(value.get('mean')) and are_colours(value.get('std')) and min(value['std']) > 0)
