"""Features as other programs store them: each writer puts the same regions into a form of its own."""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

WIDTH, MOST = 24, 7   # numbers of a feature; regions at most
Image = tuple[np.ndarray, np.ndarray, tuple[int, int]]   # features (P, D), boxes (P, 4) in pixels, (width, height)
Images = Mapping[int, Image]
Writer = Callable[[Path, Images], Any]


def made_up(count: int = 6, seed: int = 0) -> dict[int, Image]:
    """{id: image} of some images with different numbers of regions; portraits and landscapes."""
    random, images = np.random.default_rng(seed), {}
    for number in range(count):
        regions = int(random.integers(2, MOST))
        size = (640, 400) if number % 2 else (333, 500)
        corners = np.sort(random.uniform(0, 1, (regions, 2, 2)), axis=1).reshape(regions, 4)
        corners[0] = (0, 0, 1, 1)   # so that boxes of swapped sizes do not fit
        boxes = (corners * [*size, *size]).astype(np.float32)
        images[1000 + number] = random.uniform(0, 1, (regions, WIDTH)).astype(np.float32), boxes, size
    return images


def coco_name(image_id: int) -> str:
    """COCO's name of an image's file."""
    return f'COCO_val2014_{image_id:012d}'


# ---- a file for each image ----

def files(name: Callable[[int], str], arrays: Callable[[Image], dict[str, Any]]) -> Writer:
    """Writes `.npz` files of these `arrays` under these names."""
    def write(path: Path, images: Images) -> None:
        for image_id, image in images.items():
            file = path / f'{name(image_id)}.npz'
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, **arrays(image))
    return write


def bottom_up(image: Image) -> dict[str, Any]:
    """The arrays of bottom-up-attention.pytorch, with what it says of objects, which is pickled."""
    features, boxes, (width, height) = image
    return {'x': features, 'bbox': boxes, 'num_bbox': len(boxes), 'image_h': height, 'image_w': width,
            'info': np.array({'objects_id': [1, 2]}, dtype=object)}


def columns(image: Image) -> dict[str, Any]:
    """The same with a region in each column, as openvqa has them."""
    return {**bottom_up(image), 'x': image[0].T}


def padded(image: Image) -> dict[str, Any]:
    """The same with rows of zeros up to a fixed number of regions."""
    def longer(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((MOST - len(array), array.shape[1]), np.float32)])
    return {**bottom_up(image), 'x': longer(image[0]), 'bbox': longer(image[1])}


def halves(image: Image) -> dict[str, Any]:
    """Other names, and features of 16 bits."""
    return {'features': image[0].astype(np.float16), 'boxes': image[1].astype(np.float64),
            'image_width': image[2][0], 'image_height': image[2][1]}


def batch_of_one(image: Image) -> dict[str, Any]:
    """Features with a leading axis."""
    return {**bottom_up(image), 'x': image[0][None]}


def side_lengths(image: Image) -> dict[str, Any]:
    """Boxes as x, y, width, height."""
    boxes = image[1].astype(np.float64)
    return {**bottom_up(image), 'bbox': np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)}


def relative(image: Image) -> dict[str, Any]:
    """Boxes relative to the image."""
    return {**bottom_up(image), 'bbox': image[1] / np.float32([*image[2], *image[2]])}


def without_size(image: Image) -> dict[str, Any]:
    """Relative boxes, and no size."""
    return {name: array for name, array in relative(image).items() if not name.startswith('image')}


def npy_files(path: Path, images: Images) -> None:
    """Features alone, with files that say other things beside them."""
    path.mkdir()
    for image_id, (features, _, _) in images.items():
        np.save(path / f'{image_id}.npy', features)
        np.save(path / f'{image_id}_info.npy', np.array({'image_width': 5}, dtype=object), allow_pickle=True)


# ---- HDF5 ----

def flat(pair: Callable[[int, int], Any] | None = None, name: Callable[[int], str] = str) -> Writer:
    """Data sets ID_features and ID_boxes, as M2 has them; with a `pair` of (width, height) also ID_size."""
    def write(path: Path, images: Images) -> None:
        with h5py.File(path, 'w') as file:
            for image_id, (features, boxes, size) in images.items():
                start = name(image_id)
                file[f'{start}_features'], file[f'{start}_boxes'] = features, boxes
                file[f'{start}_cls_prob'] = np.ones((len(boxes), 5), np.float32)
                file[f'{start}_grids'] = np.ones((49, WIDTH), np.float32)
                if pair:
                    file[f'{start}_size'] = np.array(pair(*size))
    return write


def groups(path: Path, images: Images) -> None:
    """A group for each image."""
    with h5py.File(path, 'w') as file:
        for image_id, (features, boxes, (width, height)) in images.items():
            group = file.create_group(str(image_id))
            group['features'], group['bbox'], group['image_w'], group['image_h'] = features, boxes, width, height


def bare(path: Path, images: Images) -> None:
    """A data set of features for each image."""
    with h5py.File(path, 'w') as file:
        for image_id, (features, _, _) in images.items():
            file[str(image_id)] = features


def table(path: Path, images: Images) -> None:
    """One table of all images, padded."""
    rows = [padded(image) for image in images.values()]
    with h5py.File(path, 'w') as file:
        file['image_id'] = np.array(list(images))
        for name, key in (('features', 'x'), ('boxes', 'bbox'), ('num_boxes', 'num_bbox'), ('image_w', 'image_w'),
                          ('image_h', 'image_h')):
            file[name] = np.array([row[key] for row in rows])


def two_files(path: Path, images: Images) -> list[Path]:
    """Two HDF5 files."""
    half = len(images) // 2
    paths = [path.with_name(f'{name}.hdf5') for name in ('train', 'val')]
    for one, part in zip(paths, (list(images)[:half], list(images)[half:])):
        flat(lambda width, height: (height, width))(one, {image_id: images[image_id] for image_id in part})
    return paths


# ---- TSV ----

def base64_of(array: Any) -> str:
    """float32 numbers as base64."""
    return base64.b64encode(np.asarray(array, '<f4').tobytes()).decode()


def lines(cells: Callable[[int, Image], list[Any]], header: str = '', mark: bytes = b'') -> Writer:
    """A TSV file with a line of these `cells` for each image."""
    def write(path: Path, images: Images) -> None:
        rows = ['\t'.join(map(str, cells(image_id, image))) for image_id, image in images.items()]
        path.write_bytes(mark + ''.join(f'{row}\n' for row in ([header] if header else []) + rows).encode())
    return write


def archive_cells(image_id: int, image: Image) -> list[Any]:
    """Those of the bottom-up-attention archive."""
    features, boxes, (width, height) = image
    return [image_id, width, height, len(boxes), base64_of(boxes), base64_of(features)]


def lxmert_cells(image_id: int, image: Image) -> list[Any]:
    """Those of LXMERT, which has the height first."""
    features, boxes, (width, height) = image
    other = base64_of(np.ones(len(boxes)))
    return [coco_name(image_id), height, width, other, other, other, other, len(boxes), base64_of(boxes),
            base64_of(features)]


def ordered_cells(image_id: int, image: Image) -> list[Any]:
    """An order of its own, for a header."""
    features, boxes, (width, height) = image
    return [base64_of(features), image_id, 'a name', len(boxes), height, base64_of(boxes), width]


def with_positions(image: Image, flipped: bool = False) -> np.ndarray:
    """Features (P, D + 6) as VinVL's: with the relative box, and its width and height, or `flipped`."""
    features, boxes, size = image
    box = boxes / np.float32([*size, *size])
    sides = box[:, 2:] - box[:, :2]
    return np.concatenate([features, box, sides[:, ::-1] if flipped else sides], axis=1)


def vinvl_cells(image_id: int, image: Image) -> list[Any]:
    """VinVL's features.tsv."""
    return [image_id, len(image[0]), base64_of(with_positions(image))]


def vinvl_object(image_id: int, image: Image) -> list[Any]:
    """VinVL's feature.tsv for captioning."""
    return [image_id, json.dumps({'num_boxes': len(image[0]), 'features': base64_of(with_positions(image, True))})]


def vinvl_predictions(image_id: int, image: Image) -> list[Any]:
    """VinVL's predictions.tsv."""
    features, boxes, (width, height) = image
    objects = [{'rect': box.tolist(), 'class': 'dog', 'feature': base64_of(row)} for box, row in zip(boxes, features)]
    return [image_id, json.dumps({'image_w': width, 'image_h': height, 'objects': objects})]
