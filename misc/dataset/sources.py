"""Which files a data set consists of, and how its arrays are read: plain values, no file is touched."""

from dataclasses import dataclass

# Kind of arrays (see misc/dataset/array_files.py): the flag that names where they are.
FLAGS = {'att': 'input_img_feat_dir', 'fc': 'input_fc_feat_dir', 'box': 'input_box_dir',
         'rel': 'input_rel_box_dir', 'grid': 'input_grid_vec_dir'}


@dataclass(frozen=True)
class Sources:
    """The files of a data set and the settings they are read with; names are those of the command-line flags.

    Folders may be packed HDF5 files instead.  None or '' stands for a source that is not given.
    """

    input_json: str
    input_label_h5: str
    input_img_feat_dir: str
    input_fc_feat_dir: str | None = None
    input_grid_vec_dir: str | None = None
    input_box_dir: str | None = None
    input_rel_box_dir: str | None = None
    num_grids: int = 144          # cells of the grid, a perfect square
    img_feat_size: int = 2048     # numbers per region feature
    norm_img_feat: bool = False   # scale each region's feature to length 1
    norm_box_feat: bool = False   # scale each grid vector or box to length 1
