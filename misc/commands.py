"""Every "make it with:" command that a message of the project gives, once."""

import os

LABELS = ('python scripts/prepro_labels.py --input_json data/dataset_coco.json '
          '--output_json data/cocotalk.json --output_h5 data/cocotalk')
DATASET = 'python scripts/make_dataset.py {flag} {path} --output_json {output}'
NGRAMS = ('python scripts/prepro_ngrams.py --input_json data/dataset_coco.json '
          '--dict_json data/cocotalk.json --output_pkl data/coco-train --split train')
FEATURES = 'python scripts/make_bu_data.py --output_dir data/cocobu'
IMPORT = 'python scripts/import_features.py --input {path} --output_dir data/theirs'
AREAS = ('python prepro_areas.py --input_dir data/cocobu_box --output_dir data/cocobu_box_vec '
         '--num_grids {cells}')
RELATIVE = ('python scripts/prepro_bbox_relative_coords.py --input_json data/dataset_coco.json '
            '--image_root IMAGE_ROOT --input_box_dir data/cocobu_box '
            '--output_dir data/cocobu_box_relative')
PACK = ('python scripts/pack_features.py --input_img_feat_dir data/cocobu_att '
        '--input_box_dir data/cocobu_box --output_file data/cocobu.h5')
TRAIN = ('python train.py --id {name} --caption_model spatial_pe --input_json {data}.json '
         '--input_label_h5 {data}_label.h5 --input_img_feat_dir {regions}_att --input_box_dir {regions}_box '
         '--checkpoint_path checkpoints/{name} --val_images_use -1')
REGIONS = 'python scripts/extract_regions.py --images_root PICTURES --output_dir data/mine --detector grid'
REGIONS_OF_COCO = ('python scripts/extract_regions.py --input_json data/dataset_coco.json '
                   '--images_root IMAGE_ROOT --output_dir data/cocobu --detector fasterrcnn')
REGIONS_OF_SPLIT = ('python scripts/extract_regions.py --input_json DATASET.json --images_root PICTURES '
                    '--output_dir {output} {how}')
INSTALL = 'python -m pip install -r requirements.txt'
FEATURE_PACKAGES = 'python -m pip install --no-deps -r requirements-features.txt'


def labels_base(split_file: str) -> str:
    """The files of labels that commands propose for a split file, without their ends: data/mine for
    data/dataset_mine.json, so data/mine.json and data/mine_label.h5; never the split file itself."""
    folder, name = os.path.split(split_file)
    stem = name.removesuffix('.json')
    base = 'cocotalk' if stem == 'dataset_coco' else stem.removeprefix('dataset_')
    return os.path.join(folder, f'{base}_talk' if base == stem else base)
