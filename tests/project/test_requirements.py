"""The pinned packages are those that the source imports, or a comment says what needs them."""

import ast
import functools
import importlib.metadata
import re
import sys

from tests.helpers import ROOT

OWN = {'dataloader', 'eval', 'misc', 'models', 'opts', 'prepro_areas', 'scripts', 'tests', 'train'}

BROUGHT_BY_TORCH = {'triton'}  # by its wheels with CUDA, in the version that they need


def pinned(name):
    """{package, in lower case: the comment after its version, or nothing} of a requirements file."""
    text = (ROOT / name).read_text(encoding='utf-8')
    return {package.lower().replace('_', '-'): comment
            for package, comment in re.findall(r'^([\w.-]+)==\S+ *(.*)$', text, re.M)}


@functools.cache
def packages_of_modules():
    """{module: the packages that install it}."""
    return importlib.metadata.packages_distributions()


def imported(*patterns):
    """The packages, in lower case, that source files import from outside the project and the standard library."""
    names = set()
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split('.')[0])
    of_module = packages_of_modules()
    return {of_module.get(name, [name])[0].lower().replace('_', '-')
            for name in names - OWN - sys.stdlib_module_names}


def test_each_import_is_pinned_and_each_pin_is_imported_or_explained():
    packages = {**pinned('requirements.txt'), **pinned('requirements-features.txt'),
                **pinned('requirements-tensorboard.txt')}
    used = imported('*.py', 'models/**/*.py', 'misc/**/*.py', 'scripts/**/*.py') - BROUGHT_BY_TORCH
    assert used <= set(packages)
    assert {package for package, comment in packages.items() if not comment} <= used


def test_what_only_the_tests_import_is_pinned_among_theirs():
    assert imported('tests/**/*.py') - BROUGHT_BY_TORCH <= {package for name in (
        'requirements.txt', 'requirements-features.txt', 'tests/requirements.txt') for package in pinned(name)}
