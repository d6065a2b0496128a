"""Whole numbers in JSON files, however they are written."""

import json
from decimal import Decimal

import pytest

from misc.disk.files import read_json
from misc.disk.numbers import exact_number, whole_number

LARGE = 2 ** 53 + 1   # the first whole number that a float cannot hold


@pytest.mark.parametrize('value, number', [
    (7, 7), (-7, -7), (10 ** 30, 10 ** 30), ('7', 7), ('-7', -7), (' 007 ', 7), ('7.0', 7), ('7.', 7),
    (str(LARGE), LARGE), (f'{LARGE}.0', LARGE), (Decimal(f'{LARGE}.0'), LARGE), (100.0, 100), (2.0 ** 60, None),
    (1.5, None), (float('nan'), None), (float('inf'), None), ('1.5', None), ('1e3', None), ('7a', None), ('', None),
    ('٣', None), ('9' * 41, None), (True, None), (None, None), ([7], None)])
def test_a_whole_number_is_found_without_a_float(value, number):
    found = whole_number(value)
    assert found == number and type(found) is type(number)


@pytest.mark.parametrize('text, number', [
    ('100.0', 100), (f'{LARGE}.0', LARGE), ('1e2', 100), ('1.5E+1', 15), ('-0.0', 0), ('1e39', 10 ** 39),
    ('1.5', 1.5), ('1e-3', 0.001), ('1e40', 1e40), ('1e999999999999', float('inf')), ('1e' + '9' * 30, float('inf'))])
def test_numbers_with_a_point_or_an_exponent_are_read_exactly_where_they_are_whole(text, number):
    found = exact_number(text)
    assert found == number and type(found) is type(number)


def test_a_file_of_ids_keeps_all_digits(tmp_path):
    (tmp_path / 'ids.json').write_text(f'[{LARGE}.0, 100.0, 1.5, {10 ** 30}]')
    assert read_json(tmp_path / 'ids.json', '', exact=True) == [LARGE, 100, 1.5, 10 ** 30]
    assert json.dumps(read_json(tmp_path / 'ids.json', '')[1]) == '100.0'
