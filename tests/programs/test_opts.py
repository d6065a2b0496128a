"""The parsers of `train.py` and `eval.py`: booleans, wrong values, help."""

import re
import types

import pytest

import eval as evaluation
import opts
import train
from misc.cli import UsageError, boolean
from tests.helpers import tiny
from tests.helpers.flags import flags_of

PROGRAMS = {train: opts.train_parser, evaluation: opts.eval_parser}


@pytest.mark.parametrize('make', PROGRAMS.values())
def test_booleans_take_0_1_true_false_and_a_bare_flag_means_1(make):
    always = ['--model', 'm', '--infos_path', 'i'] if make is opts.eval_parser else []
    switches = [name for name, action in flags_of(make()).items() if action.type is boolean]
    assert len(switches) > 8
    for name in switches:
        for given, expected in (('', True), ('0', False), ('1', True), ('true', True), ('False', False)):
            options, found = opts.parse(make(), [*always, f'--{name}', *given.split()])
            assert getattr(options, name) is expected and name in found


def wrong_values():
    """(program, flag, a value that is refused, the alternatives in the message) of every typed flag."""
    edges = {'dropout': '1', 'drop_prob_lm': '1', 'top_p': '0', 'num_layers': '0', 'val_images_use': '-2',
             'num_images': '0', 'num_grids': '10', 'label_smoothing': '1.0', 'learning_rate': 'nan',
             'temperature': '0', 'weight_decay': 'inf', 'seed': '4294967296', 'batch_size': '2.5',
             'device': 'cuda:x', 'id': 'a/b', 'optim_beta': '1'}
    for program, make in PROGRAMS.items():
        for name, action in flags_of(make()).items():
            if action.type is None:
                continue
            offer = 'allowed are 0, 1, true, false' if action.type is boolean else 'allowed (are|is)|give '
            values = ['wrong/value', '-8'] + ([edges[name]] if name in edges else [])
            for value in values[:1] if name == 'id' else values:
                yield pytest.param(program, name, value, offer, id=f'{program.__name__}-{name}-{value}')


@pytest.mark.parametrize('program, name, value, offer', list(wrong_values()))
def test_a_wrong_value_is_refused_in_one_line_before_any_file_is_read(
        program, name, value, offer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # an empty folder: any file that is read would be missing
    always = ['--model', 'm', '--infos_path', 'i'] if program is evaluation else []
    with pytest.raises(SystemExit) as stopped:
        tiny.run(program, [*always, f'--{name}', value])
    output = capsys.readouterr()
    assert stopped.value.code == 2 and output.out == '' and output.err.count('\n') == 1
    assert f'--{name}: ' in output.err and value in output.err
    assert re.search(offer, output.err)


@pytest.mark.parametrize('make', PROGRAMS.values())
def test_help_shows_the_default_of_every_flag(make, monkeypatch):
    monkeypatch.setenv('COLUMNS', '1000')
    text = ' '.join(make().format_help().split())
    for action in flags_of(make()).values():
        assert action.help and ' '.join(action.help.split()) in text
        if action.default not in (None, ''):
            default = int(action.default) if isinstance(action.default, bool) else action.default
            assert f'{action.help.split(" (default")[0]} (default: {default})' in text


def test_batch_normalisation_is_refused_where_batches_are_split():
    def check(use_bn, accumulate, processes):
        opts.check_batch_norm(types.SimpleNamespace(use_bn=use_bn, accumulate=accumulate), processes)

    check(0, 4, 4)
    check(2, 1, 1)
    for accumulate, processes, named in ((2, 1, '--accumulate 2'), (1, 3, '3 processes')):
        with pytest.raises(UsageError, match=named):
            check(1, accumulate, processes)
