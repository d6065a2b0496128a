"""Who may import whom, and what may happen on import: held over the syntax trees of all source files."""

import ast
import pathlib
import sys

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted(path.relative_to(PROJECT).as_posix() for pattern in (
    '*.py', 'models/*.py', 'misc/*.py', 'scripts/*.py') for path in PROJECT.glob(pattern))
ROOMS = {'opts', 'dataloader', 'models', 'misc', 'train', 'eval', 'prepro_areas', 'scripts', 'tests'}

# Room: the rooms it may import.
ARROWS = {
    'misc': {'misc'},
    'models': {'models'},
    'opts': {'misc'},
    'dataloader': {'misc'},
    'prepro_areas': {'misc'},
    'scripts': {'misc', 'models', 'dataloader', 'opts'},
    'train': {'opts', 'dataloader', 'models', 'misc'},
    'eval': {'opts', 'dataloader', 'models', 'misc'},
}
# Of tests/, benchmarks may use the plain versions, and the inputs and steps on which both are measured.
OF_TESTS = {'tests', 'tests.naive', 'tests.made_up', 'tests.workloads', 'tests.growth'}
# Of scripts/, the look at the set-up asks where the archive is looked for.
OF_SCRIPTS = {'scripts/check_setup.py': {'scripts.make_bu_data'}}
# Library: the files that may import it.  HDF5 is read and written in these alone.
LIBRARIES = {
    'pycocoevalcap': {'misc/metrics.py'},
    'h5py': {'misc/hdf5.py', 'misc/packed.py', 'scripts/prepro_labels.py'},
}
# What may stand in a module besides imports, definitions, constants and the call of its main.
SHORT_SPINNING = "os.environ.setdefault('GOMP_SPINCOUNT', '2000')"
PROJECT_FIRST = 'sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))'
RUN_MAIN = "if __name__ == '__main__':\n    run_command(main)"


def tree_of(name):
    return ast.parse((PROJECT / name).read_text(encoding='utf-8'))


def room_of(name):
    """The room of a source file: its folder, or itself at the top."""
    return name.split('/')[0].removesuffix('.py')


def imports_of(tree):
    """The dotted names that a module imports, wherever in it; what comes `from` a package counts in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield '.' * node.level + (node.module or '')
            if node.module in ROOMS:
                yield from (f'{node.module}.{alias.name}' for alias in node.names)


def forbidden_imports(name, tree):
    """What the module `name` imports and may not."""
    room, found = room_of(name), []
    for imported in imports_of(tree):
        top = imported.split('.')[0]
        allowed = top not in ROOMS or top in ARROWS[room]
        if top == 'tests' and name.startswith('scripts/benchmark'):
            allowed = imported in OF_TESTS
        if top == 'scripts' and name in OF_SCRIPTS:
            allowed = imported in OF_SCRIPTS[name]
        if top not in ROOMS and room == 'models':
            allowed = top == 'torch' or top in sys.stdlib_module_names
        if not top or name not in LIBRARIES.get(top, {name}):
            allowed = False
        if not allowed:
            found.append(imported)
    return found


def active_statements(name, tree):
    """The statements of a module that do something on import."""
    permitted = {SHORT_SPINNING} if name in ('train.py', 'eval.py', 'scripts/benchmark.py') else set()
    if name.startswith('scripts/'):
        permitted.add(PROJECT_FIRST)
    if room_of(name) in ('scripts', 'train', 'eval', 'prepro_areas'):
        permitted.add(RUN_MAIN)
    passive = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return [ast.unparse(node) for node in tree.body
            if not isinstance(node, passive) and not is_text(node) and not is_constant(node)
            and ast.unparse(node) not in permitted]


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_constant(node):
    """Whether a statement gives values to plain names alone (and calls nothing that touches the world)."""
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


@pytest.mark.parametrize('name', SOURCES)
def test_nothing_runs_on_import(name):
    assert active_statements(name, tree_of(name)) == []


@pytest.mark.parametrize('name', SOURCES)
def test_the_search_path_is_left_alone_but_for_one_line_in_scripts(name):
    assert path_edits(name, tree_of(name)) == []


def test_each_script_puts_the_project_first_and_each_library_has_its_places():
    for name in SOURCES:
        if name.startswith('scripts/'):
            assert PROJECT_FIRST in map(ast.unparse, tree_of(name).body), name
    for library, places in LIBRARIES.items():
        users = {name for name in SOURCES if any(
            imported.split('.')[0] == library for imported in imports_of(tree_of(name)))}
        assert users == places  # a place that no longer needs it leaves the list


@pytest.mark.parametrize('name, source', [
    ('misc/a.py', 'import opts'), ('misc/a.py', 'from dataloader import Corpus'),
    ('misc/a.py', 'import models.x'), ('models/a.py', 'from misc import cli'),
    ('models/a.py', 'import numpy'), ('models/a.py', 'from . import b'),
    ('misc/a.py', 'def f():\n    from train import main'), ('train.py', 'from tests import naive'),
    ('scripts/make.py', 'from tests import naive'), ('scripts/benchmark.py', 'from tests import tiny'),
    ('scripts/make.py', 'import train'), ('scripts/make.py', 'from scripts.make_bu_data import convert'),
    ('scripts/check_setup.py', 'from scripts.pack_features import main'),
    ('misc/a.py', 'from pycocoevalcap.bleu.bleu import Bleu'),
    ('misc/a.py', 'import h5py'), ('opts.py', 'import dataloader'), ('dataloader.py', 'import models')])
def test_a_wrong_import_would_be_seen(name, source):
    assert forbidden_imports(name, ast.parse(source))


@pytest.mark.parametrize('name, source', [
    ('misc/a.py', 'print(1)'), ('misc/a.py', 'for i in range(3):\n    pass'), ('misc/a.py', 'A[0] = 1'),
    ('misc/a.py', 'import os\nos.environ["A"] = "1"'), ('misc/a.py', SHORT_SPINNING),
    ('misc/a.py', RUN_MAIN), ('scripts/make.py', SHORT_SPINNING),
    ('misc/a.py', 'TEXT = open("x").read()'), ('misc/a.py', PROJECT_FIRST), ('train.py', 'main()')])
def test_work_on_import_would_be_seen(name, source):
    assert active_statements(name, ast.parse(source))


def test_an_edit_of_the_search_path_would_be_seen():
    assert path_edits('misc/a.py', ast.parse('def f():\n    sys.path.append("x")'))
    assert path_edits('scripts/a.py', ast.parse(PROJECT_FIRST + '\nsys.path.append("x")'))
    assert not path_edits('scripts/a.py', ast.parse(PROJECT_FIRST))
