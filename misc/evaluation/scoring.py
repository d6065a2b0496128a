"""The reference captions of the images that are evaluated, and the scores of their captions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from misc.cli import DataError, note
from misc.evaluation.captioning import ImageCaptions
from misc.scoring.checks import vocabulary_warning
from misc.scoring.endings import bad_endings, describe
from misc.scoring.references import ImageId, References, read_references


@dataclass(frozen=True)
class Scores:
    """The scores of a split's captions.

    overall      {metric: score of the whole set}
    per_image    {image id: {metric: score}}, of the images that have references
    several      scores of all captions of the images together (diversity, CIDEr of the best); {} if each has one
    scored_by    how they were scored: {'score_tokens': the kind of the references, 'tokenizer': its name}
    bad_endings  the share of captions that break off, see `misc.scoring.endings`; None where that is not known
    """

    overall: dict[str, float] = field(default_factory=dict)
    per_image: dict[ImageId, dict[str, float]] = field(default_factory=dict)
    several: dict[str, float] = field(default_factory=dict)
    scored_by: dict[str, str] = field(default_factory=dict)
    bad_endings: float | None = None


def references_of(ids: Collection[ImageId], input_json: str, coco_json: str | None = None, score_tokens: str = 'auto',
                  vocabulary: Collection[str] = ()) -> References:
    """The reference captions of the images `ids`, from `coco_json` if given, else from `input_json`; see
    `misc.scoring.references.read_references`.

    Warns where few of their words are in the model's `vocabulary`.  Raises `DataError` if an image has none, unless
    all of its captions were rejected.
    """
    source = coco_json or input_json
    references = read_references(None if coco_json else input_json, coco_json, score_tokens)
    missing = [image_id for image_id in ids if image_id not in references.captions.keys() | references.left_out]
    if missing:
        raise DataError(f'{len(missing)} of {len(ids)} images have no reference captions in {source}: '
                        f'{", ".join(map(str, missing[:5]))}{", ..." if len(missing) > 5 else ""}\n'
                        'name a COCO caption-annotation file with --coco_json, or leave out --language_eval; then '
                        'python scripts/score_captions.py --predictions vis/vis.json --common 1 scores the others')
    captions = {image_id: references.captions[image_id] for image_id in ids if image_id in references.captions}
    if not captions:
        raise DataError(f'the captions of all {len(ids)} images are marked as rejected or pre-canned in {source}')
    warning = vocabulary and vocabulary_warning(captions, references.kind, vocabulary, source)
    if warning:
        note(warning)
    return replace(references, captions=captions)


def score_captions(results: Sequence[ImageCaptions], references: References, several: bool = False) -> Scores:
    """Score the first caption of each image that has references, and with `several` all of its captions together.

    Notes on metrics that cannot be computed go to standard error.
    """
    from misc.scoring.metrics import scored
    results = [image for image in results if image.image_id in references.captions]
    found = scored({image.image_id: image.first.text for image in results}, references.captions, show_progress=True,
                   kind=references.kind)
    for line in found.notes:
        note(f'note: {line}')
    share = bad_endings((image.first.text for image in results), references.captions.values())
    if share is not None:
        note(f'note: {describe(share)}')
    return Scores(found.overall, found.per_image, several_scores(results, references) if several else {},
                  {'score_tokens': references.kind, 'tokenizer': found.tokenizer}, share)


def several_scores(results: Sequence[ImageCaptions], references: References) -> dict[str, float]:
    """The mean over images of the highest CIDEr of their captions, and the diversity of those."""
    from misc.scoring.diversity import diversity
    from misc.scoring.metrics import oracle_cider
    captions = {image.image_id: [caption.text for caption in image.captions] for image in results}
    scores = {'oracle_CIDEr': oracle_cider(captions, references.captions, kind=references.kind)}
    if min(map(len, captions.values())) > 1:
        scores.update(diversity(captions))
    return scores
