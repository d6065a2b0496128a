"""Which recipe regions are found by: one made from the flags of a command, or that of the models in use.

A recipe is a plain dict that says how regions were found; misc/dataset/recipe.py describes, reads and checks it.
"""

import ast
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from misc.cli import DataError, UsageError, note
from misc.dataset import recipe
from misc.dataset.networks import DEFAULT_NETWORK, DETECTOR, TWO_LAYOUTS
from misc.disk.files import open_regular


@dataclass(frozen=True)
class RecipeFlags:
    """The flags that choose a recipe; None where a flag was not given."""

    detector: str | None = None
    cnn_model: str | None = None
    cnn_layout: str | None = None
    cnn_weight_dir: str | None = None
    extractor: str | None = None


def new_recipe(detector: str, settings: Mapping[str, Any], cnn_model: str, layout: str | None = None,
               folder: str | None = None, seed: int | None = None,
               input_sizes: Sequence[int | None] = ()) -> dict[str, Any]:
    """The recipe of `detector` (one of `recipe.DETECTORS`) with `settings`, {name: value}.

    cnn_model: the network, or several joined by '+'; input_sizes: the sides in pixels of the pictures that they see,
    one for each or one for all, where these are not their own.  The weights are those found in `folder`, or where
    misc/pictures/weights.py searches, or random ones drawn with `seed`.  Raises `DataError` where there are none, and
    `UsageError` for networks that do not exist, and where `layout` is None and the name of the weight file does not
    tell the layout.
    """
    from misc.pictures import cnn, weights  # loads torchvision
    names = cnn_model.split('+')
    for name in names:
        cnn.check_name(name)
    if layout and not set(names) & set(TWO_LAYOUTS):
        raise UsageError(f'--cnn_layout {layout} is for {" and ".join(TWO_LAYOUTS)} alone; leave it out')
    if len(input_sizes) not in (0, 1, len(names)):
        raise UsageError(f'--input_size {"+".join(map(str, input_sizes))} has {len(input_sizes)} numbers and '
                         f'--cnn_model {len(names)} networks; give one for all, or one for each')
    sizes: list[int | None] = [*input_sizes] or [None]
    sizes *= len(names) // len(sizes)
    wanted = [*names, DETECTOR] if detector == 'fasterrcnn' else names
    paths: Sequence[str | None] = [None] * len(wanted) if seed is not None else weights.find_files(wanted, folder)
    ids = [weights.weights_id(path) if path else weights.random_weights_id(seed or 0) for path in paths]
    networks = [
        replace(cnn.describe_network(name, path, size, layout_for(name, layout, path)), weights=mark)
        for name, path, size, mark in zip(names, paths, sizes, ids)]
    found = {'detector': detector, **{name: settings[name] for name in recipe.SETTINGS[detector]},
             **recipe.recorded_networks(networks)}
    return found | ({'detector_weights': ids[-1]} if detector == 'fasterrcnn' else {})


def extractor_recipe(path: str, longest_side: float) -> dict[str, Any]:
    """The recipe of the user's own file at `path` (see misc/pictures/extractor.py), which is read, not run.

    Raises `UsageError` where there is no such file, `DataError` where it is no Python.
    """
    if not os.path.isfile(path) or not path.endswith('.py'):
        raise UsageError(f'--extractor: there is no Python file {path}; docs/pictures.md shows what it holds')
    return {'detector': 'extractor', 'extractor': os.path.basename(path),
            'extractor_digest': f'{recipe.DIGEST} {extractor_digest(path)}', 'longest_side': longest_side}


def extractor_digest(path: str) -> str:
    """The SHA-256 of an extractor's file and of those that it lists as FILES, a tuple of strings."""
    with open_regular(path) as file:
        source = file.read()
    try:
        files: tuple[str, ...] = ()
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and any(ast.unparse(target) == 'FILES' for target in node.targets):
                files = tuple(os.path.join(os.path.dirname(path), name) for name in ast.literal_eval(node.value))
    except (SyntaxError, ValueError, TypeError) as error:
        raise DataError(f'--extractor: {path} cannot be read as Python with FILES, if there are any, as strings: '
                        f'{error}') from None
    digest = hashlib.sha256(source)
    for name in files:
        try:
            with open_regular(name) as file:
                digest.update(hashlib.file_digest(file, 'sha256').digest())
        except OSError as error:
            raise DataError(f'--extractor: {path} lists {name} in FILES: {error.strerror or error}') from None
    return digest.hexdigest()


def repeated_cells(found: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each network of a recipe whose last map has fewer places than the grid has cells."""
    from misc.pictures import cnn  # loads torchvision
    side = found.get('grid_size', 0)
    for network in recipe.networks_of(found):
        if network.input_size is None:   # the size of the map depends on the picture
            continue
        _, height, width = cnn.map_shape(network)
        if min(height, width) < side:
            yield (f'warning: the last map of {network.name} has {width} x {height} places, fewer than the '
                   f'{side} x {side} cells of the grid, so neighbours share features; take --grid_size '
                   f'{min(height, width)}, or larger pictures, such as --input_size {32 * side}')


def layout_for(name: str, layout: str | None, path: str | None) -> str | None:
    """The layout of a network of `TWO_LAYOUTS`, None for others: `layout` if it is given, else what the name of the
    weight file tells.  Raises `UsageError` where it tells nothing; path: None for random weights."""
    from misc.pictures import weights  # loads torchvision
    if name not in TWO_LAYOUTS:
        return None
    found = layout or (weights.layout_of(path, name) if path else 'torchvision')
    if found is None:
        raise UsageError(f'{path} may hold weights of either layout, and the wrong layout computes wrong '
                         'features without an error; give --cnn_layout caffe if they were converted from Caffe (as '
                         'the published file of that name was), --cnn_layout torchvision if they are '
                         "torchvision's")
    return found


def recipe_for_models(runs: Sequence[tuple[str, Mapping[str, Any]]], flags: RecipeFlags) -> dict[str, Any]:
    """The recipe for pictures that models are to caption: that of their training, or of `flags.detector` or
    `flags.extractor`.

    runs: the path and the content of each model's infos file.  Raises `UsageError` where the training's recipe
    is unknown, differs between the models, or contradicts `flags`, and `DataError` where it is broken.
    """
    for path, infos in runs:
        regions = infos.get('regions')
        if regions is not None:
            recipe.checked_recipe(regions, path)
    if flags.extractor:
        return recipe_of_extractor(flags.extractor, runs)
    recipes = [infos.get('regions') for _, infos in runs]
    trained = recipes[0] if all(one == recipes[0] for one in recipes) else None
    for path, infos in runs:
        check_own_file(path, infos.get('regions'), flags)
        check_feature_size(path, infos['opt'].get('img_feat_size'), width_of(flags, infos.get('regions')))
    if flags.detector:
        return recipe_of_detector(flags.detector, flags, trained)
    for path, infos in runs:
        if infos.get('regions') is None:
            raise UsageError(
                f'{path} does not say how the regions of its features were found: they come from elsewhere, '
                'such as the bottom-up-attention archive, whose extractor is not part of this project;\n'
                'name the code that makes such features with --extractor FILE.py (docs/pictures.md), train on '
                'features of scripts/extract_regions.py, or use other regions all the same with --detector grid or '
                'fasterrcnn: their features look alike but mean something else, so expect poor captions')
    if trained is None:
        described = '; '.join(recipe.describe(one) for one in recipes if one)
        raise UsageError('the models of the ensemble were trained on regions found in different ways '
                         f'({described}); give models trained on the same kind of regions')
    for name, value in named(trained).items():
        if getattr(flags, name) not in (None, value):
            raise UsageError(f'--{name} {getattr(flags, name)} contradicts {runs[0][0]}, whose features come from '
                             f'{value or named(trained)["cnn_model"]}; leave the flag out')
    return trained


def check_own_file(path: str, regions: Mapping[str, Any] | None, flags: RecipeFlags) -> None:
    """Refuse to find regions as a file of the user's did, unless a flag names it: it is code, and a checkpoint may
    come from anywhere."""
    if regions is not None and 'extractor' in regions and not flags.detector:
        raise UsageError(f'the features of {path} are {recipe.describe(regions)}, a Python file, which is run only '
                         f'where you name it: give --extractor {regions["extractor"]}, if you have it and trust it')


def recipe_of_extractor(path: str, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The recipe of the user's own file, with a warning for each model that was not trained with it as it is now."""
    sides = [infos['regions']['longest_side'] for _, infos in runs if infos.get('regions')]
    chosen = extractor_recipe(path, sides[0] if sides else recipe.DEFAULTS['longest_side'])
    for infos_path, infos in runs:
        trained = infos.get('regions')
        if trained is None:
            note(f'note: {infos_path} does not say how the regions of its features were found; {path} is taken to be '
                 'what made them')
        elif trained.get('extractor_digest') != chosen['extractor_digest']:
            note(f'warning: the model of {infos_path} was trained on these features: {recipe.describe(trained)}; '
                 f'now they are {recipe.describe(chosen)}. Expect poor captions unless both compute the same')
    return chosen


def named(found: Mapping[str, Any]) -> dict[str, str | None]:
    """The flags that name the networks of a recipe, with their values; None for one that says nothing of them."""
    layouts = [network.layout for network in recipe.networks_of(found) if network.layout]
    return {'cnn_model': found['cnn_model'], 'cnn_layout': next(iter(layouts), None)}


def width_of(flags: RecipeFlags, regions: Mapping[str, Any] | None) -> int:
    """The numbers per region of the networks that the flags name, else of those of the recipe `regions`."""
    if regions is not None and 'extractor' not in regions and flags.cnn_model in (None, regions['cnn_model']):
        return recipe.feature_size(regions)
    from misc.pictures import cnn  # loads torchvision
    names = (flags.cnn_model or DEFAULT_NETWORK).split('+')
    for name in names:
        cnn.check_name(name)
    return sum(cnn.describe_network(name).width for name in names)


def warn_of_other_recipe(found: Mapping[str, Any] | None, path: str, infos: Mapping[str, Any]) -> bool:
    """Warn where features are read whose recipe, `found`, is not that of a model's training; None: not recorded.

    path, infos: a model's infos file and its content; that of legacy checkpoints records no recipe.  Returns whether
    there was a warning.
    """
    if infos.get('regions', found) == found:
        return False
    was, now = (recipe.describe(one) if one else 'those of another origin' for one in (infos['regions'], found))
    note(f'warning: the model of {path} was trained on these features: {was}; the features given here are '
         f'{now}. Expect poor captions from other features; give those that it was trained with')
    return True


def check_feature_size(path: str, size: int | None, width: int) -> None:
    """Raise `UsageError` for a model of features of another `size` than the `width` that is computed here."""
    if size and size != width:
        raise UsageError(f'{path} has img_feat_size {size}, but features of regions found here are {width} numbers '
                         'each; train on those of scripts/extract_regions.py')


def recipe_of_detector(detector: str, flags: RecipeFlags, trained: dict[str, Any] | None) -> dict[str, Any]:
    """The recipe of `detector` and the other `flags`, with a warning where it differs from `trained`, the recipe of
    the training (None: unknown, or not the same for all models)."""
    settings = recipe.DEFAULTS
    if trained is not None and trained['detector'] == detector:
        if not flags.cnn_weight_dir and all(
                getattr(flags, name) in (None, value) for name, value in named(trained).items()):
            return trained
        settings = {**recipe.DEFAULTS, **trained}
    names, sizes = flags.cnn_model or DEFAULT_NETWORK, []
    if trained is not None and trained['detector'] == detector and trained['cnn_model'] == names:
        sizes = [network.input_size for network in recipe.networks_of(trained)]
    chosen = new_recipe(detector, settings, names, flags.cnn_layout, flags.cnn_weight_dir, input_sizes=sizes)
    if chosen != trained:
        was = recipe.describe(trained) if trained else 'features of another origin'
        note(f'warning: the model was trained on {was}; expect poor captions from other features')
    return chosen
