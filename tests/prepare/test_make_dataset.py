"""Captions in the forms that people have become a split file that every preparation command reads."""

import codecs
import json
import os
import pathlib
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image

from misc import commands
from misc.dataset.karpathy import read_images
from misc.dataset.splits import split_named
from misc.prepare.captions.columns import Asked, choose_columns
from misc.prepare.captions.finding import Finder
from misc.prepare.captions.ids import whole_number
from misc.prepare.captions.pictures import LeftOut, Picture
from misc.prepare.captions.records import read_table
from misc.prepare.captions.split_file import label_flags
from misc.prepare.captions.splits import draw, split_in_file_name
from misc.prepare.captions.tables import parse_table
from misc.prepare.captions.words import characters_of, tokens_of
from scripts import extract_regions, make_dataset, prepro_labels, prepro_ngrams
from tests.helpers import ROOT, tiny

FLICKR8K = pathlib.Path(os.environ.get('FLICKR8K') or ROOT.parent / 'shared' / 'flickr8k')


@pytest.fixture
def make(tmp_path, monkeypatch, capsys):
    """Call with flags to run the command in a folder -> (images of the split file, or None; status; messages)."""
    monkeypatch.chdir(tmp_path)

    def call(*flags):
        from misc.cli import UserError
        monkeypatch.setattr('sys.argv', ['make_dataset.py', *map(str, flags), '--output_json', 'dataset_x.json'])
        said = ''
        try:
            status = make_dataset.main()
        except UserError as error:
            status, said = error.status, str(error)
        except SystemExit as error:
            status = error.code
        path = tmp_path / 'dataset_x.json'
        images = json.loads(path.read_text())['images'] if path.exists() else None
        path.unlink(missing_ok=True)
        return images, status, capsys.readouterr().err + said
    return call


@pytest.fixture
def photos(tmp_path):
    """Call with file names to write a small picture for each below `photos`; returns that folder."""
    def write(*names):
        for number, name in enumerate(names):
            path = tmp_path / 'photos' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (8 + number, 6), (9 * number % 256, 0, 0)).save(path)
        return tmp_path / 'photos'
    return write


def table_of(text, header=None, asked=None):
    """(pictures, what was left out) of a table."""
    left_out = LeftOut()
    table = parse_table(text, header, left_out)
    columns = choose_columns(table.columns, table.named, [row.values for row in table.rows], asked or Asked())
    return read_table(table, columns, left_out), left_out


def pairs(pictures):
    """[(name, captions)] of pictures."""
    return [(picture.name, [caption.raw for caption in picture.captions]) for picture in pictures]


def captions_of(images):
    """{file name: captions} of the images of a split file."""
    return {image['filename']: [sentence['raw'] for sentence in image['sentences']] for image in images}


# ---- words ----

def test_tokens_of_cocos_captions_are_karpathys(minicoco):
    for image in json.loads((minicoco / 'dataset_coco.json').read_text())['images']:
        for sentence in image['sentences']:
            assert tokens_of(sentence['raw']) == sentence['tokens']


@pytest.mark.parametrize('caption, tokens', [
    ("A man's “red” hat.", ['a', 'mans', 'red', 'hat']),
    ('low-lying; wet, is it?Yes!', ['low', 'lying', 'wet', 'is', 'it', 'yes']),
    ('R&B #1 (left): on/off', ['r&b', '#1', '(left):', 'on', 'off']), ('wait—what… no', ['wait', 'what', 'no']),
    ('...', []), ('Ein GROßER Hund', ['ein', 'großer', 'hund'])])
def test_tokens_are_lower_case_without_punctuation(caption, tokens):
    assert tokens_of(caption) == tokens


def test_each_chinese_character_can_be_a_token():
    assert characters_of('一只狗，run fast。') == ['一', '只', '狗', 'run', 'fast']


# ---- ids ----

@pytest.mark.parametrize('value, number', [
    (7, 7), ('7', 7), ('000000391895', 391895), (Decimal('100.0'), 100), ('100.0', 100), ('100.', 100),
    (9007199254740993, 9007199254740993), (Decimal('9007199254740993.0'), 9007199254740993), (' 7 ', 7),
    (2 ** 63, None), (-1, None), ('7a', None), ('', None), (None, None), (True, None), ('1e3', None),
    (Decimal('1.5'), None), ('٣', None), (Decimal('1e999999'), None), ([7], None)])
def test_ids_are_whole_numbers_that_never_pass_through_a_float(value, number):
    assert whole_number(value) == number


# ---- splits ----

@pytest.mark.parametrize('name, split', [
    ('train', 'train'), ('Training', 'train'), ('valid', 'val'), ('validation', 'val'), ('DEV', 'val'),
    ('val2014', 'val'), ('test_2017', 'test'), ('restval', 'restval'), ('holdout', None), ('', None),
    ('tests', None)])
def test_names_of_splits_that_are_known(name, split):
    assert split_named(name) == split


@pytest.mark.parametrize('name, split', [
    ('captions_train2014.json', 'train'), ('dev.csv', 'val'), ('my_val_captions.tsv', 'val'), ('captions.csv', None),
    ('trainval.json', None), ('train_val.json', None), ('value.csv', None), ('testament.csv', None),
    ('Flickr_8k.validation.txt', 'val')])
def test_a_file_name_tells_the_split_where_it_names_one(name, split):
    assert split_in_file_name(name) == split


def drawn(names, seed=0, **sizes):
    pictures = [Picture(name) for name in names]
    draw(pictures, sizes, seed, (None,))
    return {picture.name: picture.split for picture in pictures}


def test_drawn_splits_depend_on_names_and_seed_alone():
    names = [f'{number}.jpg' for number in range(200)]
    splits = drawn(names, val=0.1, test=25)
    assert list(splits.values()).count('val') == 20 and list(splits.values()).count('test') == 25
    assert drawn(names[::-1], val=0.1, test=25) == splits != drawn(names, seed=1, val=0.1, test=25)
    more = drawn([*names, 'new.jpg'], val=0.1, test=25)
    assert sum(more[name] != splits[name] for name in names) <= 2
    assert list(drawn('abc', val=0.1, test=0.1).values()).count('train') == 1   # a share is one image at least


# ---- tables ----

HEADER = 'image,caption\n'


@pytest.mark.parametrize('text', [
    'image,caption\na.jpg,A dog.\na.jpg,A cat.\n',
    'File Name;Caption\r\na.jpg;A dog.\r\na.jpg;A cat.\r\n',
    'img_path\ttext\na.jpg\tA dog.\na.jpg\tA cat.\n',
    'image_name| comment_number| comment\na.jpg| 0| A dog.\na.jpg| 1| A cat.\n',
    'a.jpg,A dog.\na.jpg,A cat.', 'a.jpg\tA dog.\na.jpg\tA cat.', 'a.jpg#0\tA dog.\na.jpg#1\tA cat.',
    'a.jpg;A dog.\ra.jpg;A cat.\r', '\n\nimage,caption\n\na.jpg,A dog.\n,\na.jpg,A cat.\n',
    'image,caption_1,caption_2\na.jpg,A dog.,A cat.\n',
    'image,Sentence 1,Sentence 2,Sentence 3\na.jpg,A dog.,A cat.,\n',
    'a.jpg,A dog.,A cat.\n', '1,a.jpg,A dog.,A cat.\n',
    'raw,sentids,split,filename,img_id\n"[""A dog."", ""A cat.""]","[0, 1]",train,a.jpg,0\n',
    "filename,raw\na.jpg,\"['A dog.', 'A cat.']\"\n",
    '{"image": "a.jpg", "caption": "A dog."}\n{"image": "a.jpg", "caption": "A cat."}\n',
    '{"file_name": "a.jpg", "text": ["A dog.", "A cat."]}',
    '[{"image": "a.jpg", "captions": ["A dog.", "A cat."]}]', '{"a.jpg": ["A dog.", "A cat."]}',
    '{"filename": "a.jpg", "sentences": [{"raw": "A dog.", "tokens": ["a", "dog"]}, {"raw": "A cat."}]}\n\n',
    '{"images": [{"filename": "a.jpg", "captions": ["A dog.", "A cat."]}]}'])
def test_tables_in_many_forms(text):
    pictures, left_out = table_of(text)
    assert {name for name, _ in pairs(pictures)} == {'a.jpg'}
    assert [caption for _, captions in pairs(pictures) for caption in captions] == ['A dog.', 'A cat.']
    assert not left_out.broken


@pytest.mark.parametrize('text, captions', [
    (HEADER + 'a.jpg,"A dog, a ""red"" one."\n', ['A dog, a "red" one.']),
    (HEADER + 'a.jpg,"Two\nlines"\n', ['Two\nlines']),
    (HEADER + 'a.jpg,A dog, a cat, and more.\n', ['A dog, a cat, and more.']),   # unquoted
    ('a.jpg,A dog, a cat.\nb.jpg,A man.\n', ['A dog, a cat.', 'A man.']),
    ('a.jpg,A dog.,A cat.\nb.jpg,A man.\n', ['A dog.', 'A cat.', 'A man.']),
    (HEADER + 'a.jpg,"Stop" sign.\nb.jpg,A dog.\n', ['Stop sign.', 'A dog.']),
    ('image\tcaption\na.jpg\t"Stop" sign.\nb.jpg\tA 3" nail.\n', ['"Stop" sign.', 'A 3" nail.']),
    ('image\tcaption\na.jpg\t"Unbalanced.\nb.jpg\tA dog.\n', ['"Unbalanced.', 'A dog.']),
    (HEADER + 'a.jpg,[not a list]\n', ['[not a list]'])])
def test_quotes_and_commas_in_captions(text, captions):
    pictures, left_out = table_of(text)
    assert [caption for _, captions in pairs(pictures) for caption in captions] == captions and not left_out.broken


def test_splits_and_ids_of_a_table_are_found():
    text = 'id,image,split,caption\n000000000007,a.jpg,valid,A dog.\n8.0,b/c.png,train,A cat.\n'
    pictures, _ = table_of(text)
    assert [(one.id, one.name, one.split) for one in pictures] == [
        ('000000000007', 'a.jpg', 'valid'), ('8.0', 'b/c.png', 'train')]
    pictures, _ = table_of(text, asked=Asked(split='none', id='none'))
    assert [(one.id, one.split) for one in pictures] == [(None, None)] * 2
    pictures, _ = table_of('train,a.jpg,A dog.\ndev,b.jpg,A cat.\n')
    assert [one.split for one in pictures] == ['train', 'dev']


def test_columns_can_be_named_or_numbered():
    text = 'ref,label,anno\nx/a,7,A dog.\n'
    for asked in (Asked('ref', ['anno']), Asked('1', ['3']), Asked('REF', ['Anno'])):
        assert pairs(table_of(text, asked=asked)[0]) == [('x/a', ['A dog.'])]
    assert pairs(table_of('x/a,A dog.', header=False, asked=Asked('1', ['2']))[0]) == [('x/a', ['A dog.'])]


@pytest.mark.parametrize('text, asked, words', [
    ('ref,label\na,b\n', Asked(), ['ref', '--image_column']),
    ('image,label\na.jpg,b\n', Asked(), ['--caption_column']),
    ('image,caption,text\na.jpg,b,c\n', Asked(), ["'caption', 'text'", '--caption_column']),
    ('image,path,caption\na,b,c\n', Asked(), ["'image', 'path'", '--image_column']),
    (HEADER + 'a.jpg,b\n', Asked(image='picture'), ['--image_column picture', "'image', 'caption'"]),
    ('', Asked(), ['no rows']), (HEADER, Asked(), ['no rows']),
    ('image,image,caption\na,b,c', Asked(), ['same name']),
    ('{"images": [], "annotations": []}', Asked(), ['--coco_json'])])
def test_a_table_that_is_not_clear_is_refused_with_the_way_out(text, asked, words):
    with pytest.raises((make_dataset.DataError, make_dataset.UsageError)) as error:
        table_of(text, asked=asked)
    assert all(word in str(error.value) for word in words)


def test_broken_rows_are_counted_once_with_examples(make, tmp_path):
    lines = [json.dumps({'image': f'{number}.jpg', 'caption': 'A dog.'}) for number in range(20)]
    (tmp_path / 'c.jsonl').write_text('\n'.join([*lines, *['{"image": '] * 300, '{"image": "x.jpg", "caption": 5}']))
    images, status, said = make('--table', 'c.jsonl')
    assert len(images) == 20 and status == 1
    assert '300 lines that are not JSON objects, such as line 21' in said and '1 captions that are not text' in said
    assert len(said.splitlines()) < 25


@pytest.mark.parametrize('encode', [
    lambda text: text.encode(), lambda text: codecs.BOM_UTF8 + text.encode(), lambda text: text.encode('utf-16'),
    lambda text: codecs.BOM_UTF16_BE + text.encode('utf-16-be')])
def test_byte_order_marks(make, tmp_path, encode):
    (tmp_path / 'c.csv').write_bytes(encode(HEADER + ''.join(f'{n}é.jpg,Ein Hund {n}.\n' for n in range(9))))
    images, status, _ = make('--table', 'c.csv')
    assert status == 0 and captions_of(images)['3é.jpg'] == ['Ein Hund 3.']


def test_other_encodings_and_files_that_are_no_text(make, tmp_path):
    (tmp_path / 'c.csv').write_bytes((HEADER + ''.join(f'{n}é.jpg,Hund.\n' for n in range(9))).encode('cp1252'))
    assert 'line 2' in make('--table', 'c.csv')[2]
    assert make('--table', 'c.csv', '--encoding', 'cp1252')[0][2]['filename'] == '2é.jpg'
    assert 'Python knows no encoding' in make('--table', 'c.csv', '--encoding', 'utf-7x')[2]
    for start, word in ((b'PK\x03\x04', 'Excel'), (b'PAR1', 'Parquet'), (b'\x1f\x8b', 'gunzip')):
        (tmp_path / 'c.csv').write_bytes(start + b'0' * 9)
        assert word in make('--table', 'c.csv')[2]
    assert 'there is no file' in make('--table', 'none.csv')[2]


# ---- the command: ids and splits ----

def csv_of(tmp_path, rows, header='image,caption', name='c.csv'):
    (tmp_path / name).write_text('\n'.join([header, *rows]) + '\n')
    return name


def test_ids_are_made_by_order_and_kept_where_given(make, tmp_path):
    rows = [f'{n}.jpg,A dog.' for n in (5, 3, 9, 1)]
    images, status, said = make('--table', csv_of(tmp_path, rows), '--val', 1, '--test', 1)
    assert status == 0 and [(one['imgid'], one['filename']) for one in images] == [
        (0, '5.jpg'), (1, '3.jpg'), (2, '9.jpg'), (3, '1.jpg')] and 'by order' in said
    rows = [f'{n}.jpg,A dog.,{2 ** 53 + n}' for n in (5, 3, 9, 1)]
    images, *_ = make('--table', csv_of(tmp_path, rows, 'image,caption,image_id'), '--val', 1, '--test', 1)
    assert [one['imgid'] for one in images] == [2 ** 53 + n for n in (5, 3, 9, 1)]
    images, *_ = make('--table', 'c.csv', '--new_ids', 1)
    assert [one['imgid'] for one in images] == [0, 1, 2, 3]
    images, _, said = make('--table', csv_of(tmp_path, [f'{n}.jpg,A dog.,img_{n}' for n in range(4)],
                                             'image,caption,image_id'))
    assert [one['imgid'] for one in images] == [0, 1, 2, 3] and "'img_0'" in said


def test_ids_that_clash_are_refused_and_ids_of_captions_are_not_used(make, tmp_path):
    clash = csv_of(tmp_path, ['a.jpg,A dog.,1', 'b.jpg,A dog.,01', 'c.jpg,A dog.,2'], 'image,caption,id')
    images, status, said = make('--table', clash)
    assert images is None and status == 1 and '1 (a.jpg and b.jpg)' in said and '--new_ids 1' in said
    rows = [f'{n // 2}.jpg,Caption {n}.,{n}' for n in range(8)]
    images, _, said = make('--table', csv_of(tmp_path, rows, 'image,caption,id'))
    assert [one['imgid'] for one in images] == [0, 1, 2, 3] and 'numbers captions' in said
    assert '--id_column id' in make('--table', 'c.csv', '--id_column', 'id')[2]


def test_splits_are_read_renamed_drawn_or_refused(make, tmp_path):
    rows = [f'{n}.jpg,A dog.,{split}' for n, split in enumerate(['training', 'dev', 'test', 'train2014'] * 5)]
    name = csv_of(tmp_path, rows, 'image,caption,set')
    assert [one['split'] for one in make('--table', name)[0]] == ['train', 'val', 'test', 'train'] * 5
    images, status, said = make('--table', name, '--val', 0.1)
    assert images is None and status == 2 and '5 val images already' in said
    assert 'val' in {one['split'] for one in make('--table', name, '--split_column', 'none', '--val', 3)[0]}
    holdout = csv_of(tmp_path, [row.replace('dev', 'holdout') for row in rows], 'image,caption,set')
    images, status, said = make('--table', holdout)
    assert images is None and "'holdout' (5 images)" in said and '--split_names holdout=' in said
    images, *_ = make('--table', holdout, '--split_names', 'holdout=test')
    assert [one['split'] for one in images] == ['train', 'test', 'test', 'train'] * 5
    images, *_ = make('--table', holdout, '--split_names', 'holdout=test', '--val', 4)
    assert [one['split'] for one in images].count('val') == 4
    assert [one['split'] for one in images].count('train') == 6
    assert 'no val images' in make('--table', holdout, '--split_names', 'holdout=test')[2]
    assert 'no split' in make('--table', csv_of(tmp_path, [*rows, 'x.jpg,A dog.,'], 'image,caption,set'))[2]
    assert 'more than one split' in make(
        '--table', csv_of(tmp_path, [*rows, '0.jpg,A cat.,test'], 'image,caption,set'))[2]


def test_draws_that_leave_nothing_for_training_are_refused(make, tmp_path):
    name = csv_of(tmp_path, [f'{n}.jpg,A dog.' for n in range(10)])
    assert make('--table', name, '--val', 5, '--test', 5)[1] == 2
    assert make('--table', name, '--val', 1.5)[1] == 2
    assert make('--table', name, '--val', -1)[1] == 2
    splits = [one['split'] for one in make('--table', name, '--test', 0)[0]]
    assert splits.count('val') == 1 and splits.count('test') == 0


def test_each_of_several_files_is_a_split(make, tmp_path):
    for split, numbers in (('train', range(6)), ('valid', range(6, 8)), ('b', range(8, 9))):
        csv_of(tmp_path, [f'{n}.jpg,A dog.' for n in numbers], name=f'{split}.csv')
    images, *_ = make('--table', 'train.csv', 'valid.csv', 'test=b.csv')
    assert [one['split'] for one in images] == ['train'] * 6 + ['val'] * 2 + ['test']
    assert 'no split' in make('--table', 'train.csv', 'b.csv')[2]
    assert {one['split'] for one in make('--table', 'train.csv')[0]} == {'train', 'val', 'test'}   # drawn


def test_a_split_file_gets_what_it_lacks(make, tmp_path):
    records = [{'filepath': 'x', 'filename': f'{n}.jpg', 'split': ('train', 'valid', 'test')[n % 3], 'sentences': [
        {'tokens': ['A', 'dog', '', 'runs'], 'raw': 'Adogruns.'}]} for n in range(6)]
    (tmp_path / 'd.json').write_text(json.dumps({'images': records, 'dataset': 'food'}))
    images, status, _ = make('--table', 'd.json')
    assert status == 0 and [(one['imgid'], one['filepath'], one['split']) for one in images[:3]] == [
        (0, 'x', 'train'), (1, 'x', 'val'), (2, 'x', 'test')]
    sentence, = images[0]['sentences']
    assert sentence['tokens'] == ['A', 'dog', 'runs'] and sentence['raw'] == 'Adogruns.'
    assert make('--table', 'd.json', '--tokens', 'karpathy')[0][0]['sentences'][0]['tokens'] == ['adogruns']


# ---- the command: pictures ----

def test_pictures_are_found_under_other_spellings_of_their_names(make, tmp_path, photos):
    root = photos('a/1.jpg', 'b/2.PNG', '3.jpg', 'deep/er/4.jpg')
    name = csv_of(tmp_path, [f'{one},A dog.' for one in (
        './a/1.jpg', 'C:\\data\\b\\2.png', '/home/me/photos/3.jpg', '4')])
    images, status, _ = make('--table', name, '--image_column', 1, '--images_root', root, '--test', 0)
    assert status == 0
    assert [(one.get('filepath'), one['filename'], one['width'], one['height']) for one in images] == [
        ('a', '1.jpg', 8, 6), ('b', '2.PNG', 9, 6), (None, '3.jpg', 10, 6), ('deep/er', '4.jpg', 11, 6)]


def test_sizes_are_those_of_the_upright_picture(make, tmp_path, photos):
    root = photos('0.jpg', '1.jpg')
    picture = Image.new('RGB', (20, 10))
    exif = picture.getexif()
    exif[0x0112] = 6   # orientation: on its side
    picture.save(root / '0.jpg', exif=exif)
    name = csv_of(tmp_path, ['0.jpg,A dog.', '1.jpg,A dog.'])
    images, *_ = make('--table', name, '--images_root', root, '--test', 0)
    assert (images[0]['width'], images[0]['height']) == (10, 20)


def test_a_name_that_several_files_have_is_not_guessed():
    finder = Finder(['train/1.jpg', 'val/1.jpg', 'val/2.jpg'])
    assert finder.find('val/1.jpg') == ['val/1.jpg'] and finder.find('2.jpg') == ['val/2.jpg']
    assert finder.find('/home/me/val/1.jpg') == ['val/1.jpg'] and finder.find('val\\1.jpg') == ['val/1.jpg']
    assert finder.find('1.jpg') == ['train/1.jpg', 'val/1.jpg'] and finder.find('3.jpg') == []


def test_missing_pictures_are_named_once_and_refused_or_left_out(make, tmp_path, photos):
    root = photos(*(f'{n}.jpg' for n in range(10)))
    (root / '3.jpg').write_bytes(b'no picture')
    name = csv_of(tmp_path, [f'{n}.jpg,A dog.' for n in range(500)])
    images, status, said = make('--table', name, '--images_root', root)
    assert images is None and status == 1 and len(said.splitlines()) < 10
    assert '490 pictures that are not there, such as 10.jpg, 11.jpg, 12.jpg ...' in said
    assert '1 pictures that cannot be read' in said and '--skip_missing 1' in said
    images, status, said = make('--table', name, '--images_root', root, '--skip_missing', 1)
    assert len(images) == 9 and status == 0 and '490 pictures that are not there' in said
    (tmp_path / 'other').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'other' / 'x.jpg')
    assert 'right folder' in make('--table', name, '--images_root', tmp_path / 'other', '--skip_missing', 1)[2]


# ---- COCO ----

def annotations(tmp_path, name, ids, **more):
    """Write an annotation file of two captions an image."""
    content = {'images': [{'id': one, 'file_name': f'{one}.jpg', 'width': 640, 'height': 480} for one in ids],
               'annotations': [{'id': 10 * number + k, 'image_id': one, 'caption': f'A dog {k}.\n'}
                               for number, one in enumerate(ids) for k in range(2)], **more}
    (tmp_path / name).write_text(json.dumps(content))
    return content


def test_annotation_files_of_several_splits(make, tmp_path):
    annotations(tmp_path, 'captions_train2017.json', [7, 9, 11])
    annotations(tmp_path, 'captions_val2017.json', [5])
    images, status, _ = make('--coco_json', 'captions_train2017.json', 'captions_val2017.json')
    assert status == 0 and [(one['cocoid'], one['imgid'], one['split'], one['width']) for one in images] == [
        (7, 0, 'train', 640), (9, 1, 'train', 640), (11, 2, 'train', 640), (5, 3, 'val', 640)]
    assert images[0]['sentences'][1]['raw'] == 'A dog 1.' and images[0]['sentences'][1]['tokens'] == ['a', 'dog', '1']
    content = annotations(tmp_path, 'a.json', [1, 2, 3])
    content['images'][0]['file_name'] = 'COCO_val2014_000000000001.jpg'
    (tmp_path / 'a.json').write_text(json.dumps(content))
    assert make('--coco_json', 'a.json')[0][0]['filepath'] == 'val2014'
    images, *_ = make('--coco_json', 'captions_train2017.json', '--val', 1, '--test', 0)
    assert sorted(one['split'] for one in images) == ['train', 'train', 'val']


def test_rejected_captions_of_vizwiz_are_left_out_and_counted(make, tmp_path):
    content = annotations(tmp_path, 'a.json', range(6))
    for number, annotation in enumerate(content['annotations']):
        annotation |= {'is_rejected': number % 2 == 1, 'is_precanned': number < 2}
    (tmp_path / 'a.json').write_text(json.dumps(content))
    images, status, said = make('--coco_json', 'a.json')
    assert status == 0 and [len(one['sentences']) for one in images] == [1] * 5
    assert '7 captions that are marked as rejected or pre-canned' in said and '1 images without captions' in said


def test_ids_of_annotations_in_all_their_types(make, tmp_path):
    content = {'images': [{'id': 100.0, 'file_name': 'a.jpg'}, {'id': '7', 'file_name': 'b.jpg'},
                          {'id': 2 ** 53 + 1, 'file_name': 'c.jpg'}, {'file_name': 'd.jpg'}],
               'annotations': [{'image_id': one, 'caption': 'A dog.'} for one in ('100', 7, 2 ** 53 + 1, 8)]}
    (tmp_path / 'a.json').write_text(json.dumps(content).replace('9007199254740993', '9007199254740993.0'))
    images, status, said = make('--coco_json', 'a.json', '--val', 1, '--test', 0)
    assert status == 1 and [one['cocoid'] for one in images] == [100, 7, 2 ** 53 + 1]
    assert '1 images without id and file_name' in said and 'not in the list of images' in said


@pytest.mark.parametrize('content, words', [
    ([1], '--table'), ({'images': [{'sentences': []}]}, 'prepro_labels.py'), ({'images': [{'id': 1}]}, 'no captions'),
    ({'images': [], 'annotations': [{'bbox': []}]}, 'instances'), ({'annotations': []}, '"images"')])
def test_files_that_are_not_annotations_are_named_in_one_line(make, tmp_path, content, words):
    (tmp_path / 'a.json').write_text(json.dumps(content))
    images, status, said = make('--coco_json', 'a.json')
    assert images is None and status == 1 and words in said and len(said.splitlines()) == 1
    (tmp_path / 'a.json').write_text('{')
    assert 'not valid JSON' in make('--coco_json', 'a.json')[2]
    for text in ('1' * 5000, '1e' + '1' * 5000, '[' * 100_000):
        (tmp_path / 'a.json').write_text(text)
        assert 'not valid JSON' in make('--coco_json', 'a.json')[2]


def test_minicoco_comes_back_from_its_annotations(make, minicoco):
    images, status, _ = make('--coco_json', minicoco / 'annotations' / 'captions_val2014.json',
                             '--images_root', minicoco / 'images')
    wanted = {image['cocoid']: image for image in json.loads((minicoco / 'dataset_coco.json').read_text())['images']}
    assert status == 0 and len(images) == 40
    for image in images:
        original = wanted[image['cocoid']]
        assert (image['filepath'], image['filename']) == (original['filepath'], original['filename'])
        assert {tuple(one['tokens']) for one in image['sentences']} == {
            tuple(one['tokens']) for one in original['sentences']}


# ---- Flickr ----

def flickr(folder):
    """A folder with the official names: 6 images of 2 captions, the last in no list."""
    folder.mkdir()
    (folder / 'Flickr8k.token.txt').write_text(''.join(
        f'{n}.jpg#{k}\tA dog {n} {k} .\n' for n in range(6) for k in (1, 0)))
    (folder / 'Flickr8k.lemma.token.txt').write_text('')
    for name, numbers in (('train', [4, 0]), ('dev', [1]), ('test', [3, 2])):
        (folder / f'Flickr_8k.{name}Images.txt').write_text(''.join(f'{n}.jpg\r\n' for n in numbers))


def test_flickrs_files_in_the_order_of_the_lists(make, tmp_path):
    flickr(tmp_path / 'text')
    images, status, said = make('--flickr_tokens', 'text')
    assert status == 0 and [(one['imgid'], one['filename'], one['split']) for one in images] == [
        (0, '4.jpg', 'train'), (1, '0.jpg', 'train'), (2, '1.jpg', 'val'), (3, '3.jpg', 'test'), (4, '2.jpg', 'test')]
    assert captions_of(images)['4.jpg'] == ['A dog 4 0 .', 'A dog 4 1 .']
    assert '2 captions of images that are in no list, such as 5.jpg' in said
    lists = [f'--{split}_list={tmp_path}/text/Flickr_8k.{name}Images.txt' for split, name in (
        ('train', 'train'), ('val', 'dev'), ('test', 'test'))]
    assert make('--flickr_tokens', 'text/Flickr8k.token.txt', *lists)[0] == images
    assert len(make('--flickr_tokens', 'text/Flickr8k.token.txt')[0]) == 6   # splits are drawn
    (tmp_path / 'captions.csv').write_text(HEADER + ''.join(f'{n}.jpg,A dog {n}.\n' for n in range(6)))
    assert [one['split'] for one in make('--table', 'captions.csv', *lists)[0]] == [one['split'] for one in images]


def test_lists_that_contradict_one_another_or_lack_captions(make, tmp_path):
    flickr(tmp_path / 'text')
    (tmp_path / 'text' / 'Flickr_8k.devImages.txt').write_text('1\n77\n')   # Flickr30k's lists have no ending
    images, _, said = make('--flickr_tokens', 'text')
    assert '1 images of the val list that have no captions, such as 77' in said and images[2]['filename'] == '1.jpg'
    (tmp_path / 'text' / 'Flickr_8k.devImages.txt').write_text('4.jpg\n')
    assert '4.jpg (train and val)' in make('--flickr_tokens', 'text')[2]
    (tmp_path / 'text' / 'Flickr30k.token').write_text('')
    assert 'more than one token file' in make('--flickr_tokens', 'text')[2]
    assert 'no token file' in make('--flickr_tokens', tmp_path)[2]


def test_flickr8k_from_its_official_files(make):
    if not FLICKR8K.is_dir():
        pytest.skip('the photographs of Flickr8k are not here; set FLICKR8K to their folder')
    images, status, _ = make('--flickr_tokens', FLICKR8K / 'text', '--images_root', FLICKR8K / 'images')
    assert status == 0 and [one['imgid'] for one in images] == list(range(8000))
    assert [one['split'] for one in images] == ['train'] * 6000 + ['val'] * 1000 + ['test'] * 1000
    assert all(len(one['sentences']) == 5 and one['width'] == 224 for one in images)


# ---- what comes after ----

def test_the_command_line_names_what_is_missing(make, tmp_path):
    assert make()[1] == 2
    name = csv_of(tmp_path, ['a.jpg,A dog.'])
    for flags in (('--table', name, '--flickr_tokens', 'x'), ('--table', name, '--skip_missing', 1),
                  ('--table', name, '--split_names', 'a=b'), ('--table', name, '--val', 'few')):
        images, status, _ = make(*flags)
        assert images is None and status == 2


def test_unspaced_captions_are_noticed(make, tmp_path):
    name = csv_of(tmp_path, [f'{n}.jpg,一只狗在草地上。' for n in range(9)])
    images, _, said = make('--table', name)
    assert '--tokens characters' in said and images[0]['sentences'][0]['tokens'] == ['一只狗在草地上']
    images, _, said = make('--table', name, '--tokens', 'characters')
    assert 'WARNING' not in said and len(images[0]['sentences'][0]['tokens']) == 7


def test_captions_without_words_are_left_out(make, tmp_path):
    images, status, said = make('--table', csv_of(tmp_path, [
        *(f'{n}.jpg,A dog.' for n in range(8)), '1.jpg,...', '2.jpg,', 'x.jpg,!']))
    assert status == 0 and len(images) == 8 and '2 captions without words' in said
    assert '1 rows without a caption, such as line 11 (2.jpg)' in said and '1 images without captions' in said
    assert 'no image with a caption is left' in make('--table', csv_of(tmp_path, ['x.jpg,!']))[2]


def test_flags_of_the_next_command_suit_the_captions():
    from misc.prepare.captions.pictures import Caption
    many = [Picture('a', [Caption('', ['a', 'dog'] * 10)] * 100)]
    assert label_flags(many) == ' --max_length 20'
    assert label_flags([Picture('a', [Caption('', ['a', 'dog'])] * 3)]) == ' --word_count_threshold 2'


def test_the_commands_that_are_proposed_never_write_over_the_split_file():
    for name, base in (('data/dataset_mine.json', 'data/mine'), ('data/dataset_coco.json', 'data/cocotalk'),
                       ('dataset.json', 'dataset_talk'), ('mine.json', 'mine_talk')):
        assert commands.labels_base(name) == base
        assert f'--input_json {name} --output_json {base}.json' in make_dataset.next_steps(name, None, '')
        assert f'--input_json {base}.json --input_label_h5 {base}_label.h5' in extract_regions.training(name, 'out')


def test_the_result_goes_through_every_preparation_command(make, tmp_path, photos, run_script, networks):
    root = photos(*(f'p q/{n}.png' for n in range(12)))
    rows = [f'{n}.png,"A dog, number {n % 3}."' for n in range(12) for _ in range(2)]
    _, status, said = make('--table', csv_of(tmp_path, rows), '--images_root', root)
    assert status == 0 and '--images_root ' + str(root) in said
    make_again = tmp_path / 'dataset_y.json'
    tiny.run(make_dataset, ['--table', 'c.csv', '--images_root', root, '--output_json', make_again])
    assert [image['id'] for image in read_images(str(make_again), pytest.fail)] == list(range(12))
    assert run_script(prepro_labels, input_json=make_again, output_json='y.json', output_h5='y', images_root=root,
                      word_count_threshold=0)[0] == 0
    assert run_script(prepro_ngrams, input_json=make_again, dict_json='y.json', output_pkl='y-train')[0] == 0
    status, said = run_script(extract_regions, input_json=make_again, images_root=root, output_dir='y',
                              detector='grid', grid_size=2, random_weights=1, device='cpu')
    assert status == 0 and 'next:\n  python train.py --id y ' in said
    labels = json.loads((tmp_path / 'y.json').read_text())
    assert {image['file_path'] for image in labels['images']} == {f'p q/{n}.png' for n in range(12)}
    assert all(np.load(tmp_path / 'y_att' / f'{n}.npz')['feat'].shape == (4, 2048) for n in range(12))
