"""The reference captions of the images that are evaluated, and the scores of their captions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from misc.cli import DataError, note
from misc.evaluation.captioning import ImageCaptions
from misc.scoring.references import ImageId, load_references


@dataclass(frozen=True)
class Scores:
    """The scores of a split's captions.

    overall    {metric: score of the whole set}
    per_image  {image id: {metric: score}}
    several    scores of all captions of the images together (diversity, CIDEr of the best); {} if each has one
    """

    overall: dict[str, float] = field(default_factory=dict)
    per_image: dict[ImageId, dict[str, float]] = field(default_factory=dict)
    several: dict[str, float] = field(default_factory=dict)


def references_of(ids: Collection[ImageId], input_json: str,
                  coco_json: str | None = None) -> dict[ImageId, list[str]]:
    """{image id: reference captions} of the images `ids`, from `coco_json` if given, else from `input_json`.

    Raises `DataError` if an image has none.
    """
    references = load_references(None if coco_json else input_json, coco_json)
    missing = [image_id for image_id in ids if not references.get(image_id)]
    if missing:
        raise DataError(f'{len(missing)} of {len(ids)} images have no reference captions in '
                        f'{coco_json or input_json}: '
                        f'{", ".join(map(str, missing[:5]))}{", ..." if len(missing) > 5 else ""}\n'
                        'name a COCO caption-annotation file with --coco_json, or leave out --language_eval')
    return {image_id: references[image_id] for image_id in ids}


def score_captions(results: Sequence[ImageCaptions], references: Mapping[ImageId, Sequence[str]],
                   several: bool = False) -> Scores:
    """Score the first caption of each image, and with `several` all of its captions together.

    Notes on metrics that cannot be computed go to standard error.
    """
    from misc.scoring.metrics import score
    overall, per_image, notes = score({image.image_id: image.first.text for image in results}, references,
                                      show_progress=True)
    for line in notes:
        note(f'note: {line}')
    return Scores(overall, per_image, several_scores(results, references) if several else {})


def several_scores(results: Sequence[ImageCaptions], references: Mapping[ImageId, Sequence[str]]) -> dict[str, float]:
    """The mean over images of the highest CIDEr of their captions, and the diversity of those."""
    from misc.scoring.diversity import diversity
    from misc.scoring.metrics import oracle_cider
    captions = {image.image_id: [caption.text for caption in image.captions] for image in results}
    scores = {'oracle_CIDEr': oracle_cider(captions, references)}
    if min(map(len, captions.values())) > 1:
        scores.update(diversity(captions))
    return scores
