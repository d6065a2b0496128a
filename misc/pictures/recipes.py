"""Which recipe regions are found by: one made from the flags of a command, or that of the models in use.

A recipe is a plain dict that says how regions were found; misc/dataset/recipe.py describes, reads and checks it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from misc.cli import UsageError, note
from misc.dataset import recipe
from misc.dataset.networks import DEFAULT_NETWORK, DETECTOR, NETWORKS


@dataclass(frozen=True)
class RecipeFlags:
    """The flags that choose a recipe; None where a flag was not given."""

    detector: str | None = None
    cnn_model: str | None = None
    cnn_layout: str | None = None
    cnn_weight_dir: str | None = None


def new_recipe(detector: str, settings: Mapping[str, Any], cnn_model: str, layout: str | None = None,
               folder: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """The recipe of `detector` (one of `recipe.DETECTORS`) with `settings`, {name: value}.

    Its weights are those found in `folder`, or where misc/pictures/weights.py searches, or random ones drawn
    with `seed`.  Raises `DataError` where there are none, and `UsageError` where `layout` is None and the name
    of the weight file does not tell the layout.
    """
    from misc.pictures import weights  # loads torchvision
    found = {'detector': detector, **{name: settings[name] for name in recipe.SETTINGS[detector]}}
    networks = {'cnn_weights': cnn_model}
    if detector == 'fasterrcnn':
        networks['detector_weights'] = DETECTOR
    paths = weights.find_files(networks.values(), folder) if seed is None else []
    layout = layout or (weights.layout_of(paths[0], cnn_model) if paths else 'torchvision')
    if layout is None:
        raise UsageError(f'{paths[0]} may hold weights of either layout, and the wrong layout computes wrong '
                         'features without an error; give --cnn_layout caffe if they were converted from Caffe (as '
                         'the published file of that name was), --cnn_layout torchvision if they are '
                         "torchvision's")
    found.update(cnn_model=cnn_model, cnn_layout=layout)
    ids = (map(weights.weights_id, paths) if seed is None else [weights.random_weights_id(seed)] * len(networks))
    found.update(zip(networks, ids))
    return found


def recipe_for_models(runs: Sequence[tuple[str, Mapping[str, Any]]], flags: RecipeFlags) -> dict[str, Any]:
    """The recipe for pictures that models are to caption: that of their training, or of `flags.detector`.

    runs: the path and the content of each model's infos file.  Raises `UsageError` where the training's recipe
    is unknown, differs between the models, or contradicts `flags`, and `DataError` where it is broken.
    """
    for path, infos in runs:
        regions = infos.get('regions')
        if regions is not None:
            recipe.checked_recipe(regions, path)
        network = flags.cnn_model or (regions['cnn_model'] if regions else DEFAULT_NETWORK)
        check_feature_size(path, infos['opt'].get('img_feat_size'), NETWORKS[network].width)
    recipes = [infos.get('regions') for _, infos in runs]
    trained = recipes[0] if all(one == recipes[0] for one in recipes) else None
    if flags.detector:
        return recipe_of_detector(flags.detector, flags, trained)
    for path, infos in runs:
        if infos.get('regions') is None:
            raise UsageError(
                f'{path} does not say how the regions of its features were found: they come from elsewhere, '
                'such as the bottom-up-attention archive, whose extractor is not part of this project;\n'
                'train on features of scripts/extract_regions.py, or use other regions all the same with '
                '--detector grid or fasterrcnn: their features look alike but mean something else, so expect '
                'poor captions')
    if trained is None:
        described = '; '.join(recipe.describe(one) for one in recipes if one)
        raise UsageError('the models of the ensemble were trained on regions found in different ways '
                         f'({described}); give models trained on the same kind of regions')
    for name in ('cnn_model', 'cnn_layout'):
        if getattr(flags, name) not in (None, trained[name]):
            raise UsageError(f'--{name} {getattr(flags, name)} contradicts {runs[0][0]}, whose features come from '
                             f'{trained[name]}; leave the flag out')
    return trained


def warn_of_other_recipe(found: Mapping[str, Any] | None, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Warn where features are read whose recipe, `found`, is not that of a model's training; None: not recorded.

    runs: the path and the content of each model's infos file; those of legacy checkpoints record no recipe.
    """
    for path, infos in runs:
        if 'regions' in infos and infos['regions'] != found:
            was, now = (recipe.describe(one) if one else 'those of another origin'
                        for one in (infos['regions'], found))
            note(f'warning: the model of {path} was trained on these features: {was}; the features given here are '
                 f'{now}. Expect poor captions from other features; give those that it was trained with')


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
                getattr(flags, name) in (None, trained[name]) for name in ('cnn_model', 'cnn_layout')):
            return trained
        settings = {**recipe.DEFAULTS, **trained}
    chosen = new_recipe(detector, settings, flags.cnn_model or DEFAULT_NETWORK, flags.cnn_layout,
                        flags.cnn_weight_dir)
    if chosen != trained:
        was = recipe.describe(trained) if trained else 'features of another origin'
        note(f'warning: the model was trained on {was}; expect poor captions from other features')
    return chosen
