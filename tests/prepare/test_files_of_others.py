"""Split files and other JSON as tools write them: read where the meaning is certain, else named in a line or two with
the command that makes the right file; and what preparation cuts is reported."""

import codecs
import gzip
import json
import shlex

import pytest

from misc.cli import DataError
from misc.dataset.karpathy import read_images
from misc.disk.files import read_json
from misc.disk.kinds import KINDS, kind_of_file, misplaced
from scripts import make_dataset, prepro_labels, prepro_ngrams, score_captions
from tests.helpers.preparing import record, write_split

NUMBERS = range(300)
RECORDS = [record(number, ('train', 'val', 'test')[number % 3], 'a dog runs', 'a dog number 7', key='imgid')
           for number in NUMBERS]
COCO = {'images': [{'id': number, 'file_name': f'{number}.jpg'} for number in NUMBERS],
        'annotations': [{'id': number, 'image_id': number, 'caption': 'a dog'} for number in NUMBERS]}
RESULTS = [{'image_id': number, 'caption': 'a dog'} for number in NUMBERS]
LABELS = {'ix_to_word': {'1': 'a'}, 'images': [{'id': 1, 'split': 'train', 'captions': ['a']}]}


def without(key):
    """The records without a key."""
    return [{name: value for name, value in one.items() if name != key} for one in RECORDS]


def changed(**values):
    """The records with other values, functions of the record."""
    return [{**one, **{key: make(one) for key, make in values.items()}} for one in RECORDS]


def sentence(**values):
    """The records with one sentence of these values."""
    return {'images': changed(sentences=lambda one: [values])}


def by_split(**names):
    """A list of records for each split, under these names."""
    return {name: [one for one in without('split') if RECORDS[one['imgid']]['split'] == split]
            for name, split in names.items()}


PLAIN = json.dumps({'images': RECORDS})
# File: (its content, words of the note about it).  All are read as the plain file is.
READ = {
    'a byte order mark': (codecs.BOM_UTF8 + PLAIN.encode(), ()),
    'UTF-16': (PLAIN.encode('utf-16'), ()),
    'the list alone': (json.dumps(RECORDS), ()),
    'JSON lines': ('\n'.join(map(json.dumps, RECORDS)) + '\n', ()),
    'JSON lines of Windows': ('\r\n'.join(map(json.dumps, RECORDS)), ()),
    'a list for each split': (json.dumps(by_split(train='train', val='val', test='test')), ()),
    'valid': (PLAIN.replace('"val"', '"valid"'), ('split valid of 100 images is read as val',)),
    'Dev': (PLAIN.replace('"val"', '"Dev"'), ('split Dev of 100 images is read as val',)),
    'id': (PLAIN.replace('"imgid"', '"id"'), ()),
    'image_id': (PLAIN.replace('"imgid"', '"image_id"'), ()),
    'ids as text': (json.dumps({'images': changed(imgid=lambda one: f'{one["imgid"]:06}')}), ()),
    'ids with a point': (json.dumps({'images': changed(imgid=lambda one: float(one['imgid']))}), ()),
    'empty words': (PLAIN.replace('"runs"', '"", "runs ", "\\n"'), ('300 captions have empty tokens',)),
    'words in one text': (PLAIN.replace('["a", "dog", "runs"]', '"a dog  runs"'), ()),
    'a record for each sentence': (json.dumps({'images': [
        {**one, 'sentences': [words]} for one in RECORDS for words in one['sentences']]}),
        ('300 records are further captions',))}


@pytest.mark.parametrize('name', READ)
def test_a_split_file_in_another_form_is_read_as_the_plain_one(name, tmp_path, capsys):
    content, words = READ[name]
    plain, path = tmp_path / 'plain.json', tmp_path / 'd.json'
    plain.write_text(PLAIN)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = sorted(read_images(str(path), pytest.fail), key=lambda image: image['id'])
    said = capsys.readouterr().err
    assert found == read_images(str(plain), pytest.fail)
    assert said.count('\n') == len(words) and all(one in said for one in words)


def test_one_caption_for_each_image_goes_through_preparation(run_script, tmp_path):
    images = changed(sentences=lambda one: one['sentences'][0])   # not even in a list
    split = write_split(tmp_path / 'd.json', images)
    status, said = run_script(prepro_labels, input_json=split, output_json=tmp_path / 't.json',
                              output_h5=tmp_path / 't')
    assert status == 0 and '300 images, 300 captions, 3 words' in said
    status, said = run_script(prepro_ngrams, input_json=split, dict_json=tmp_path / 't.json',
                              output_pkl=tmp_path / 'n')
    assert status == 0 and '100 images' in said


# File: (its content, words of the message, whether the command in it makes a split file that is read).
REFUSED = {
    'no ids': ({'images': without('imgid')}, 'no id (cocoid or imgid)', True),
    'ids that are texts': ({'images': changed(imgid=lambda one: f'img_{one["imgid"]}')}, "imgid is 'img_0'", True),
    'ids that are nothing': ({'images': changed(imgid=lambda one: float('nan'))}, 'imgid is nan', True),
    'no splits': ({'images': without('split')}, 'image 0 has no split', True),
    'no tokens': (sentence(raw='A dog.'), 'sentence 0 has no tokens', True),
    'sentences that are texts': (
        {'images': changed(sentences=lambda one: ['a dog', 'a cat'])}, 'has no tokens', True),
    'captions': ({'images': [{**one, 'captions': ['a dog', 'a cat']} for one in without('sentences')]},
                 'image 0 has no sentences', True),
    'a table': ([{'image': f'{number}.jpg', 'caption': 'a dog'} for number in NUMBERS], KINDS['table'], True),
    'captions in lists': ([{'url': f'http://a/{number}', 'image_id': f'{number}.jpg', 'caption': ['a dog', 'a cat']}
                           for number in NUMBERS], KINDS['table'], True),
    'reports by split': (
        {split: [{'id': f'r{number}', 'report': 'no finding .', 'image_path': [f'{split}{number}.png']}
                 for number in range(5)] for split in ('train', 'val', 'test')}, KINDS['table'], True),
    'COCO annotations': (COCO, KINDS['annotations'], True),
    'COCO annotations of boxes': (
        {**COCO, 'annotations': [{'image_id': 1, 'bbox': [1, 2, 3, 4]}]}, KINDS['no captions'], False),
    'labels': (LABELS, KINDS['labels'], False),
    'results': (RESULTS, KINDS['results'], False),
    'words': (['a', 'dog'], 'no list of images', False), 'nothing': ({}, 'no list of images', False)}


@pytest.mark.parametrize('name', REFUSED)
def test_another_file_is_named_in_two_lines_and_the_command_makes_a_split_file_of_it(
        name, run_script, tmp_path, monkeypatch):
    content, words, is_made = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my file.json').write_text(json.dumps(content))
    status, said = run_script(prepro_labels, input_json='my file.json', output_json='t.json', output_h5='t')
    assert status == 1 and words in said and len(said.splitlines()) <= 2 and 'Traceback' not in said
    assert ('scripts/make_dataset.py' in said) == is_made
    if is_made:
        python, script, *flags = shlex.split(said.splitlines()[1])
        assert (python, script) == ('python', 'scripts/make_dataset.py')
        given = dict(zip((flag.removeprefix('--') for flag in flags[::2]), flags[1::2]))
        assert run_script(make_dataset, **given)[0] == 0
        status, said = run_script(prepro_labels, input_json=given['output_json'], output_json='t.json', output_h5='t',
                                  word_count_threshold=0)
        assert status == 0, said


def test_a_few_broken_records_are_left_out_and_the_same_complaint_is_made_once(run_script, tmp_path):
    images = [{**one, 'imgid': None} if one['imgid'] % 7 == 0 else one for one in RECORDS]
    status, said = run_script(prepro_labels, input_json=write_split(tmp_path / 'd.json', images),
                              output_json=tmp_path / 't.json', output_h5=tmp_path / 't')
    assert status == 1 and '257 images' in said and '43 like these' in said and len(said.splitlines()) < 15
    assert len((tmp_path / 't_broken.txt').read_text().splitlines()) == 43


def test_unknown_splits_are_said(tmp_path, capsys):
    (tmp_path / 'd.json').write_text(PLAIN.replace('"val"', '"holdout"'))
    images = read_images(str(tmp_path / 'd.json'), pytest.fail)
    assert sum(image['split'] == 'holdout' for image in images) == 100
    said = capsys.readouterr().err
    assert 'split holdout of 100 images is none of train, restval, val, test' in said and '--split_names' in said


def test_an_id_that_comes_twice_is_a_mistake_unless_each_sentence_has_a_record(tmp_path):
    problems = []
    write_split(tmp_path / 'd.json', [*RECORDS[:3], {**RECORDS[1], 'split': 'test'}])
    assert len(read_images(str(tmp_path / 'd.json'), problems.append)) == 3
    assert len(problems) == 1 and 'the id 1 is in the file a second time' in problems[0]


def test_compressed_files_are_named(tmp_path):
    (tmp_path / 'd.json').write_bytes(gzip.compress(PLAIN.encode()))
    with pytest.raises(DataError, match='a gzip file: unpack it with gunzip'):
        read_json(tmp_path / 'd.json', '')


@pytest.mark.parametrize('text', ['{"a": 1}\n{"b": ', '{"a": 1} {"b": 2}', '{"a": 1}\n[2]', '1\n2', '{"a": 1'])
def test_damaged_json_is_not_taken_for_json_lines(text, tmp_path):
    (tmp_path / 'd.json').write_text(text)
    with pytest.raises(DataError, match='not a valid JSON file'):
        read_json(tmp_path / 'd.json', '')


def test_kinds_of_files_and_what_to_do_with_one_that_is_misplaced():
    contents = {'split': {'images': RECORDS}, 'annotations': COCO, 'labels': LABELS, 'results': RESULTS}
    for kind, content in contents.items():
        assert kind_of_file(content) == kind and misplaced(content, 'f', kind) == ''
    assert 'prepro_labels.py --input_json f' in misplaced(contents['split'], 'f', 'labels')
    assert '--coco_json' in misplaced(COCO, 'f', 'results')
    assert '--input_json' in misplaced(LABELS, 'f', 'annotations')
    assert misplaced({'other': 1}, 'f', 'split') == misplaced(3, 'f', 'split') == ''


def test_scoring_reads_json_lines_and_annotations_alone_and_names_misplaced_files(tmp_path, capsys, monkeypatch):
    def score(predictions, **references):
        words = ['score_captions.py', '--predictions', str(predictions), '--use_java', '0']
        for flag, path in references.items():
            words += [f'--{flag}', str(path)]
        monkeypatch.setattr('sys.argv', words)
        score_captions.main()
        return capsys.readouterr().out
    predictions, references = tmp_path / 'p.json', tmp_path / 'r.json'
    predictions.write_text('\n'.join(map(json.dumps, RESULTS[:5])))
    references.write_text(json.dumps(COCO['annotations']))
    assert '1.0000' in score(predictions, coco_json=references)
    references.write_bytes(codecs.BOM_UTF8 + json.dumps(COCO).encode())
    assert '1.0000' in score(predictions, coco_json=references)
    for content, flag, words in (({'images': RECORDS}, 'coco_json', 'make labels of it'),
                                 (COCO, 'input_json', KINDS['annotations'])):
        references.write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            score(predictions, **{flag: references})
    with pytest.raises(DataError, match='give it with --coco_json'):
        references.write_text(json.dumps(COCO))
        score(references, coco_json=references)


def test_what_the_labels_lack_of_the_captions_is_said_with_what_to_change(run_script, tmp_path):
    images = [record(number, 'train', ' '.join(['a'] * 12 + [f'rare{number}_{place}' for place in range(28)]),
                     'A dog') for number in range(10)]
    flags = {'input_json': write_split(tmp_path / 'd.json', images), 'output_json': tmp_path / 't.json',
             'output_h5': tmp_path / 't'}
    said = run_script(prepro_labels, **flags)[1]
    assert '10 of 20 captions are longer than --max_length 16 and are cut; the longest has 40 words' in said
    assert '--max_length 40 cuts one in a hundred' in said
    assert '66.7% of the words are UNK: 280 of 283 different ones, which occur 5 times or less' in said
    assert '--word_count_threshold 0 keeps more' in said
    assert '1 words are there in more than one case' in said and '(a, A)' in said and '--tokens karpathy' in said
    said = run_script(prepro_labels, **flags, max_length=40, word_count_threshold=0)[1]
    assert 'cut' not in said and 'UNK' not in said


def test_nothing_is_said_where_nothing_is_lost(run_script, tmp_path):
    said = run_script(prepro_labels, input_json=write_split(tmp_path / 'd.json', RECORDS),
                      output_json=tmp_path / 't.json', output_h5=tmp_path / 't')[1]
    assert said.count('\n') == 1
