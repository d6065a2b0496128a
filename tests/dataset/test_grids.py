"""Grid vectors, relative boxes and image sizes."""

import numpy as np
import pytest

from misc.cli import DataError
from misc.dataset import grids
from misc.dataset.grids import checked_boxes, extent, grid_vectors, image_sizes, relative_boxes
from misc.dataset.packing import write_packed
from misc.disk.files import write_json
from tests import naive

ODD_BOXES = [
    [0, 0, 640, 480],              # the image
    [-50, -20, 900, 1000],         # larger than the image
    [10, 10, 10, 200],             # a line
    [33, 44, 33, 44],              # a point
    [700, 500, 800, 600],          # outside the image
    [-30, -30, -5, -5],
    [53.333332, 40, 106.666664, 80],   # one cell of 12 x 12, up to rounding
    [0.1, 0.2, 0.3, 0.4],          # inside a cell
    [639, 479, 640, 480]]


@pytest.mark.parametrize('side', [1, 7, 12, 16])
def test_grid_vectors_equal_a_computation_cell_by_cell(side):
    random = np.random.default_rng(side)
    corners = random.uniform(-40, 700, (60, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    boxes = np.concatenate([boxes, ODD_BOXES]).astype(np.float32)
    vectors = grid_vectors(boxes, 640, 480, side)
    assert vectors.dtype == np.float32 and vectors.shape == (69, side * side)
    expected = [naive.grid_vector(box.tolist(), 640, 480, side) for box in boxes]
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)


def test_grid_vectors_are_the_product_of_two_overlaps_to_the_last_bit():
    starts = np.random.default_rng(0).uniform(0, 640, (40, 2))
    boxes = np.concatenate([starts, np.full((40, 2), 500)], axis=1)
    boxes = np.concatenate([boxes, ODD_BOXES]).astype(np.float32)

    def overlap(start, end, length, part):
        scale = 12 / length
        return max(min(end * scale, part + 1) - max(start * scale, part), 0)
    expected = [[overlap(y1, y2, 480.0, cell // 12) * overlap(x1, x2, 640.0, cell % 12) for cell in range(144)]
                for x1, y1, x2, y2 in boxes.tolist()]
    np.testing.assert_array_equal(grid_vectors(boxes, 640, 480, 12), np.float32(expected))


def test_rows_go_down_columns_go_right_and_profiles_are_overlaps():
    top_right = grid_vectors(np.array([[3, 0, 4, 1]]), 4, 2, 2)[0]
    assert top_right.tolist() == [0, 0.5, 0, 0]
    assert (grid_vectors(np.array([[0, 0, 4, 2]]), 4, 2, 2) == 1).all()
    band = grid_vectors(np.array([[0, 0.5, 4, 2]]), 4, 2, 2)[0].reshape(2, 2)
    assert band.sum(1).tolist() == [1, 2] and band.sum(0).tolist() == [1.5, 1.5]


def test_relative_boxes_are_clipped_to_the_image():
    boxes = relative_boxes(np.array([[-5, 10, 320, 500]], np.float32), 640, 480)
    assert boxes.dtype == np.float32
    np.testing.assert_allclose(boxes, [[0, 10 / 480, 0.5, 1]], rtol=1e-6)


@pytest.mark.parametrize('boxes, reason', [
    ([[1, 2, 0, 4]], 'ends before it starts'), ([[1, 5, 2, 4]], 'ends before it starts'),
    ([[np.nan, 0, 1, 1]], 'not finite'), ([[0, 0, 1]], 'not (1, 3)'), (np.zeros((0, 4)), 'no box')])
def test_broken_boxes_are_named(boxes, reason):
    with pytest.raises(DataError, match='box/7.npy') as caught:
        checked_boxes(np.array(boxes, dtype=np.float32), 'box/7.npy')
    assert reason in str(caught.value)


def test_boxes_without_area_still_have_an_extent_to_divide_by():
    assert extent(np.array([[0, 0, 0, 0]])) == (1, 1)
    assert extent(np.array([[0, 0, 30, 20], [5, 5, 10, 40]])) == (30, 40)


def test_sizes_come_from_the_sizes_file_before_the_labels_file(tmp_path):
    labels = {'images': [{'id': 1, 'width': 10, 'height': 20}, {'id': 2, 'width': 30, 'height': 40},
                         {'id': 3}]}
    write_json(tmp_path / 'labels.json', labels)
    write_json(tmp_path / 'box_sizes.json', {'1': [50, 60]})
    boxes = str(tmp_path / 'box')
    assert image_sizes(boxes + '/', str(tmp_path / 'labels.json')) == {'1': (50, 60), '2': (30, 40)}
    assert image_sizes(boxes, labels) == {'1': (50, 60), '2': (30, 40)}
    assert image_sizes(None, labels)['1'] == (10, 20)
    assert image_sizes(str(tmp_path / 'other'), None) == {}
    boxes = {str(image_id): np.ones((1, 4), np.float32) for image_id in (1, 2)}
    write_packed(tmp_path / 'box.h5', {'box': boxes})
    assert image_sizes(str(tmp_path / 'box.h5'), None) == {'1': (50, 60)}
    write_packed(tmp_path / 'box.h5', {'box': boxes}, {'1': (70, 80.5)})
    assert image_sizes(str(tmp_path / 'box.h5'), labels) == {'1': (70, 80.5), '2': (30, 40)}


@pytest.mark.parametrize('size', [[0, 5], [5], 'ab', [5, None], [float('inf'), 1], 7])
def test_an_invalid_size_is_refused_with_its_image(size, tmp_path):
    write_json(tmp_path / 'box_sizes.json', {'42': size})
    with pytest.raises(DataError, match='image 42'):
        image_sizes(str(tmp_path / 'box'))


def test_image_sizes_of_a_file_without_a_list_of_images_are_refused(tmp_path):
    for content in ('{"images": null}', '[1]'):
        (tmp_path / 'sizes.json').write_text(content)
        with pytest.raises(DataError):
            image_sizes(None, str(tmp_path / 'sizes.json'))
    with pytest.raises(DataError):
        image_sizes(None, [1])


def test_a_text_of_two_digits_is_no_size():
    assert grids._checked_size([1, 2], 5, 'sizes') == (1, 2)
    with pytest.raises(DataError, match='image 5 is .12.'):
        grids._checked_size('12', 5, 'sizes')
