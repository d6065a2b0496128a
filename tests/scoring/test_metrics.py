"""Scores equal hand-worked and naive values; Java may be absent, broken or hang."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from misc.cli import DataError
from misc.scoring import java, metrics, spice
from misc.scoring.metrics import score
from misc.scoring.references import coco_references, load_references
from misc.scoring.results import image_rows, load_predictions, write_results, write_vis
from misc.scoring.scores import METRICS, score_table
from tests import naive
from tests.helpers import ROOT

REFERENCES = {
    3: ['a man rides a horse', 'a man on a horse', 'the man is riding a brown horse'],
    7: ['two dogs play on the grass', 'dogs on grass'],
    5: ['a red bus in the street', 'the bus is red'],
}
CAPTIONS = {3: 'a man rides the horse on grass', 7: 'two dogs on the grass', 5: 'a bus'}


@pytest.fixture(scope='module')
def with_java():
    if not java.is_installed():
        pytest.skip('METEOR needs Java, which is not here')


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """A function that installs Python source as the `java` on PATH.

    As a tokenizer this program returns captions unchanged; the source decides what else it does.
    """
    def install(text):
        path = tmp_path / 'java'
        path.write_text(f'#!{sys.executable}\nimport json, os, subprocess, sys, time\n'
                        'command = " ".join(sys.argv)\n'
                        'if "PTBTokenizer" in command:\n'
                        '    sys.stdout.write(sys.stdin.read())\n    sys.exit()\n'
                        f'{text}\n')
        path.chmod(0o755)
        monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    return install


def words_as_numbers(captions):
    """Captions as lists of word numbers."""
    numbers = {}
    return [[numbers.setdefault(word, len(numbers) + 1) for word in caption.split()] for caption in captions]


def test_bleu_rouge_and_cider_equal_their_definitions():
    overall, per_image, _ = score(CAPTIONS, REFERENCES, use_java=False)
    split = {key: tuple(text.split()) for key, text in CAPTIONS.items()}
    others = {key: [tuple(text.split()) for text in REFERENCES[key]] for key in CAPTIONS}
    for order in (1, 2):
        assert overall[f'Bleu_{order}'] == pytest.approx(
            naive.corpus_bleu(list(split.values()), list(others.values()), order), abs=1e-6)
    for key in CAPTIONS:
        assert per_image[key]['Bleu_4'] == pytest.approx(naive.sentence_bleu(split[key], others[key]),
                                                         abs=1e-9)
        assert per_image[key]['ROUGE_L'] == pytest.approx(naive.rouge_l(split[key], others[key]))
    flat = words_as_numbers([*CAPTIONS.values(), *(text for texts in REFERENCES.values() for text in texts)])
    rows = {key: flat[place] for place, key in enumerate(CAPTIONS)}
    images, place = {}, len(CAPTIONS)
    for key, texts in REFERENCES.items():
        images[key], place = flat[place:place + len(texts)], place + len(texts)
    table = naive.ngram_frequency(images.values())
    expected = {key: naive.cider_d(rows[key], images[key], table, 3) for key in CAPTIONS}
    assert {key: row['CIDEr'] for key, row in per_image.items()} == pytest.approx(expected)
    assert overall['CIDEr'] == pytest.approx(sum(expected.values()) / 3)


def test_a_hand_worked_caption():
    # 'a man rides the horse on grass' matches a, man, rides, horse, on and the: 6 of 7 words, while
    # 'grass' is in no reference; the closest reference has as many words, so there is no brevity penalty.
    _, per_image, _ = score(CAPTIONS, REFERENCES, use_java=False)
    assert per_image[3]['Bleu_1'] == pytest.approx(6 / 7)
    # 'a bus' is 2 of 2 words; the closest length is 4: exp(1 - 4 / 2).
    assert per_image[5]['Bleu_1'] == pytest.approx(0.36787944)
    # Longest common subsequences with the references of 7: 'two dogs on the grass' (5 of 5 words
    # ours, 5 of 6 theirs) and 'dogs on grass' (3 of 3 theirs): precision 1, recall 1.
    assert per_image[7]['ROUGE_L'] == pytest.approx(1.0)


def test_copies_of_references_score_one_and_odd_captions_get_a_meteor_score(with_java, capfd):
    captions = {3: REFERENCES[3][2], 7: REFERENCES[7][0].upper() + '.', 5: REFERENCES[5][0],
                1: '', 2: 'UNK UNK', 4: 'a ||| b | <i c="|||"> ||| c', 6: 'a\nb\u2028c', 8: '...',
                9: 'é 日本 😀'}
    references = {**dict.fromkeys(captions, ['a plain reference', 'b |||']), **REFERENCES}
    overall, per_image, notes = score(captions, references)
    for key in REFERENCES:
        for name in ('Bleu_1', 'Bleu_4', 'METEOR', 'ROUGE_L'):
            assert per_image[key][name] == pytest.approx(1.0, abs=1e-6), (key, name)
    assert [per_image[key]['METEOR'] for key in (1, 2, 8, 9)] == [0.0] * 4
    assert 0 < per_image[4]['METEOR'] < 1 and 0 < per_image[6]['METEOR'] < 1
    assert list(overall)[:7] == list(METRICS[:7])
    assert all(value == value for row in [overall, *per_image.values()] for value in row.values())
    assert any('Java PTB tokenizer' in line for line in notes)
    assert 'SPICE' in overall or any('get_stanford_models' in line for line in notes)
    assert capfd.readouterr().out == ''


def test_java_tokens_do_not_depend_on_the_locale(with_java, monkeypatch):
    monkeypatch.setenv('LC_ALL', 'C')
    assert metrics.ptb_tokens(['A café', '', 'Zürich, ½']) == ['a café', '', 'zürich 1/2']


def test_without_java_one_line_says_so_and_the_other_scores_are_the_same(monkeypatch):
    monkeypatch.setenv('PATH', '')
    overall, _, notes = score(CAPTIONS, REFERENCES)
    assert overall == score(CAPTIONS, REFERENCES, use_java=False)[0]
    assert list(overall) == ['Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr']
    assert len(notes) == 1 and 'METEOR and SPICE need it' in notes[0]


def test_java_that_hangs_is_stopped_with_its_children(fake_java, tmp_path):
    fake_java('child = subprocess.Popen(["sleep", "60"])\n'
              f'open({str(tmp_path / "child")!r}, "w").write(str(child.pid))\n'
              'print("Out of patience", file=sys.stderr, flush=True)\nchild.wait()')
    started = time.monotonic()
    overall, _, notes = score(CAPTIONS, REFERENCES, java_seconds=1.5)
    assert time.monotonic() - started < 10
    assert 'METEOR' not in overall and 'CIDEr' in overall
    line = next(line for line in notes if 'METEOR' in line)
    assert 'was silent for 1.5 seconds' in line and 'Out of patience' in line
    time.sleep(0.1)
    status = pathlib.Path(f'/proc/{(tmp_path / "child").read_text()}/stat')
    assert not status.exists() or status.read_text().split()[2] == 'Z'


def test_java_that_dies_is_reported_with_its_error_message(fake_java):
    fake_java('sys.stdin.readline()\nsys.exit("Could not reserve enough space for object heap")')
    overall, _, notes = score(CAPTIONS, REFERENCES)
    assert list(overall) == ['Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr']
    assert any('METEOR' in line and 'status 1' in line and 'object heap' in line for line in notes)


def test_java_that_floods_standard_error_does_not_block(fake_java):
    fake_java('for line in sys.stdin:\n    sys.stderr.write("x" * 300000 + "\\n")\n'
              '    [print(0.5, flush=True) for _ in range(1 if line.startswith("SCORE") else 4)]')
    overall, _, notes = score(CAPTIONS, REFERENCES, java_seconds=10)
    assert overall['METEOR'] == 0.5


def test_bars_in_captions_are_not_taken_for_those_of_the_meteor_protocol(fake_java):
    fake_java('for line in sys.stdin:\n'
              '    if line.startswith("SCORE"):\n        print(line.count("|||") / 10, flush=True)\n'
              '    else:\n        [print(number) for number in line.strip().split("|||")[1:] + [1.0]]\n'
              '        sys.stdout.flush()')
    captions = {3: 'a ||| b', 7: '|||', 5: 'a |||| b\nc'}
    _, per_image, _ = score(captions, {**REFERENCES, 5: ['a ||| b', 'c']}, java_seconds=10)
    assert {key: row['METEOR'] for key, row in per_image.items()} == {3: 0.4, 7: 0.3, 5: 0.3}


@pytest.mark.parametrize('counts, answer, said', [
    ('"nonsense"', 0.5, "'nonsense' where counts"), ('""', 0.5, "'' where counts"),
    ('"1 inf"', 0.5, 'where counts'),
    (1, '"nonsense"', "'nonsense' where scores"), (1, '""', "'' where scores"), (1, '"nan"', "'nan' where scores"),
    (1, '"0.5 0.5"', 'where scores'), (1, 1.5, "'1.5' where scores"), (1, -1, "'-1' where scores"),
    (1, '"\\xff\\x00"', 'where scores')])
def test_java_that_answers_nonsense_is_reported(fake_java, counts, answer, said):
    fake_java('for line in sys.stdin:\n    many = line.startswith("EVAL")\n'
              f'    [print({answer} if many else {counts}, flush=True) for _ in range(4 if many else 1)]')
    overall, _, notes = score(CAPTIONS, REFERENCES, java_seconds=10)
    assert 'METEOR' not in overall and 'CIDEr' in overall
    assert any('METEOR' in line and said in line for line in notes)


def test_java_that_answers_too_slowly_is_stopped(fake_java, monkeypatch):
    monkeypatch.setattr(java, 'PACE', 0.2)
    fake_java('sys.stdin.readline()\nwhile True:\n    time.sleep(0.6)\n    print(1, flush=True)')
    captions = dict.fromkeys(range(30), 'a man')
    started = time.monotonic()
    overall, _, notes = score(captions, dict.fromkeys(captions, ['a man']), java_seconds=1.0)
    assert time.monotonic() - started < 12
    assert 'METEOR' not in overall and any('METEOR' in line and 'too slow' in line for line in notes)


def test_a_hanging_java_tokenizer_is_replaced_by_the_one_in_python(tmp_path, monkeypatch):
    (tmp_path / 'java').write_text('#!/bin/sh\necho "no memory" >&2\nsleep 60\n')
    (tmp_path / 'java').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    started = time.monotonic()
    overall, _, notes = score(CAPTIONS, REFERENCES, java_seconds=0.5)
    assert time.monotonic() - started < 8
    assert overall == score(CAPTIONS, REFERENCES, use_java=False)[0]
    assert any('PTB tokenizer was silent for 0.5 seconds' in line and 'no memory' in line for line in notes)


@pytest.mark.parametrize('program, said', [
    ('sys.stdin.readline()\ntime.sleep(60)', 'was silent for 1 seconds'),
    ('sys.exit("no heap")', 'ended too early with status 1: no heap'),
    ('for line in sys.stdin:\n    print("1 2", flush=True)', 'something else than counts'),
    ('for line in sys.stdin:\n    print("nan " * 23, flush=True)', 'something else than counts')])
def test_missing_meteor_counts_are_reported(fake_java, capsys, program, said):
    fake_java(program)
    assert metrics.meteor_counts(CAPTIONS, REFERENCES, java_seconds=1.0) is None
    assert said in capsys.readouterr().err


def test_spice_that_hangs_is_stopped(fake_java, monkeypatch):
    monkeypatch.setattr(spice, 'MODELS', ())
    fake_java('time.sleep(60)')
    with pytest.raises(java.JavaFailed, match='was silent for 4 seconds'):
        spice.spice({1: ['a'], 2: ['a'], 3: ['a']}, dict.fromkeys((1, 2, 3), ['a']), seconds=1.0)


def test_a_broken_java_tokenizer_is_replaced_by_the_one_in_python(tmp_path, monkeypatch):
    (tmp_path / 'java').write_text('#!/bin/sh\necho "no runtime present" >&2\nexit 1\n')
    (tmp_path / 'java').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    overall, _, notes = score(CAPTIONS, REFERENCES)
    assert overall == score(CAPTIONS, REFERENCES, use_java=False)[0]
    assert any('PTB tokenizer ended' in line and 'no runtime present' in line for line in notes)


def test_spice_runs_where_its_models_are_installed(fake_java, monkeypatch):
    monkeypatch.setattr(spice, 'MODELS', ())
    fake_java('if "spice" not in command:\n    sys.exit("METEOR is not here")\n'
              'images = json.load(open(sys.argv[sys.argv.index("spice-1.0.jar") + 1]))\n'
              'assert images[0]["test"] == "a man rides the horse on grass" and len(images[0]["refs"]) == 3\n'
              'scores = [{"image_id": image["image_id"], "scores": {"All": {"f": value}}}\n'
              '          for image, value in zip(images, [0.25, None, float("nan")])]\n'
              'json.dump(scores[::-1], open(sys.argv[sys.argv.index("-out") + 1], "w"))')
    overall, per_image, notes = score(CAPTIONS, REFERENCES)
    assert overall['SPICE'] == pytest.approx(0.25 / 3) and per_image[3]['SPICE'] == 0.25
    assert list(overall)[-1] == 'SPICE' and 'METEOR' not in overall


def test_captions_without_references_are_refused():
    with pytest.raises(DataError, match='2 of 5 .* have no reference captions: 8, 9'):
        score({**CAPTIONS, 8: 'a', 9: 'b'}, {**REFERENCES, 9: []})
    with pytest.raises(DataError, match='no caption to score'):
        score({}, REFERENCES)
    with pytest.raises(DataError, match='has a word'):
        score({1: 'a'}, {1: ['.', '']}, use_java=False)


# ---- files ----

def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def cocotalk(path):
    images = [{'id': key, 'split': 'val' if key == 5 else 'test', 'file_path': '', 'captions': texts}
              for key, texts in REFERENCES.items()]
    return write(path, {'ix_to_word': {'1': 'a'}, 'images': images})


def test_references_are_read_from_both_kinds_of_file(tmp_path):
    ours = cocotalk(tmp_path / 'cocotalk.json')
    assert load_references(ours) == REFERENCES
    assert set(load_references(ours, split='test')) == {3, 7}
    coco = write(tmp_path / 'coco.json', {'images': [], 'annotations': [
        {'image_id': str(key), 'id': 1, 'caption': text}
        for key, texts in REFERENCES.items() for text in texts]})
    assert load_references(ours, coco) == coco_references(coco) == REFERENCES


@pytest.mark.parametrize('content, said', [
    (None, 'prepro_labels.py'), ('{"images": [', 'prepro_labels.py'), ([], 'prepro_labels.py'),
    ({'images': [{'id': 1, 'split': 'test'}]}, '--coco_json'),
    ({'images': [{'id': 1, 'split': 'test', 'captions': [3]}]}, 'not strings')])
def test_messages_about_unusable_references_name_the_file_and_the_way_out(tmp_path, content, said):
    path = tmp_path / 'cocotalk.json'
    if content is not None:
        write(path, content)
    with pytest.raises(DataError, match=said) as error:
        load_references(str(path))
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) <= 3


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match='no split tset; there are test, val'):
        load_references(cocotalk(tmp_path / 'cocotalk.json'), split='tset')


@pytest.mark.parametrize('content, said', [
    ({'images': []}, 'annotations'), ([1], 'annotations'), ({'annotations': []}, 'no annotations'),
    ({'annotations': [{'image_id': 1}]}, 'caption'),
    ({'annotations': [{'image_id': 1, 'caption': None}]}, 'caption')])
def test_files_that_are_not_coco_annotations_are_refused(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        coco_references(write(tmp_path / 'coco.json', content))


@pytest.mark.parametrize('content, said', [
    ({'a': 1}, 'does not hold a list'), ([], 'holds no captions'),
    ([{'image_id': 1}], 'entry 0'), ([3], 'entry 0'),
    ([{'image_id': 1, 'caption': 'a'}, {'image_id': '1', 'caption': 'b'}], 'more than one caption'),
    ('[{"image_id": 1,', 'not a valid JSON file')])
def test_unusable_predictions_are_refused(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        load_predictions(write(tmp_path / 'mine.json', content))


def test_the_table_has_the_usual_column_order_and_dashes_for_missing_scores():
    table = score_table({'transformer': {'CIDEr': 1.25, 'relations': 0.5, 'Bleu_4': 0.3},
                         'spatial_pe': {'Bleu_4': 0.31234567, 'CIDEr': 1.5, 'METEOR': 0.2}})
    assert table.splitlines() == ['             Bleu_4  METEOR   CIDEr  relations',
                                  '-----------  ------  ------  ------  ---------',
                                  'transformer  0.3000       -  1.2500     0.5000',
                                  'spatial_pe   0.3123  0.2000  1.5000          -']


def test_results_files_have_the_documented_form(tmp_path):
    path = tmp_path / 'eval_results' / 'id_test.json'
    images = image_rows({3: 'a man', 5: 'a bus'}, {3: {'CIDEr': 1.0}})
    write_results(str(path), {'CIDEr': 0.5}, images, {'beam_size': 2})
    assert json.loads(path.read_text()) == {
        'overall': {'CIDEr': 0.5}, 'options': {'beam_size': 2},
        'images': [{'image_id': 3, 'caption': 'a man', 'CIDEr': 1.0}, {'image_id': 5, 'caption': 'a bus'}]}
    write_results(str(path), {}, images, {}, loss=2.5)
    assert json.loads(path.read_text())['loss'] == 2.5
    write_vis(str(tmp_path / 'vis' / 'vis.json'), [{'image_id': 3, 'caption': 'a man'}])
    assert load_predictions(str(tmp_path / 'vis' / 'vis.json')) == {3: 'a man'}


def run_script(*arguments):
    return subprocess.run([sys.executable, str(ROOT / 'scripts' / 'score_captions.py'), *arguments],
                          capture_output=True, text=True)


def test_the_script_prints_the_table_and_writes_the_scores(tmp_path):
    mine = write(tmp_path / 'mine.json', [{'image_id': key, 'caption': text} for key, text in CAPTIONS.items()
                                          if key != 5])
    ended = run_script('--predictions', mine, '--input_json', cocotalk(tmp_path / 'cocotalk.json'),
                       '--output_json', str(tmp_path / 'out.json'), '--use_java', '0')
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / 'out.json').read_text())
    expected = score({3: CAPTIONS[3], 7: CAPTIONS[7]}, REFERENCES, use_java=False)
    assert written['overall'] == expected[0]
    assert written['images'][0] == {'image_id': 3, 'caption': CAPTIONS[3], **expected[1][3]}
    assert ended.stdout == score_table({'mine.json': expected[0]}) + '\n'
    assert 'scored 2 of the 3 images' in ended.stderr


def test_errors_of_the_script_take_a_line_or_two(tmp_path):
    mine = write(tmp_path / 'mine.json', [{'image_id': 99, 'caption': 'a'}])
    ended = run_script('--predictions', mine)
    assert ended.returncode == 2 and '--coco_json' in ended.stderr and len(ended.stderr.splitlines()) == 1
    ended = run_script('--predictions', mine, '--input_json', cocotalk(tmp_path / 'cocotalk.json'))
    assert ended.returncode == 1 and '99' in ended.stderr and len(ended.stderr.splitlines()) <= 3


def test_scoring_does_not_load_torch():
    code = 'import sys, scripts.score_captions; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
