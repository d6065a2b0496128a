"""Evaluation: its output, its decoding methods, what it refuses."""

import json
import math
import pathlib

import pytest
import torch
from PIL import Image

import eval as evaluation
import train
from misc.cli import DataError, UsageError
from misc.evaluation import output
from misc.run import folder as run_folder
from misc.scoring import results, scores
from tests.helpers import tiny


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The tiny corpus and the folder of a run on it."""
    corpus = tiny.write_corpus(tmp_path_factory.mktemp('corpus'))
    folder = tmp_path_factory.mktemp('runs') / 'run'
    tiny.run(train, tiny.train_flags(corpus, folder, '--max_epochs', 8, '--learning_rate', 5e-3,
                                     '--dropout', 0, '--drop_prob_lm', 0))
    return corpus, folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder: evaluation writes vis/ and eval_results/ into the current one."""
    monkeypatch.chdir(tmp_path)


def evaluate(trained, *flags):
    """Run eval.py and return vis/vis.json."""
    tiny.run(evaluation, tiny.eval_flags(*trained, *flags))
    with open('vis/vis.json', encoding='utf-8') as file:
        return json.load(file)


def test_captions_are_written_in_coco_form_with_scores_per_image(trained, monkeypatch, capsys):
    monkeypatch.setenv('PATH', '')  # without Java: quick, and the other scores come all the same
    entries = evaluate(trained, '--language_eval', 1, '--verbose_loss', 1)
    assert [entry['image_id'] for entry in entries] == [109 + 3 + i for i in range(4)]
    assert all(set(entry) == {'image_id', 'caption', 'log_prob', 'file_path'} for entry in entries)
    with open('eval_results/tiny_test.json', encoding='utf-8') as file:
        results = json.load(file)
    assert {'Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'ROUGE_L', 'CIDEr'} <= set(results['overall'])
    assert [row['caption'] for row in results['images']] == [entry['caption'] for entry in entries]
    assert all('CIDEr' in row for row in results['images']) and 0 < results['loss'] < 5
    ends = [entry['caption'].split()[-1] for entry in entries]
    assert results['bad_endings'] == sum(word in ('a', 'of') for word in ends) / 4
    used = results['options']
    assert (used['beam_size'], used['num_layers'], used['cross_attn'], used['num_grids']) == (2, 1, 'xlinear', 9)
    shown = capsys.readouterr()
    assert f'{results["overall"]["CIDEr"]:.4f}' in shown.out and 'METEOR' in shown.err


@pytest.mark.usefixtures('without_java')
def test_captions_are_scored_against_texts_or_tokens(trained, tmp_path, capsys):
    corpus = trained[0]
    content = json.loads((corpus / 'talk.json').read_text())
    for image in content['images']:
        image['tokens'] = image['captions']
        image['captions'] = [caption.replace(' ', '') for caption in image['captions']]
    (tmp_path / 'unspaced.json').write_text(json.dumps(content))

    def results(*flags):
        evaluate(trained, '--language_eval', 1, *flags)
        found = json.loads((tmp_path / 'eval_results' / 'tiny_test.json').read_text())
        return found['overall'], (found['options']['score_tokens'], found['options']['tokenizer'])
    plain, how = results()
    assert how == ('raw', 'PTB (Python)')
    assert results('--input_json', tmp_path / 'unspaced.json') == (plain, ('tokens', 'spaces'))
    capsys.readouterr()
    overall, how = results('--input_json', tmp_path / 'unspaced.json', '--score_tokens', 'raw')
    assert overall['Bleu_1'] < 0.01 and how == ('raw', 'PTB (Python)')
    assert 'of the words of the references in' in capsys.readouterr().err
    with pytest.raises(UsageError, match='--score_tokens tokens: .*talk.json holds no tokens'):
        results('--score_tokens', 'tokens')


@pytest.mark.usefixtures('without_java')
def test_images_whose_references_are_rejected_are_captioned_and_not_scored(trained, tmp_path, capsys):
    notes = [{'image_id': image, 'caption': 'a red dog', 'is_rejected': image == 113} for image in range(112, 116)]
    (tmp_path / 'coco.json').write_text(json.dumps({'annotations': notes}))
    flags = ('--language_eval', 1, '--coco_json', tmp_path / 'coco.json')
    assert len(evaluate(trained, *flags)) == 4
    found = json.loads((tmp_path / 'eval_results' / 'tiny_test.json').read_text())
    assert [row['image_id'] for row in found['images']] == [112, 114, 115] and 'CIDEr' in found['images'][0]
    assert '1 images have no others and are not scored' in capsys.readouterr().err
    (tmp_path / 'coco.json').write_text(json.dumps({'annotations': notes[:3]}))
    with pytest.raises(DataError, match='(?s)1 of 4 images have no reference captions.*--common 1'):
        evaluate(trained, *flags)
    for one in notes:
        one['is_rejected'] = True
    notes[0]['image_id'] = 100
    notes[0]['is_rejected'] = False
    notes.append({**notes[1], 'image_id': 112})
    (tmp_path / 'coco.json').write_text(json.dumps({'annotations': notes}))
    with pytest.raises(DataError, match='the captions of all 4 images are marked'):
        evaluate(trained, *flags)


def test_the_log_prob_of_a_caption_is_that_of_its_words_and_end(trained):
    import models
    import opts
    from dataloader import image_batches
    from misc.dataset.corpus import Corpus
    corpus, folder = trained
    options, given = opts.parse(opts.eval_parser(), [str(f) for f in tiny.eval_flags(corpus, folder)])
    infos = run_folder.read_infos(options.infos_path[0])
    options = opts.with_model_options(options, given, infos['opt'], options.infos_path[0])
    options = opts.checked_model(options, given)
    data = Corpus(opts.sources(options))
    model = models.build(options, 10, 6).eval()
    run_folder.load_weights(model, run_folder.read_tensors(options.model[0]), options.model[0])
    data.open_for(model.needs)
    index = {word: int(i) for i, word in infos['vocab'].items()}
    entries = evaluate(trained, '--length_penalty', 0.5)
    batch = next(image_batches(data, data.rows('test'), 4, 0))
    for i, entry in enumerate(entries):
        words = [index[word] for word in entry['caption'].split()]
        captions = torch.zeros(4, 1, 6, dtype=torch.long)
        captions[i, 0, :len(words)] = torch.tensor(words)
        with torch.no_grad():
            log_probs = model(model.encode(batch), captions)[i, 0]
        tokens = (words + [0])[:6]
        expected = sum(float(log_probs[t, word]) for t, word in enumerate(tokens))
        assert entry['log_prob'] == pytest.approx(expected, abs=1e-4)


def test_each_decoding_flag_has_its_effect(trained, capsys):
    plain = evaluate(trained)

    def differs(*flags):
        return [e['log_prob'] for e in evaluate(trained, *flags)] != [e['log_prob'] for e in plain]

    assert differs('--beam_size', 1) or differs('--beam_size', 5)
    assert differs('--sample_max', 0)
    four = evaluate(trained, '--beam_size', 4, '--group_size', 2, '--diversity_lambda', 20, '--sample_n', 4)
    for entry in four:  # a heavy penalty keeps the second group from the first group's first words
        first, second = ({word for beam in entry['beams'][at:at + 2] for word in beam['caption'].split()[:1]}
                         for at in (0, 2))
        assert not first & second
    same = evaluate(trained, '--beam_size', 4, '--group_size', 2, '--diversity_lambda', 0, '--sample_n', 4)
    assert all(e['beams'][:2] == e['beams'][2:] for e in same)

    def lengths(*flags):
        return sum(len(e['caption'].split()) for e in evaluate(trained, '--beam_size', 5, *flags))
    assert lengths('--length_penalty', 3) > lengths()
    assert lengths('--max_ppl', 1) >= lengths()
    cold = [evaluate(trained, '--sample_max', 0, '--temperature', 1e-4, '--seed', seed) for seed in (1, 2)]
    greedy = evaluate(trained, '--beam_size', 1)
    assert [[e['caption'] for e in run] for run in cold] == [[e['caption'] for e in greedy]] * 2
    for cut in (('--top_k', 1), ('--top_p', 1e-6)):
        assert [e['caption'] for e in evaluate(trained, '--sample_max', 0, *cut)] == [
            e['caption'] for e in greedy]
    many = ('--sample_max', 0, '--sample_n', 60, '--temperature', 3)
    draws = [beam['caption'].split() for e in evaluate(trained, *many) for beam in e['beams']]

    def repeats(words):
        return any(one == other for one, other in zip(words, words[1:]))

    def repeats_trigram(words):
        trigrams = [tuple(words[i:i + 3]) for i in range(len(words) - 2)]
        return len(trigrams) > len(set(trigrams))
    assert any(map(repeats, draws)) and not any('UNK' in words for words in draws)
    bound = [beam['caption'].split() for e in evaluate(trained, *many, '--decoding_constraint', 1)
             for beam in e['beams']]
    assert not any(map(repeats, bound))
    looser = ('--sample_max', 0, '--sample_n', 400, '--temperature', 9)
    free = [b['caption'].split() for e in evaluate(trained, *looser) for b in e['beams']]
    blocked = [b['caption'].split() for e in evaluate(trained, *looser, '--block_trigrams', 1)
               for b in e['beams']]
    assert any(map(repeats_trigram, free)) and not any(map(repeats_trigram, blocked))
    assert len(free) == len(blocked) == 1600
    whole = [beam['caption'].split() for e in evaluate(trained, *many, '--remove_bad_endings', 1)
             for beam in e['beams']]
    assert {'a', 'of'} & {words[-1] for words in draws if words} and len(whole) == len(draws)
    assert not {'a', 'of'} & {words[-1] for words in whole if words} and any(len(words) == 6 for words in whole)
    unknown = [beam['caption'].split() for e in evaluate(trained, *many, '--suppress_UNK', 0)
               for beam in e['beams']]
    assert any('UNK' in words for words in unknown)
    capsys.readouterr()
    evaluate(trained, '--beam_size', 3, '--verbose_beam', 1)
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_the_hint_about_short_captions_is_for_beams_that_are_ranked_by_sums(trained, monkeypatch, capsys):
    monkeypatch.setattr(evaluation.LengthCheck, 'hint', lambda check: f'hint: {check.images} of {check.beam_size}')

    evaluate(trained, '--beam_size', 3)
    assert 'hint: 4 of 3' in capsys.readouterr().err
    for flags in (('--beam_size', 1), ('--beam_size', 3, '--length_penalty', 1), ('--beam_size', 3, '--max_ppl', 1),
                  ('--sample_max', 0), ('--beam_size', 4, '--group_size', 2)):
        evaluate(trained, *flags)
        assert 'hint' not in capsys.readouterr().err


@pytest.mark.usefixtures('without_java')
def test_each_output_flag_has_its_effect(trained, tmp_path, capsys):
    corpus = trained[0]
    assert len(evaluate(trained, '--num_images', 2)) == 2
    assert len(evaluate(trained, '--num_images', 5000)) == len(evaluate(trained, '--num_images', -1)) == 4
    assert {e['image_id'] for e in evaluate(trained, '--split', 'val')} == {109, 110, 111}
    assert len(evaluate(trained, '--split', 'restval')) == 2 and len(evaluate(trained, '--split', 'train')) == 7
    assert len(evaluate(trained, '--split', 'all', '--batch_size', 3)) == 16
    assert 'file_path' not in evaluate(trained, '--dump_path', 0)[0]
    (tmp_path / 'vis' / 'vis.json').unlink()
    tiny.run(evaluation, tiny.eval_flags(*trained, '--dump_json', 0))
    assert not (tmp_path / 'vis' / 'vis.json').exists()
    images = tmp_path / 'pictures' / 'val2014'
    images.mkdir(parents=True)
    with pytest.raises(UsageError, match='--image_root'):
        evaluate(trained, '--dump_images', 1)
    with pytest.raises(DataError, match='no image .*112.jpg'):
        evaluate(trained, '--dump_images', 1, '--image_root', images.parent)
    for image_id in range(112, 115):
        Image.new('RGB', (40, 30), 'olive').save(images / f'{image_id}.jpg')
    (images / '115.jpg').write_bytes(b'jpeg')
    capsys.readouterr()
    evaluate(trained, '--dump_images', 1, '--image_root', images.parent)
    assert '1 pictures cannot be read' in (said := capsys.readouterr().err) and '115.jpg' in said
    assert (tmp_path / 'vis' / 'index.html').exists() and len(list((tmp_path / 'vis' / 'imgs').iterdir())) == 3
    annotations = {'images': [], 'annotations': [
        {'id': i, 'image_id': i, 'caption': 'a red dog'} for i in range(112, 116)]}
    (tmp_path / 'coco.json').write_text(json.dumps(annotations))
    stripped = json.loads((corpus / 'talk.json').read_text())
    for image in stripped['images']:
        del image['captions']
    (tmp_path / 'stripped.json').write_text(json.dumps(stripped))
    flags = ('--input_json', tmp_path / 'stripped.json', '--language_eval', 1, '--id', 'other')
    with pytest.raises(DataError, match='--coco_json'):
        evaluate(trained, *flags)
    evaluate(trained, *flags, '--coco_json', tmp_path / 'coco.json')
    assert (tmp_path / 'eval_results' / 'other_test.json').exists()


def test_model_options_come_from_the_infos_file_and_may_not_be_contradicted(trained, tmp_path):
    with pytest.raises(UsageError, match='num_grids 256 contradicts .* num_grids 9'):
        evaluate(trained, '--num_grids', 256)
    corpus, folder = trained
    other = json.loads((corpus / 'talk.json').read_text())
    other['ix_to_word']['1'] = 'the'
    (tmp_path / 'other.json').write_text(json.dumps(other))
    with pytest.raises(DataError, match='vocabulary'):
        evaluate(trained, '--input_json', tmp_path / 'other.json')
    state = run_folder.read_tensors(str(folder / 'model.pth'))
    state['more'] = state.pop('output.bias')
    state['output.weight'] = state['output.weight'][:5]
    torch.save(state, tmp_path / 'bad.pth')
    with pytest.raises(DataError, match='(?s)output.bias is missing.*more is not known.*output.weight is'):
        tiny.run(evaluation, [*tiny.eval_flags(corpus, folder), '--model', tmp_path / 'bad.pth'])


def test_grid_vectors_from_boxes_give_the_captions_of_stored_ones(trained):
    corpus, folder = trained
    stored = evaluate(trained)
    bare = list(tiny.eval_flags(corpus, folder))
    at = bare.index('--input_grid_vec_dir')
    del bare[at:at + 2]
    for source in (('--input_box_dir', corpus / 'box'), ('--input_rel_box_dir', corpus / 'rel')):
        tiny.run(evaluation, [*bare, *source])
        with open('vis/vis.json', encoding='utf-8') as file:
            found = json.load(file)
        assert [e['caption'] for e in found] == [e['caption'] for e in stored]
        assert all(math.isclose(one['log_prob'], other['log_prob'], abs_tol=1e-4)
                   for one, other in zip(found, stored))
    with pytest.raises(UsageError, match='--input_grid_vec_dir'):
        tiny.run(evaluation, bare)


def test_several_models_are_an_ensemble_and_several_captions_have_a_diversity(trained, tmp_path, monkeypatch):
    corpus, folder = trained
    monkeypatch.setenv('PATH', '')
    plain = evaluate(trained)
    other = tmp_path / 'other'
    tiny.run(train, [*tiny.train_flags(corpus, other, '--caption_model', 'transformer', '--seed', 5,
                                       '--max_epochs', 6, '--learning_rate', 5e-3)])

    def ensemble(*folders, more=()):
        flags = tiny.eval_flags(corpus, folder, *more)
        flags[flags.index('--model') + 1:flags.index('--model') + 2] = [f / 'model.pth' for f in folders]
        at = flags.index('--infos_path') + 1
        flags[at:at + 1] = [f / 'infos_tiny.pkl' for f in folders]
        tiny.run(evaluation, flags)
        with open('vis/vis.json', encoding='utf-8') as file:
            return [(entry['caption'], round(entry['log_prob'], 4)) for entry in json.load(file)]
    alone = [(entry['caption'], round(entry['log_prob'], 4)) for entry in plain]
    assert ensemble(folder, folder) == alone != ensemble(folder, other)
    boxed = tmp_path / 'boxed'  # a member that wants boxes beside one that wants grid vectors
    boxes = ['--input_rel_box_dir', corpus / 'rel']
    tiny.run(train, tiny.train_flags(corpus, boxed, '--enc_pos_type', 'box-coord', *boxes))
    assert ensemble(folder, boxed, more=boxes) != alone
    with pytest.raises(UsageError, match='--infos_path'):
        tiny.run(evaluation, [*tiny.eval_flags(corpus, folder), '--model', 'a', 'b'])
    evaluate(trained, '--language_eval', 1, '--sample_max', 0, '--sample_n', 4, '--id', 'four')
    with open('eval_results/four_test.json', encoding='utf-8') as file:
        overall = json.load(file)['overall']
    assert overall['oracle_CIDEr'] >= overall['CIDEr'] and {'Div-1', 'Div-2', 'mBLEU-4'} <= set(overall)


@pytest.mark.usefixtures('without_java')
def test_of_several_captions_the_first_or_the_most_probable_one_is_scored(trained, capsys, tmp_path):
    images = tmp_path / 'pictures' / 'val2014'
    images.mkdir(parents=True)
    for image_id in range(112, 116):
        Image.new('RGB', (40, 30), 'olive').save(images / f'{image_id}.jpg')
    draws = ('--sample_max', 0, '--sample_n', 5, '--temperature', 2, '--language_eval', 1, '--dump_images', 1,
             '--image_root', images.parent)
    found = {}
    for choice, said in (('first', 'the first that was drawn (--score_caption best'),
                         ('best', 'the one with the high')):
        entries = evaluate(trained, *draws, '--score_caption', choice)
        output = capsys.readouterr()
        assert f'one of the 5 captions of each image: {said}' in output.out
        assert f'printed: of the 5 captions of each image {said}' in output.err and 'as "beams"' in output.err
        scored = json.loads((tmp_path / 'eval_results' / 'tiny_test.json').read_text())['images']
        assert [row['caption'] for row in scored] == [entry['caption'] for entry in entries]
        found[choice] = entries
    for first, best in zip(found['first'], found['best']):
        assert sorted(map(str, first['beams'])) == sorted(map(str, best['beams']))
        assert best['log_prob'] == max(beam['log_prob'] for beam in first['beams'])
        probabilities = [beam['log_prob'] for beam in best['beams']]
        assert probabilities == sorted(probabilities, reverse=True)
    assert [entry['caption'] for entry in found['first']] != [entry['caption'] for entry in found['best']]
    beams = evaluate(trained, '--beam_size', 3, '--sample_n', 3, '--language_eval', 1)
    output = capsys.readouterr()
    assert 'one of the 3 captions of each image: the best beam\n' in output.out and len(beams) == 4
    assert 'index.html shows an earlier evaluation still; --dump_images 1 writes it anew' in output.err


def write_list(folder, ids, **more):
    """COCO's list of images of the tiny corpus, without captions."""
    path = folder / 'image_info_test2014.json'
    path.write_text(json.dumps({'info': {}, 'licenses': [], 'images': [
        {'id': image_id, 'file_name': f'{image_id}.jpg', 'width': 40, 'height': 30} for image_id in ids], **more}))
    return path


def test_a_list_of_images_is_captioned_from_feature_folders_for_the_test_server(trained, tmp_path, capsys):
    corpus, run = trained
    plain = {entry['image_id']: entry['caption'] for entry in evaluate(trained)}
    ids = [114, 112, 115]
    listed = write_list(tmp_path, ids)
    flags = ['--run', run, '--checkpoint', 'last', '--coco_json', listed, '--num_workers', 0, '--device', 'cpu']
    tiny.run(evaluation, flags)
    captions = json.loads((tmp_path / 'vis' / 'captions_test2014_tiny_results.json').read_text())
    assert captions == [{'image_id': image_id, 'caption': plain[image_id]} for image_id in ids]
    assert 'captions_test2014_tiny_results.json, in the format of COCO\'s test server: 3' in capsys.readouterr().err
    entries = json.loads((tmp_path / 'vis' / 'vis.json').read_text())
    assert entries[0]['file_path'] == 'test2014/114.jpg'
    tiny.run(evaluation, [*flags, '--num_images', 2, '--input_json', corpus / 'talk.json'])
    said = capsys.readouterr().err
    assert 'lists 3 images, and the server expects a caption of each' in said and 'talk.json is not read' in said
    for more, message in ((('--language_eval', 1), '--language_eval 1 needs captions'),
                          (('--verbose_loss', 1), '--verbose_loss 1 needs captions'),
                          (('--split', 'test'), '--split test contradicts --coco_json')):
        with pytest.raises(UsageError, match=message):
            tiny.run(evaluation, [*flags, *more])
    write_list(tmp_path, [*ids, 999])
    with pytest.raises(DataError, match='999'):
        tiny.run(evaluation, flags)
    # Annotations are references, and the images those of the split.
    write_list(tmp_path, ids, annotations=[{'id': 1, 'image_id': 114, 'caption': 'a dog'}])
    assert len(evaluate(trained, '--coco_json', listed)) == 4


def test_the_joined_name_of_an_ensemble_is_distinct_and_fits_a_file_name():
    names = ['m' * 80 + str(number) for number in range(5)]
    joined = [output.joined_name(models) for models in (names, names[:4], names[::-1], ['\u4e00' * 80])]
    assert len(set(joined)) == 4 and joined[3].startswith('\u4e00' * 60)
    for name in joined:
        path = pathlib.Path(f'eval_results/{name}_restval.json')
        results.write_results(str(path), {}, [], {})
        assert json.loads(path.read_text(encoding='utf-8'))['overall'] == {}
    assert output.joined_name(['a', 'b']) == 'a+b'


def test_tables_line_up(capsys):
    table = scores.score_table({'long name': {'Bleu_1': 0.5}, 'x': {'CIDEr': 1.25, 'Bleu_1': 1}})
    assert len({len(line) for line in table.splitlines()[1:3]}) == 1 and '1.2500' in table
