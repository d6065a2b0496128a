"""Whether beam search's captions are much shorter than greedy ones, which sums of log-probabilities favour."""

from collections.abc import Callable
from typing import Any

SAMPLE = 50    # images that are also decoded greedily, at least if there are as many
FEWEST = 5     # images whose mean length says something
SHORT = 0.8    # of the greedy captions' mean length


class LengthCheck:
    """Decodes like `decode`, beam search with `beam_size`, and the first images with `greedy` too."""

    def __init__(self, decode: Callable[..., Any], greedy: Callable[..., Any], beam_size: int) -> None:
        self.decode, self.greedy, self.beam_size = decode, greedy, beam_size
        self.images = self.words = self.greedy_words = 0

    def __call__(self, model: Any, memory: Any, uniforms: Any) -> Any:
        """The captions of beam search."""
        found = self.decode(model, memory, uniforms)
        if self.images < SAMPLE:
            self.images += len(found.captions)
            self.words += int((found.captions[:, 0] > 0).sum())
            self.greedy_words += int((self.greedy(model, memory, uniforms).captions[:, 0] > 0).sum())
        return found

    def hint(self) -> str:
        """What to do where captions are much shorter than greedy ones, else ''."""
        if self.images < FEWEST or self.words >= SHORT * self.greedy_words:
            return ''
        return (f'hint: with --beam_size {self.beam_size} captions have {self.words / self.images:.1f} words on '
                f'average, greedy ones {self.greedy_words / self.images:.1f} (of {self.images} images): the sum of '
                'log-probabilities favours short captions. --length_penalty 0.7 ranks by sum / length^0.7, '
                '--max_ppl 1 by the mean')
