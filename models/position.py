"""Where a region is: the spatial encodings of `spatial_pe`, and the sinusoid of word positions.

A is an embedded region, G its grid vector as a (g, g) map, u and w its vertical and horizontal profile.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.dropout import Dropout


class PositionEncoding(nn.Module):
    """Base of the encodings: a module of embedded regions and one tensor of the batch, named by `needs`."""

    needs = 'grids'

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)


class GridProfiles(PositionEncoding):
    """`gxg`, learned: A' = Dropout(Wf A + bf + (W1 u + b1) + (W2 w + b2))."""

    def __init__(self, size: int, side: int, dropout: float) -> None:
        super().__init__(dropout)
        self.rows, self.columns = nn.Linear(side, size), nn.Linear(side, size)
        self.features = nn.Linear(size, size)

    def forward(self, regions: Tensor, grids: Tensor) -> Tensor:
        """Embedded regions (M, d), grid vectors (M, g*g) -> (M, d)."""
        vertical, horizontal = profiles(grids)
        return self.dropout(self.features(regions) + self.rows(vertical) + self.columns(horizontal))


class GridCells(PositionEncoding):
    """`g2`, learned: A' = Dropout(A + W G + b), G flat."""

    def __init__(self, size: int, side: int, dropout: float) -> None:
        super().__init__(dropout)
        self.cells = nn.Linear(side * side, size)

    def forward(self, regions: Tensor, grids: Tensor) -> Tensor:
        """Embedded regions (M, d), grid vectors (M, g*g) -> (M, d)."""
        return self.dropout(regions + self.cells(grids))


class BoxCoordinates(PositionEncoding):
    """`box-coord`, learned: A' = Dropout(A + MLP(x, y, w, h)); x, y the top left corner."""

    needs = 'boxes'

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__(dropout)
        self.hidden, self.out = nn.Linear(4, size // 2), nn.Linear(size // 2, size)

    def forward(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """Embedded regions (M, d), boxes x1 y1 x2 y2 relative to the image (M, 4) -> (M, d)."""
        corner = boxes[:, :2]
        sizes = boxes[:, 2:] - corner
        return self.dropout(regions + self.out(F.relu(self.hidden(torch.cat((corner, sizes), 1)))))


class FixedProfiles(PositionEncoding):
    """Not learned: A' = Dropout(A + sum_r u_r PE1_r + sum_c w_c PE2_c), PE1 the sinusoid over the g rows, PE2
    over the columns with sine and cosine exchanged."""

    row_table: Tensor
    column_table: Tensor

    def __init__(self, size: int, side: int, dropout: float) -> None:
        super().__init__(dropout)
        self.register_buffer('row_table', sinusoid(side, size), persistent=False)
        self.register_buffer('column_table', sinusoid(side, size, exchanged=True), persistent=False)

    def forward(self, regions: Tensor, grids: Tensor) -> Tensor:
        """Embedded regions (M, d), grid vectors (M, g*g) -> (M, d)."""
        vertical, horizontal = profiles(grids)
        return self.dropout(regions + vertical @ self.row_table + horizontal @ self.column_table)


def position_encoding(kind: str, learned: bool, size: int, side: int, dropout: float) -> PositionEncoding:
    """The module for `--enc_pos_type kind` (`gxg`, `g2`, `box-coord`), learned or fixed."""
    if not learned:
        return FixedProfiles(size, side, dropout)
    if kind == 'box-coord':
        return BoxCoordinates(size, dropout)
    return {'gxg': GridProfiles, 'g2': GridCells}[kind](size, side, dropout)


def profiles(grids: Tensor) -> tuple[Tensor, Tensor]:
    """Grid vectors (M, g*g) -> vertical and horizontal profile, each (M, g).

    The vertical profile is the sum over the columns of the (g, g) map, one number per row; the horizontal one
    the sum over its rows.
    """
    side = math.isqrt(grids.shape[1])
    cells = grids.view(-1, side, side)
    return cells.sum(2), cells.sum(1)


def sinusoid(positions: int, size: int, exchanged: bool = False) -> Tensor:
    """The table (positions, size) of Vaswani et al. 2017, section 3.5: sine on even, cosine on odd channels,
    wavelengths 2 pi 10000^(2i/size); `exchanged`: cosine on even, sine on odd."""
    angle = torch.arange(positions)[:, None] * torch.exp(
        torch.arange(0, size, 2) * (-math.log(10000.0) / size))  # (positions, size / 2)
    table = torch.zeros(positions, size)
    table[:, 0::2] = angle.cos() if exchanged else angle.sin()
    table[:, 1::2] = (angle.sin() if exchanged else angle.cos())[:, :size // 2]
    return table
