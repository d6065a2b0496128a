"""Who may import whom, and what may run on import, checked on the syntax trees of all source files."""

import ast
import pathlib
import sys

import pytest

from tests.helpers import ROOT

SOURCES = sorted(path.relative_to(ROOT).as_posix() for pattern in (
    '*.py', 'models/**/*.py', 'misc/**/*.py', 'scripts/**/*.py') for path in ROOT.glob(pattern))
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('tests/**/*.py'))
TOPS = {'opts', 'dataloader', 'models', 'misc', 'train', 'eval', 'prepro_areas', 'scripts', 'tests'}

# Room: the rooms it may import besides itself, `misc.cli` and `misc.commands`.
MISC = {
    'misc': set(), 'misc.cli': set(), 'misc.commands': set(), 'misc.parallel': set(),
    'misc.machine': {'misc.parallel'},
    'misc.disk': set(),
    'misc.dataset': {'misc.disk'},
    'misc.prepare': {'misc.disk', 'misc.dataset'},
    'misc.scoring': {'misc.disk'},
    'misc.training': {'misc.disk', 'misc.scoring', 'misc.parallel'},
    'misc.run': {'misc.disk', 'misc.training', 'misc.parallel'},
    'misc.evaluation': {'misc.training', 'misc.scoring', 'misc.parallel'},
    'misc.pictures': {'misc.dataset', 'misc.prepare', 'misc.scoring', 'misc.disk', 'misc.parallel', 'misc.machine'},
    'misc.compare': {'misc.scoring', 'misc.run', 'misc.disk', 'misc.pictures'},
    'misc.setup': {'misc.disk', 'misc.dataset', 'misc.scoring', 'misc.run', 'misc.pictures'},
    'misc.page': {'misc.pictures', 'misc.prepare', 'misc.disk'},
    'misc.demo': {'misc.scoring', 'misc.disk'},
}
ALL = set(MISC)
ARROWS = {
    **MISC,
    'models': set(),
    'opts': ALL | {'models'},
    'dataloader': {'misc.dataset', 'misc.disk', 'misc.parallel', 'models'},
    'prepro_areas': ALL,
    'scripts': ALL | {'models', 'dataloader', 'opts', 'misc.captioner'},
    'train': ALL | {'opts', 'dataloader', 'models'},
    'eval': ALL | {'opts', 'dataloader', 'models', 'misc.captioner'},
    # The Python interface is a program without a command line; no room of misc may import it.
    'misc.captioner': ALL | {'opts', 'dataloader', 'models'},
}
# The benchmark has its parts beside it, and also measures tests/naive.py.  The check of GPUs has its own, builds on
# the benchmark's, and runs the phases of train.py as they are.
MEASURING = {'scripts/benchmark': {'scripts.benchmarking', 'tests.naive'},
             'scripts/gpu_check': {'scripts.gpu_checking', 'scripts.benchmarking', 'train'}}
# Library: the files that may import it.  HDF5 is read and written in these alone.
LIBRARIES = {
    'pycocoevalcap': {'misc/scoring/metrics.py'},
    'h5py': {'misc/disk/hdf5.py', 'misc/dataset/packing.py', 'scripts/prepro_labels.py'},
    'triton': {'models/kernels/fused.py'},
}
# Models compute with torch alone, but for numpy's generator of random numbers.
NUMPY_IN_MODELS = {'models/kernels/elementwise.py'}
# Statements allowed in a module besides imports, definitions and constants.
COMPUTING = ('train.py', 'eval.py', 'scripts/benchmark.py', 'scripts/gpu_check.py', 'scripts/extract_regions.py',
             'scripts/prepro_feats.py')
SHORT_SPINNING = "os.environ.setdefault('GOMP_SPINCOUNT', '2000')"
PROJECT_FIRST = 'sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))'
RUN_MAIN = "if __name__ == '__main__':\n    run_command(main)"
CATCH_SIGNALS = "if __name__ == '__main__':\n    EARLY.catch()"


def tree_of(name):
    return ast.parse((ROOT / name).read_text(encoding='utf-8'))


def room_of(name):
    """The room of a dotted module name: the part of `misc` that it lies in, or the top-level name."""
    parts = name.split('.')
    return '.'.join(parts[:2]) if parts[0] == 'misc' else parts[0]


def module_of(path):
    """The dotted name of a source file."""
    return path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def imports_of(tree):
    """The dotted names that a module imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = '.' * node.level + (node.module or '')
            if module in TOPS:
                yield from (f'{module}.{alias.name}' for alias in node.names)
            else:
                yield module


def may_import(name, imported):
    """Whether the source file `name` may import the module `imported`."""
    top, room = imported.split('.')[0], room_of(module_of(name))
    if not top or name not in LIBRARIES.get(top, {name}):
        return False
    if top not in TOPS:
        return (room != 'models' or top == 'torch' or top in sys.stdlib_module_names or top in LIBRARIES
                or top == 'numpy' and name in NUMPY_IN_MODELS)
    for program, others in MEASURING.items():
        if name.startswith(program) and top in ('scripts', 'tests', 'train'):
            return any(imported == one or imported.startswith(f'{one}.') for one in others)
    if top == 'scripts':
        return False
    everywhere = set() if room == 'models' else {'misc.cli', 'misc.commands'}
    return room_of(imported) in ARROWS[room] | everywhere | {room}


def forbidden_imports(name, tree):
    """What the source file `name` imports and may not."""
    return [imported for imported in imports_of(tree) if not may_import(name, imported)]


def imports_of_tests(tree):
    """The test modules and conftest files that a module imports."""
    names = [f'{node.module}.{alias.name}' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             for alias in node.names]
    return [name for name in [*imports_of(tree), *names] if name.split('.')[0] == 'tests' and any(
        part.startswith('test_') or part == 'conftest' for part in name.split('.'))]


def fixtures_of(tree):
    """The names of the fixtures that a module defines."""
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
            and any('fixture' in ast.unparse(decorator) for decorator in node.decorator_list)]


def active_statements(name, tree):
    """The statements of a module that do something on import."""
    permitted = {SHORT_SPINNING} if name in COMPUTING else set()
    if name.startswith('scripts/'):
        permitted.add(PROJECT_FIRST)
    if room_of(module_of(name)) in ('scripts', 'train', 'eval', 'prepro_areas'):
        permitted.add(RUN_MAIN)
    if name == 'train.py':
        permitted.add(CATCH_SIGNALS)
    passive = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return [ast.unparse(node) for node in tree.body
            if not isinstance(node, passive) and not is_text(node) and not is_constant(node)
            and not is_typing_import(node) and ast.unparse(node) not in permitted]


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_typing_import(node):
    """Whether a statement imports for the type checker alone."""
    return (isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING' and not node.orelse
            and all(isinstance(inner, (ast.Import, ast.ImportFrom)) for inner in node.body))


def is_constant(node):
    """Whether a statement gives values to plain names alone and calls nothing with side effects."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [name for target in targets for name in (
        target.elts if isinstance(target, ast.Tuple) else [target])]
    calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
    return all(isinstance(name, ast.Name) for name in names) and not calls & {
        'open', 'print', 'input', 'exec', 'eval', '__import__', 'os.environ.setdefault', 'sys.path.insert'}


def path_edits(name, tree):
    """Uses of `sys.path` besides the one line of the scripts."""
    allowed = 1 if name.startswith('scripts/') and PROJECT_FIRST in map(ast.unparse, tree.body) else 0
    used = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and ast.unparse(node) == 'sys.path']
    return used[allowed:]


@pytest.mark.parametrize('name', SOURCES)
def test_imports_follow_the_arrows(name):
    assert forbidden_imports(name, tree_of(name)) == []


@pytest.mark.parametrize('name', TESTS)
def test_no_test_imports_another_test_or_a_fixture(name):
    assert imports_of_tests(tree_of(name)) == []
    if not pathlib.Path(name).name.startswith(('test_', 'conftest')):
        assert fixtures_of(tree_of(name)) == []  # they would have to be imported


@pytest.mark.parametrize('name', SOURCES)
def test_nothing_runs_on_import(name):
    assert active_statements(name, tree_of(name)) == []


@pytest.mark.parametrize('name', SOURCES)
def test_only_one_line_of_each_script_edits_the_search_path(name):
    assert path_edits(name, tree_of(name)) == []


def test_each_script_puts_the_project_first_and_each_library_has_its_places():
    for name in SOURCES:
        if name.count('/') == 1 and name.startswith('scripts/'):
            assert PROJECT_FIRST in map(ast.unparse, tree_of(name).body), name
    for library, places in LIBRARIES.items():
        users = {name for name in SOURCES if any(
            imported.split('.')[0] == library for imported in imports_of(tree_of(name)))}
        assert users == places  # files that no longer import it leave the list


@pytest.mark.parametrize('name, source', [
    ('misc/disk/a.py', 'import opts'), ('misc/disk/a.py', 'from dataloader import Corpus'),
    ('misc/run/a.py', 'import models.x'),
    ('misc/run/a.py', 'from misc import captioner'), ('train.py', 'from misc.captioner import load'),
    ('misc/disk/a.py', 'from misc import parallel'),
    ('misc/dataset/a.py', 'from misc.training.optim import Plateau'), ('misc/run/a.py', 'from misc import page'),
    ('models/a.py', 'from misc import cli'),
    ('models/a.py', 'import numpy'), ('models/a.py', 'import triton'), ('models/a.py', 'from . import b'),
    ('misc/disk/a.py', 'def f():\n    from train import main'), ('train.py', 'from tests import naive'),
    ('scripts/make.py', 'from tests import naive'), ('scripts/benchmark.py', 'from tests.helpers import tiny'),
    ('scripts/make.py', 'import train'), ('scripts/make.py', 'from scripts.make_bu_data import convert'),
    ('scripts/check_setup.py', 'from scripts.pack_features import main'),
    ('misc/disk/a.py', 'from pycocoevalcap.bleu.bleu import Bleu'),
    ('misc/disk/a.py', 'import h5py'), ('opts.py', 'import dataloader'), ('dataloader.py', 'import opts')])
def test_a_wrong_import_is_noticed(name, source):
    assert forbidden_imports(name, ast.parse(source))


@pytest.mark.parametrize('source', [
    'from tests.programs import test_eval', 'from tests.run.test_legacy import loaded', 'import tests.conftest',
    'def f():\n    from tests.run import test_infos', 'from tests.conftest import minicoco'])
def test_an_import_of_a_test_is_noticed(source):
    assert imports_of_tests(ast.parse(source))


def test_a_fixture_in_a_helper_is_noticed():
    assert fixtures_of(ast.parse('@pytest.fixture(scope="module")\ndef a():\n    pass')) == ['a']
    assert fixtures_of(ast.parse('@fixture\ndef a():\n    pass')) == ['a']


@pytest.mark.parametrize('name, source', [
    ('misc/a.py', 'print(1)'), ('misc/a.py', 'for i in range(3):\n    pass'), ('misc/a.py', 'A[0] = 1'),
    ('misc/a.py', 'import os\nos.environ["A"] = "1"'), ('misc/a.py', SHORT_SPINNING),
    ('misc/a.py', RUN_MAIN), ('scripts/make.py', SHORT_SPINNING), ('misc/a.py', 'if TYPE_CHECKING:\n    main()'),
    ('misc/a.py', 'TEXT = open("x").read()'), ('misc/a.py', PROJECT_FIRST), ('train.py', 'main()')])
def test_work_on_import_is_noticed(name, source):
    assert active_statements(name, ast.parse(source))


def test_an_edit_of_the_search_path_is_noticed():
    assert path_edits('misc/a.py', ast.parse('def f():\n    sys.path.append("x")'))
    assert path_edits('scripts/a.py', ast.parse(PROJECT_FIRST + '\nsys.path.append("x")'))
    assert not path_edits('scripts/a.py', ast.parse(PROJECT_FIRST))
