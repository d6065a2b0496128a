"""Where a region is: the spatial encodings of `spatial_pe`, and the sinusoid of word positions."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.dropout import dropout


def sinusoid(positions, size, exchanged=False):
    """The usual table (positions, size): sine on even, cosine on odd channels, wavelengths
    10000^(2i/size) (Vaswani et al. 2017); `exchanged`: cosine on even, sine on odd."""
    angle = torch.arange(positions)[:, None] * torch.exp(
        torch.arange(0, size, 2) * (-math.log(10000.0) / size))  # (positions, size / 2)
    table = torch.zeros(positions, size)
    table[:, 0::2] = angle.cos() if exchanged else angle.sin()
    table[:, 1::2] = (angle.sin() if exchanged else angle.cos())[:, :size // 2]
    return table


def profiles(grids):
    """Grid vectors (M, g*g) -> vertical and horizontal profile, each (M, g).

    The vertical profile is the sum over the columns of the (g, g) map (one number per row),
    the horizontal one the sum over its rows.
    """
    side = math.isqrt(grids.shape[1])
    cells = grids.view(-1, side, side)
    return cells.sum(2), cells.sum(1)


class GridProfiles(nn.Module):
    """`gxg`, learned: A' = Dropout(Wf A + bf + (W1 u + b1) + (W2 w + b2)), u and w the profiles."""

    needs = 'grids'

    def __init__(self, size, side, dropout):
        super().__init__()
        self.rows, self.columns = nn.Linear(side, size), nn.Linear(side, size)
        self.features = nn.Linear(size, size)
        self.dropout = dropout

    def forward(self, regions, grids):
        """Embedded regions (M, d), grid vectors (M, g*g) -> (M, d)."""
        vertical, horizontal = profiles(grids)
        placed = self.features(regions) + self.rows(vertical) + self.columns(horizontal)
        return dropout(placed, self.dropout, self.training)


class GridCells(nn.Module):
    """`g2`, learned: A' = Dropout(A + W G + b), G the flat grid vector."""

    needs = 'grids'

    def __init__(self, size, side, dropout):
        super().__init__()
        self.cells = nn.Linear(side * side, size)
        self.dropout = dropout

    def forward(self, regions, grids):
        """Embedded regions (M, d), grid vectors (M, g*g) -> (M, d)."""
        return dropout(regions + self.cells(grids), self.dropout, self.training)


class BoxCoordinates(nn.Module):
    """`box-coord`, learned: A' = Dropout(A + MLP(x, y, w, h)); x, y the top left corner."""

    needs = 'boxes'

    def __init__(self, size, dropout):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, size // 2), nn.Linear(size // 2, size)
        self.dropout = dropout

    def forward(self, regions, boxes):
        """Embedded regions (M, d), relative corner boxes x1 y1 x2 y2 (M, 4) -> (M, d)."""
        corner = boxes[:, :2]
        placed = self.out(F.relu(self.hidden(torch.cat((corner, boxes[:, 2:] - corner), 1))))
        return dropout(regions + placed, self.dropout, self.training)


class FixedProfiles(nn.Module):
    """Without learning: A' = Dropout(A + sum_r u_r PE1_r + sum_c w_c PE2_c), PE1 the sinusoid over
    the g rows, PE2 over the columns with sine and cosine exchanged."""

    needs = 'grids'

    def __init__(self, size, side, dropout):
        super().__init__()
        self.register_buffer('row_table', sinusoid(side, size), persistent=False)
        self.register_buffer('column_table', sinusoid(side, size, exchanged=True), persistent=False)
        self.dropout = dropout

    def forward(self, regions, grids):
        """Embedded regions (M, d), grid vectors (M, g*g) -> (M, d)."""
        vertical, horizontal = profiles(grids)
        placed = regions + vertical @ self.row_table + horizontal @ self.column_table
        return dropout(placed, self.dropout, self.training)


def build_place(kind, learned, size, side, dropout):
    """The module for `--enc_pos_type kind` (`gxg`, `g2`, `box-coord`), learned or fixed."""
    if not learned:
        return FixedProfiles(size, side, dropout)
    if kind == 'box-coord':
        return BoxCoordinates(size, dropout)
    return {'gxg': GridProfiles, 'g2': GridCells}[kind](size, side, dropout)
