"""References of other data sets: ids, captions that are marked as rejected, texts without the words of the tokens."""

import json

import h5py
import pytest

from misc.cli import DataError, UsageError
from misc.scoring.checks import is_lumped, lacks_words, vocabulary_warning, words_warning
from misc.scoring.metrics import score, scored
from misc.scoring.references import References, coco_references, image_files, image_keys, read_references
from misc.scoring.results import check_comparable, load_predictions, read_results, write_results
from scripts import prepro_labels, score_captions
from tests.helpers.preparing import record, write_split

LARGE = 2 ** 63 + 1


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def annotations(path, pairs, **more):
    return write(path, {'annotations': [{'image_id': key, 'caption': text, **more} for key, text in pairs]})


def predictions(path, captions):
    return write(path, [{'image_id': key, 'caption': text} for key, text in captions])


@pytest.fixture
def score_file(run_script, tmp_path):
    """Call with captions [(id, caption)] and flags of score_captions.py -> (status, messages, the results)."""
    def call(captions, **flags):
        path = predictions(tmp_path / 'mine.json', captions)
        (tmp_path / 'out.json').unlink(missing_ok=True)
        status, said = run_script(score_captions, predictions=path, use_java=0, output_json=tmp_path / 'out.json',
                                  **flags)
        return status or 0, said, None if status else json.loads((tmp_path / 'out.json').read_text())
    return call


# ---- ids ----

@pytest.mark.parametrize('values, keys', [
    ([7, '8', 9.0, '009'], [7, 8, 9, 9]), ([LARGE, str(LARGE + 1)], [LARGE, LARGE + 1]), ([-3, '-4'], [-3, -4]),
    (['7', '007', 'a'], ['7', '007', 'a']), ([7, 'a'], ['7', 'a']), (['7.5', 7], ['7.5', '7']), ([True], ['True']),
    ([None, 3], ['None', '3']), ([], [])])
def test_ids_are_numbers_where_all_of_them_are(values, keys):
    assert image_keys(values) == keys
    assert image_keys(values, as_text=True) == list(map(str, values))


@pytest.mark.parametrize('theirs, ours', [
    ('7', '7'), ('7.0', '7'), ('7', '"7"'), ('"007"', '7'), (f'{LARGE}', f'{LARGE}.0'), (f'"{LARGE}"', f'{LARGE}'),
    ('1e2', '100'), ('"a 7"', '"a 7"'), ('-5', '"-5"'), ('9007199254740993.0', '9007199254740993')])
def test_captions_find_their_references_however_ids_are_written(theirs, ours, score_file, tmp_path):
    # The neighbour would be taken for the image itself if ids passed through a float.
    near = {'9007199254740993': '9007199254740992', f'{LARGE}': f'{LARGE - 1}', f'{LARGE}.0': f'{LARGE - 1}',
            '"a 7"': '"a 8"'}.get(ours, '1')

    def entries(*pairs):
        return ', '.join(f'{{"image_id": {image_id}, "caption": "{text}"}}' for image_id, text in pairs)
    coco = write(tmp_path / 'coco.json', f'{{"annotations": [{entries((theirs, "a red dog"), (near, "blue"))}]}}')
    path = write(tmp_path / 'p.json', f'[{entries((ours, "a red dog"))}]')
    image_id, = load_predictions(path, ids_are_texts=near == '"a 8"')
    assert coco_references(coco)[image_id] == ['a red dog']
    status, said, _ = score_file([(json.loads(ours) if '.' not in ours else int(ours[:-2]), 'a red dog')],
                                 coco_json=coco)
    assert status == 0 and 'scored 1 of the 2 images' in said


def test_ids_that_are_texts_are_not_taken_for_numbers(score_file, tmp_path):
    coco = annotations(tmp_path / 'coco.json', [('7', 'a dog'), ('007', 'a cat'), ('x', 'a bus')])
    status, _, found = score_file([('7', 'a dog'), ('007', 'a cat')], coco_json=coco)
    assert status == 0 and found['overall']['Bleu_1'] > 0.99
    assert [row['image_id'] for row in found['images']] == ['7', '007']
    files = write(tmp_path / 'files.json', {'images': [{'id': '7', 'file_name': 'a.jpg'}, {'id': 'x'}]})
    assert image_files(None, files) == {'7': 'a.jpg'}


@pytest.mark.parametrize('kind, number', [
    ('100.0', 100), ('"100"', 100), ('"0100"', 100), ('9007199254740993.0', 9007199254740993)])
def test_ids_of_label_files_and_split_files_may_be_written_so(kind, number, run_script, score_file, tmp_path):
    text = json.dumps({'images': [{**record('ID', 'test', 'a red dog'), 'cocoid': 'ID'}]}).replace('"ID"', kind)
    (tmp_path / 'split.json').write_text(text)
    assert run_script(prepro_labels, input_json=tmp_path / 'split.json', output_json=tmp_path / 'talk.json',
                      output_h5=tmp_path / 'talk', word_count_threshold=0)[0] == 0
    content = json.loads((tmp_path / 'talk.json').read_text())
    assert content['images'][0]['id'] == number
    write(tmp_path / 'theirs.json', json.dumps(content).replace(f'"id": {number}', f'"id": {kind}'))
    assert score_file([(number, 'a red dog')], input_json=tmp_path / 'theirs.json')[0] == 0


# ---- VizWiz ----

@pytest.mark.parametrize('marks', [
    {'is_rejected': True}, {'is_precanned': True}, {'is_rejected': 1, 'is_precanned': 1}])
def test_captions_that_vizwiz_rejects_are_no_references(marks, score_file, tmp_path):
    notes = [{'image_id': image, 'caption': text, **more} for image in range(4) for text, more in (
        ('a red can', {'is_rejected': False, 'is_precanned': False}), ('too poor to describe', marks))]
    notes += [{'image_id': 4, 'caption': 'too poor to describe', **marks}]
    coco = write(tmp_path / 'vizwiz.json', {'annotations': notes})
    status, said, found = score_file([(image, 'too poor to describe') for image in range(5)], coco_json=coco)
    assert status == 0 and found['overall']['Bleu_1'] < 0.01
    assert [row['image_id'] for row in found['images']] == [0, 1, 2, 3]
    assert '5 of 9 captions' in said and '1 images have no others and are not scored' in said
    left = {image: ['a red can'] for image in range(4)}
    assert coco_references(coco) == left and read_references(None, coco) == References(left, 'raw', frozenset([4]))
    with pytest.raises(DataError, match='all 1 captions of .* are marked as rejected'):
        coco_references(write(tmp_path / 'none.json', {'annotations': notes[-1:]}))


# ---- results of a part of the references, or the other way ----

def test_captions_of_other_images_are_refused_or_left_out(score_file, tmp_path):
    coco = annotations(tmp_path / 'coco.json', [(1, 'a dog'), (2, 'a cat'), (3, 'a bus')])
    captions = [(2, 'a cat'), (3, 'a bus'), (8, 'a man'), (9, 'a man')]
    status, said, _ = score_file(captions, coco_json=coco)
    assert status == 1 and '2 of 4 captioned images have no reference captions' in said and '--common 1' in said
    status, said, found = score_file(captions, coco_json=coco, common=1)
    assert status == 0 and '2 captioned images without references are left out: 8, 9' in said
    assert 'scored 2 of the 3 images' in said and [row['image_id'] for row in found['images']] == [2, 3]
    status, said, _ = score_file([('a', 'a man')], coco_json=coco, common=1)
    assert status == 1 and 'references of none of the 1 images' in said and '1, 2, 3 ...' in said and 'a ...' in said


@pytest.mark.parametrize('content', [
    {'7': 'a dog', '9': 'a cat'}, {'7': ['a dog'], '9': ['a cat']},
    {'7': [{'caption': 'a dog'}], '9': [{'caption': 'a cat'}]},
    {'overall': {}, 'images': [{'image_id': 7, 'caption': 'a dog'}, {'image_id': 9.0, 'caption': 'a cat'}]}])
def test_captions_in_the_forms_of_other_programs_are_read(content, tmp_path):
    assert load_predictions(write(tmp_path / 'p.json', content)) == {7: 'a dog', 9: 'a cat'}


def test_marks_in_captions_are_warned_of(score_file, tmp_path):
    coco = annotations(tmp_path / 'coco.json', [(1, 'a dog'), (2, 'a cat')])
    said = score_file([(1, '<start> a dog <end>'), (2, 'a cat')], coco_json=coco)[1]
    assert 'scored as words (<start> in 1, <end> in 1 of 2 captions)' in said
    assert 'scored as words' not in score_file([(1, 'a dog'), (2, 'a cat')], coco_json=coco)[1]


# ---- words ----

CHINESE = ['一只 狗 在 草地 上 奔跑', '一个 猫 在 雪地 上 玩耍', '一群 孩子 在 草地 上 奔跑']
ENGLISH = ['there is a red roof', 'two dogs run on the grass', 'a man rides a horse']


@pytest.mark.parametrize('tokens, text, lacks', [
    (CHINESE[0], CHINESE[0].replace(' ', '') + '。', True), (CHINESE[0], ' '.join(CHINESE[0].replace(' ', '')), True),
    (ENGLISH[0], 'Thereisaredroof.', True), (ENGLISH[0], 'there_is_a_red_roof', True),
    (ENGLISH[0], 'there-is-a-red-roof', True), (ENGLISH[0], 'Es gibt ein rotes Dach.', True), (ENGLISH[0], 'x', True),
    (ENGLISH[0], '', True), ('赤い 屋根 が ある', '赤い屋根がある', True), ('มี หลังคา สี แดง', 'มีหลังคาสีแดง', True),
    ('एक लाल छत', 'एक लाल छत।', False), ('ein großer Hund', 'Ein großer Hund.', False),
    (CHINESE[0], CHINESE[0] + ' 。', False), (ENGLISH[0], 'There is a red roof.', False),
    (ENGLISH[0], '"There is", a red -- roof!', False), ('a man in a t shirt', 'A man in a T-shirt.', False),
    ('a black and white t shirt', 'A black-and-white T-shirt.', True), ("a mans hat", "A man's hat.", False),
    ('.', 'a dog', False), ('a 2 story house on a hill', 'A 2-story house on a hill', False)])
def test_texts_that_lack_the_words_of_their_tokens_are_noticed(tokens, text, lacks):
    assert lacks_words(tokens.split(), text) is lacks


@pytest.mark.parametrize('tokens, text, lumped', [
    (['a man rides a horse'], 'A man rides a horse.', True), (['一只狗在草地上奔跑'], '一只狗在草地上奔跑。', True),
    (['thereisaredroof'], 'There is a red roof', True), (['dog'], 'Dog.', False), (['一只', '狗'], '一只狗', False),
    (['草地'], '草地', False), (['dog'], '', False)])
def test_a_sentence_as_the_only_token_is_noticed(tokens, text, lumped):
    assert is_lumped(tokens, text) is lumped


def prepared(run_script, tmp_path, pairs, **flags):
    """Run `prepro_labels.py` on captions [(tokens, text)], one an image -> (messages, the path of the JSON)."""
    images = [{**record(place, ('train', 'val', 'test')[place % 3]),
               'sentences': [{'tokens': tokens.split(), 'raw': text}]} for place, (tokens, text) in enumerate(pairs)]
    status, said = run_script(
        prepro_labels, input_json=write_split(tmp_path / 'split.json', images), output_json=tmp_path / 'talk.json',
        output_h5=tmp_path / 'talk', word_count_threshold=0, **flags)
    assert status == 0
    return said, tmp_path / 'talk.json'


@pytest.mark.parametrize('captions, write_text', [
    (CHINESE, lambda caption: caption.replace(' ', '') + '。'), (ENGLISH, lambda caption: caption.replace(' ', '')),
    (CHINESE, lambda caption: ' '.join(caption.replace(' ', ''))), (CHINESE, lambda caption: 'in another language'),
    (ENGLISH, lambda caption: caption.replace(' ', '_'))])
def test_perfect_captions_score_one_where_texts_lack_words(captions, write_text, run_script, score_file, tmp_path):
    said, talk = prepared(run_script, tmp_path, [(caption, write_text(caption)) for caption in captions])
    assert 'the texts of 3 of 3 captions lack the words of their tokens' in said
    perfect = list(enumerate(captions))
    status, said, found = score_file(perfect, input_json=talk)
    assert status == 0 and found['overall']['Bleu_4'] > 0.99 and 'warning' not in said
    assert (found['options']['score_tokens'], found['options']['tokenizer']) == ('tokens', 'spaces')
    status, said, found = score_file(perfect, input_json=talk, score_tokens='raw')
    assert found['overall']['Bleu_1'] < 0.5 and 'of the words of the references' in said
    assert (found['options']['score_tokens'], found['options']['tokenizer']) == ('raw', 'PTB (Python)')


@pytest.mark.parametrize('lacking, of, kept, noted', [
    (0, 100, False, False), (1, 300, False, False), (2, 100, False, True), (10, 100, False, True),
    (11, 100, True, True)])
def test_tokens_are_kept_where_enough_texts_lack_their_words(lacking, of, kept, noted, run_script, tmp_path):
    pairs = [(ENGLISH[0], 'Thereisaredroof.' if place < lacking else 'There is a red roof.') for place in range(of)]
    said, talk = prepared(run_script, tmp_path, pairs)
    images = json.loads(talk.read_text())['images']
    assert [image.get('tokens') for image in images] == [[ENGLISH[0]] if kept else None] * of
    assert (f'the texts of {lacking} of {of} captions lack' in said) is noted
    assert ('--score_tokens tokens' in said) is (noted and not kept)


def test_what_is_kept_can_be_chosen(run_script, score_file, tmp_path):
    pairs = [(caption, caption.upper() + ' .') for caption in ENGLISH]
    said, talk = prepared(run_script, tmp_path, pairs)
    with pytest.raises(UsageError, match='holds no tokens.*\n.*prepro_labels.py.* --score_tokens tokens'):
        read_references(str(talk), score_tokens='tokens')
    said, talk = prepared(run_script, tmp_path, pairs, score_tokens='tokens')
    assert read_references(str(talk)).kind == 'tokens'
    assert score_file(list(enumerate(ENGLISH)), input_json=talk)[2]['overall']['Bleu_1'] > 0.99
    chinese = [(caption, caption.replace(' ', '')) for caption in CHINESE]
    assert read_references(str(prepared(run_script, tmp_path, chinese, score_tokens='raw')[1])).kind == 'raw'


def test_tokens_that_are_sentences_are_reported(run_script, tmp_path):
    images = [{**record(place, 'train'), 'sentences': [{'tokens': [caption], 'raw': caption.capitalize()}]}
              for place, caption in enumerate(ENGLISH)]
    status, said = run_script(
        prepro_labels, input_json=write_split(tmp_path / 'split.json', images), output_json=tmp_path / 'talk.json',
        output_h5=tmp_path / 'talk', word_count_threshold=0)
    assert status == 0 and 'the only token of 3 of 3 captions is a whole sentence' in said
    assert 'make_dataset.py' in said and 'tokens' not in json.loads((tmp_path / 'talk.json').read_text())['images'][0]


def test_segmented_annotations_are_scored_by_their_words(score_file, tmp_path):
    coco = annotations(tmp_path / 'coco.json', [(place, f'{text} .') for place, text in enumerate(CHINESE)])
    captions = list(enumerate(CHINESE))
    found = score_file(captions, coco_json=coco, score_tokens='tokens')[2]
    assert found['overall']['Bleu_4'] > 0.99 and found['options']['tokenizer'] == 'spaces'


def test_split_words_are_scored_as_pycocoevalcap_scores_them():
    references = {place: [caption, CHINESE[place - 1]] for place, caption in enumerate(CHINESE)}
    captions = {0: '一只 猫 在 草地 上', 1: CHINESE[1], 2: '一群 狗 , 在 雪地 .'}
    overall, per_image, _, name = scored(captions, references, use_java=False, kind='tokens')
    plain = {place: caption.replace(' ,', '').replace(' .', '') for place, caption in captions.items()}
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    bleu = Bleu(4).compute_score(references, {place: [caption] for place, caption in plain.items()}, verbose=0)
    cider = Cider().compute_score(references, {place: [caption] for place, caption in plain.items()})
    assert [overall[f'Bleu_{order}'] for order in (1, 2, 3, 4)] == bleu[0] and overall['CIDEr'] == cider[0]
    assert [row['CIDEr'] for row in per_image.values()] == list(cider[1]) and name == 'spaces'


def test_few_words_in_the_vocabulary_are_warned_of():
    references = {1: ['一只狗在草地上奔跑。', 'a dog']}
    warning = vocabulary_warning(references, 'raw', ['一只', '狗', 'a'], 'talk.json')
    assert 'only 25% of the words of the references in talk.json' in warning and '一只狗在草地上奔跑' in warning
    assert vocabulary_warning(references, 'raw', ['A', 'dog'], 'talk.json') == ''
    warning = vocabulary_warning({1: ['一只 狗 奔跑']}, 'tokens', ['狗', 'UNK'], 'talk.json')
    assert 'lower --word_count_threshold' in warning and 'only 33%' in warning
    assert vocabulary_warning({}, 'raw', ['a'], '') == vocabulary_warning({1: ['.']}, 'raw', ['a'], '') == ''


def test_captions_of_other_words_than_the_references_are_warned_of():
    references = [caption for caption in CHINESE for _ in range(4)]
    assert words_warning(references, references) == ''
    warning = words_warning([caption.replace(' ', '') for caption in references], references)
    assert 'only 0% of the words of the captions' in warning and '一只狗在草地上奔跑' in warning
    assert words_warning(['x'] * 9, references) == ''   # too few to say anything
    captions = dict(enumerate(caption.replace(' ', '') for caption in references))
    notes = score(captions, {place: [caption] for place, caption in enumerate(references)}, use_java=False,
                  kind='tokens')[2]
    assert any('only 0% of the words of the captions' in line for line in notes)


@pytest.mark.parametrize('tokens', ['a dog', [3], ['a dog', 'a cat']])
def test_tokens_that_do_not_belong_to_the_captions_are_refused(tokens, tmp_path):
    path = write(tmp_path / 'talk.json', {'ix_to_word': {'1': 'a'}, 'images': [
        {'id': 1, 'split': 'test', 'captions': ['a dog'], 'tokens': tokens}]})
    with pytest.raises(DataError, match='prepro_labels.py'):
        read_references(path)


def test_results_that_were_scored_differently_are_not_compared(tmp_path):
    def results(name, **options):
        write_results(str(tmp_path / name), {'CIDEr': 1.0}, [{'image_id': 1, 'caption': 'a', 'CIDEr': 1.0}], options)
        return read_results(str(tmp_path / name))
    plain, old = results('a.json', score_tokens='raw'), results('b.json')
    check_comparable([plain, old])
    with pytest.raises(UsageError, match='a scored against raw, c scored against tokens'):
        check_comparable([plain, results('c.json', score_tokens='tokens')])
    with pytest.raises(UsageError, match='a scored .* of the references, d scored .* of coco-train-words'):
        check_comparable([plain, results('d.json', cached_tokens='coco-train-words')])


def test_tokens_do_not_change_what_is_trained_on(run_script, tmp_path):
    pairs = [(caption, caption.replace(' ', '')) for caption in CHINESE]
    rows = []
    for kind in ('raw', 'tokens'):
        prepared(run_script, tmp_path, pairs, score_tokens=kind)
        with h5py.File(tmp_path / 'talk_label.h5') as file:
            rows.append(file['labels'][:].tolist())
    assert rows[0] == rows[1]
