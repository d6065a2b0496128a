"""Every flag of `train.py` and `eval.py`, once, and the checks of their values."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, perfect_square
from misc.dataset.networks import LAYOUTS, names_in
from misc.dataset.sources import FLAGS, Sources
from misc.prepare.workers import cpu_count
from misc.scoring.references import SCORE_TOKENS
from misc.training.schedule import Plan, Schedule
from models.registry import MODELS, about, is_used, users

Options = argparse.Namespace  # of train.py or eval.py; never changed after it is made, see `replaced`

# The options that define a model; a checkpoint has its own.
MODEL_OPTIONS = ('caption_model', 'num_layers', 'input_encoding_size', 'ff_size', 'ff_activation',
                 'norm', 'heads', 'img_feat_size', 'cross_attn', 'enc_pos_embedding', 'enc_pos_type',
                 'num_grids', 'box_trignometric_embedding', 'legacy_extra_skip', 'rnn_type', 'hidden_size',
                 'att_hid_size', 'norm_img_feat', 'norm_box_feat', 'use_bn')
DROPOUT_RATES = ('dropout', 'drop_prob_lm')  # a run that began from a legacy checkpoint keeps these
# How a model's inputs are read; the models of an ensemble must agree on these.
INPUT_OPTIONS = ('img_feat_size', 'norm_img_feat', 'num_grids', 'norm_box_feat')
# The files of a data set that a run was trained with.
DATA_FILES = ('input_json', 'input_label_h5', 'input_img_feat_dir', 'input_fc_feat_dir', 'input_grid_vec_dir',
              'input_box_dir', 'input_rel_box_dir')
# Options whose change on resuming needs no note: where files are, what is logged and saved and when, the machine,
# how long to train, and what is recorded without being a flag.
NEUTRAL = (*DATA_FILES, 'cached_tokens', 'start_from', 'resume', 'checkpoint_path', 'id', 'device', 'num_workers',
           'matmul_precision', 'xlinear', 'cuda_graphs', 'losses_log_every', 'save_checkpoint_every',
           'save_every_minutes', 'keep_checkpoints', 'max_epochs', 'patience', 'load_best_score', 'keeps_rates',
           'vocab_size', 'seq_length')
# What --resume does not take over: where the run was, and whether it counted bests of another folder.
OF_ONE_START = ('start_from', 'resume', 'checkpoint_path', 'id', 'load_best_score')
# How eval.py decodes captions.
DECODING_OPTIONS = ('beam_size', 'sample_max', 'temperature', 'top_k', 'top_p', 'max_ppl', 'length_penalty',
                    'decoding_constraint', 'block_trigrams', 'remove_bad_endings', 'suppress_UNK', 'group_size',
                    'diversity_lambda', 'sample_n', 'seed')
FEATURE_SIZE = 2048   # numbers per region of the bottom-up-attention archive, where nothing else is known
OPTIMISERS = ('adam', 'adamw', 'rmsprop', 'adagrad', 'sgd', 'sgdm', 'sgdmom')


def flag(group: Any, name: str, help: str, default: bool = False) -> None:
    """A boolean flag: 0/1, true/false, and bare for 1."""
    group.add_argument(f'--{name}', type=boolean, nargs='?', const=True, default=default,
                       metavar='0|1', help=f'{help} (default: {int(default)})')


def one_of(*names: str) -> Callable[[str], str]:
    """An argparse type: one of `names`, in any case."""
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise argparse.ArgumentTypeError(f'{text!r} is not known; allowed are {", ".join(names)}')
        return text.lower()
    return parse


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the data set."""
    group = parser.add_argument_group('data')
    group.add_argument('--input_json', default='data/cocotalk.json', metavar='FILE',
                       help='vocabulary, splits and references, from scripts/prepro_labels.py')
    group.add_argument('--input_label_h5', default='data/cocotalk_label.h5', metavar='FILE',
                       help='captions as word indices, from scripts/prepro_labels.py')
    group.add_argument('--input_img_feat_dir', default='data/cocobu_att', metavar='DIR',
                       help='region features, ID.npz, or the packed file that scripts/pack_features.py makes '
                            'of them, which is faster to read (as for the other folders marked "or packed")')
    group.add_argument('--input_fc_feat_dir', metavar='DIR',
                       help='mean feature of each image, ID.npy (or packed), for the recurrent models; '
                            'without it the mean over the regions is taken')
    group.add_argument('--input_grid_vec_dir', metavar='DIR',
                       help='grid vectors of the regions, ID.npy, from prepro_areas.py (or packed); '
                            'without it they are computed from the boxes')
    group.add_argument('--input_box_dir', metavar='DIR',
                       help='boxes of the regions in pixels, ID.npy (or packed); image sizes come from the '
                            'packed file, DIR_sizes.json or --input_json')
    group.add_argument('--input_rel_box_dir', metavar='DIR',
                       help='boxes divided by width and height, ID.npy (or packed), from '
                            'scripts/prepro_bbox_relative_coords.py; makes image sizes unnecessary')
    flag(group, 'norm_img_feat', "scale each region's feature to length 1")
    flag(group, 'norm_box_feat', 'scale each grid vector (or box) to length 1')


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model."""
    group = parser.add_argument_group('model')
    group.add_argument('--caption_model', type=one_of(*MODELS), default='spatial_pe',
                       metavar='NAME',
                       help=f'a model that reads all words of a caption at once: {about(False)}; or a recurrent one: '
                            f'{about(True)}')
    group.add_argument('--num_layers', type=number_in(int, 1), default=6, metavar='N',
                       help='layers of the encoder and of the decoder')
    group.add_argument('--input_encoding_size', type=number_in(int, 2), default=512, metavar='N',
                       help='model size d of the transformers; size of an embedded word in the recurrent '
                            'models')
    group.add_argument('--ff_size', type=number_in(int, 1), default=2048, metavar='N',
                       help='inner size of the feed-forward networks')
    group.add_argument('--ff_activation', type=one_of('relu', 'gelu'), default='relu', metavar='NAME',
                       help='relu or gelu, inside the feed-forward networks')
    group.add_argument('--norm', type=one_of('layer', 'rms', 'deviation'), default='layer', metavar='NAME',
                       help='layer: layer normalisation; rms: root mean square, a little cheaper; deviation: '
                            'by the unbiased standard deviation, as in published relation transformers')
    group.add_argument('--heads', type=number_in(int, 1), default=8, metavar='N',
                       help='heads of dot-product attention; must divide the model size')
    group.add_argument('--img_feat_size', type=number_in(int, 1), metavar='N',
                       help="numbers in a region's feature (default: as many as those of --input_img_feat_dir have)")
    group.add_argument('--use_bn', type=number_in(int, 0, 2), default=0, metavar='0|1|2',
                       help=f'{users("use_bn")}: batch normalisation of the region features before '
                            'they are embedded (1), and of the embedded ones too (2); where features are '
                            'of very unequal scale')
    crossed = ' and '.join(name for name, model in MODELS.items() if model.default_cross == 'xlinear')
    group.add_argument('--cross_attn', type=one_of('xlinear', 'dot-product'), metavar='NAME',
                       help=f'attention of words to regions in {users("cross_attn")}: xlinear or dot-product '
                            f'(default: xlinear for {crossed}, dot-product for the others)')
    flag(group, 'enc_pos_embedding', 'spatial encoding learned (1), or fixed sinusoids over the grid (0)',
         True)
    group.add_argument('--enc_pos_type', type=one_of('gxg', 'g2', 'box-coord'), default='gxg',
                       metavar='NAME', help='learned spatial encoding: gxg (row and column profile of the '
                                            'grid vector), g2 (all its cells), box-coord (the box itself)')
    group.add_argument('--num_grids', type=perfect_square, default=144, metavar='N',
                       help='cells of the grid, a perfect square')
    flag(group, 'box_trignometric_embedding', 'relation_transformer: geometry as 64 sines and cosines (1), '
                                              'or as the four numbers themselves (0)', True)
    flag(group, 'legacy_extra_skip', "relation_transformer: add the input of the encoder's attention to its "
                                     'output, before the output layer; only for weights that were trained this '
                                     'way')
    group.add_argument('--rnn_type', type=one_of('lstm', 'gru'), default='lstm', metavar='NAME',
                       help=f'cell of {users("rnn_type")}: lstm, or gru (a quarter fewer weights)')
    group.add_argument('--hidden_size', type=number_in(int, 1), default=512, metavar='N',
                       help='size of the state of the recurrent models')
    group.add_argument('--att_hid_size', type=number_in(int, 1), default=512, metavar='N',
                       help=f'inner size of the attention of {users("att_hid_size")}')


def add_dropout_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of dropout, which concerns training alone, and may change between the phases of a run."""
    group = parser.add_argument_group('dropout')
    group.add_argument('--dropout', type=number_in(float, 0, below=1), default=0.1, metavar='P',
                       help='dropout inside the transformer; raise it where training loss falls and '
                            'validation loss does not')
    group.add_argument('--drop_prob_lm', type=number_in(float, 0, below=1), default=0.5, metavar='P',
                       help='dropout of the embedded features; in the recurrent models also of the '
                            'embedded words of topdown and before the output layer')


def add_word_dropout_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag of word dropout, which no decoder has outside training."""
    parser.add_argument('--word_dropout', type=number_in(float, 0, below=1), default=0.0, metavar='P',
                        help='probability with which a word that the decoder reads is replaced by UNK in '
                             'cross-entropy training (Bowman et al. 2016), so that it looks at the image rather than '
                             'continue the sentence; try 0.1 where captions of other images fit as well')


def add_optimisation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the optimisation."""
    group = parser.add_argument_group('optimisation')
    group.add_argument('--max_epochs', type=number_in(int, -1), default=30, metavar='N',
                       help='passes over the training images, counted over all phases; -1: without end')
    group.add_argument('--batch_size', type=number_in(int, 1), default=15, metavar='N',
                       help='images in a batch, over all processes')
    group.add_argument('--amp', type=one_of('off', 'bf16'), default='off', metavar='NAME',
                       help='bf16: matrix products in bfloat16 where the hardware supports it: about twice as '
                            'fast for models of the default size, slower for small ones. Weights stay in '
                            'float32, and validation is always in float32')
    group.add_argument('--accumulate', type=number_in(int, 1), default=1, metavar='N',
                       help='split each batch into N parts and accumulate their gradients: the same training '
                            'in less memory')
    group.add_argument('--seq_per_img', type=number_in(int, 1), default=5, metavar='N',
                       help='captions per image in a batch')
    group.add_argument('--optim', type=one_of(*OPTIMISERS), default='adam', metavar='NAME',
                       help=f'one of {", ".join(OPTIMISERS)} (sgdm: momentum, sgdmom: Nesterov momentum)')
    group.add_argument('--learning_rate', type=number_in(float, 0), default=5e-4, metavar='R',
                       help='initial learning rate (with --cosine the highest); ignored with --noamopt, whose '
                            'schedule sets it')
    group.add_argument('--learning_rate_decay_start', type=number_in(int, -1), default=0, metavar='EPOCH',
                       help='epoch from which the rate decays; -1: never')
    group.add_argument('--learning_rate_decay_every', type=number_in(int, 1), default=3, metavar='EPOCHS',
                       help='epochs between two decays')
    group.add_argument('--learning_rate_decay_rate', type=number_in(float, above=0), default=0.8,
                       metavar='F', help='the rate is multiplied by this at each decay')
    flag(group, 'noamopt', 'Adam (0.9, 0.98, 1e-9) with warm-up: rate noamopt_factor * d^-0.5 * '
                           'min(step^-0.5, step * noamopt_warmup^-1.5); the step decay does not apply')
    group.add_argument('--noamopt_warmup', type=number_in(int, 1), default=2000, metavar='STEPS',
                       help='steps until the rate is highest')
    group.add_argument('--noamopt_factor', type=number_in(float, above=0), default=1.0, metavar='F',
                       help='factor of the warm-up schedule')
    flag(group, 'reduce_on_plateau', 'halve the rate when validation (CIDEr where there are language '
                                     'scores, else the loss) has not improved for 4 validations in a row; '
                                     'the step decay does not apply')
    flag(group, 'cosine', 'the rate rises linearly to --learning_rate, then falls to 0 along half a cosine, once '
                          'over the epochs of each phase; a schedule with little to tune, for a run whose '
                          '--max_epochs is settled. The step decay does not apply')
    group.add_argument('--cosine_warmup', type=number_in(float, 0, below=1), default=0.05, metavar='SHARE',
                       help='with --cosine: the share of the steps of a phase over which the rate rises; raise it '
                            'where the loss jumps at the start')
    group.add_argument('--ema', type=number_in(float, 0, below=1), default=0.0, metavar='DECAY',
                       help='keep an exponential moving average of the weights with this decay, such as 0.999, and '
                            'validate, save and evaluate the average: often better than the last weights, most of '
                            'all without a falling rate. 0: off')
    group.add_argument('--optim_alpha', type=number_in(float, 0, below=1), default=0.9, metavar='A',
                       help="adam's first beta; smoothing of rmsprop; momentum of sgdm and sgdmom")
    group.add_argument('--optim_beta', type=number_in(float, 0, below=1), default=0.999, metavar='B',
                       help="adam's second beta")
    group.add_argument('--optim_epsilon', type=number_in(float, above=0), default=1e-8, metavar='E',
                       help="added to the denominator in adam, adamw, rmsprop and adagrad")
    group.add_argument('--weight_decay', type=number_in(float, 0), default=0.0, metavar='W',
                       help='weight decay (L2; decoupled in adamw)')
    group.add_argument('--grad_clip', type=number_in(float, above=0), default=0.1, metavar='G',
                       help='gradients are clamped to +-G, value by value')
    group.add_argument('--label_smoothing', type=number_in(float, 0, below=1), default=0.0, metavar='S',
                       help='probability that is spread over the other words')


def add_scheduled_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of scheduled sampling: training recurrent models partly on their own output."""
    group = parser.add_argument_group('scheduled sampling, for the recurrent models')
    group.add_argument('--scheduled_sampling_start', type=number_in(int, -1), default=-1, metavar='EPOCH',
                       help="epoch from which words of a caption are sometimes replaced by the model's own "
                            'predictions (Bengio et al. 2015); -1: never')
    group.add_argument('--scheduled_sampling_increase_every', type=number_in(int, 1), default=5,
                       metavar='EPOCHS', help='epochs between two increases of its probability')
    group.add_argument('--scheduled_sampling_increase_prob', type=number_in(float, 0, 1), default=0.05,
                       metavar='P', help='what each increase adds to the probability, which starts at 0')
    group.add_argument('--scheduled_sampling_max_prob', type=number_in(float, 0, 1), default=0.25,
                       metavar='P', help='the probability goes no higher')


def add_self_critical_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the second phase, training on the reward of sampled captions."""
    group = parser.add_argument_group('self-critical training')
    group.add_argument('--self_critical_after', type=number_in(int, -1), default=-1, metavar='EPOCH',
                       help='epoch from which captions are sampled and rewarded (Rennie et al. 2017); '
                            '-1: never')
    group.add_argument('--cached_tokens', default='coco-train-idxs', metavar='FILE',
                       help='document frequencies for CIDEr-D, from scripts/prepro_ngrams.py: a path, or a '
                            'name in data/, with or without .p')
    group.add_argument('--cider_reward_weight', type=number_in(float, 0), default=1.0, metavar='W',
                       help='weight of CIDEr-D in the reward')
    group.add_argument('--bleu_reward_weight', type=number_in(float, 0), default=0.0, metavar='W',
                       help='weight of BLEU-4 in the reward')
    group.add_argument('--sc_baseline', type=one_of('greedy', 'mean'), default='greedy', metavar='NAME',
                       help='baseline of the reward: greedy (the reward of the greedy caption of the image) or '
                            'mean (of its other samples; saves the greedy decoding)')
    group.add_argument('--sc_samples', type=number_in(int, 1), metavar='N',
                       help='captions sampled per image (default: --seq_per_img)')


def add_running_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of names, checkpoints, validation and logs."""
    group = parser.add_argument_group('running')
    group.add_argument('--id', type=run_name, default='', metavar='NAME',
                       help='name of the run (default: the last part of --checkpoint_path)')
    group.add_argument('--checkpoint_path', default='', metavar='DIR',
                       help='folder of the run (default: checkpoints/ID)')
    group.add_argument('--resume', metavar='DIR|auto',
                       help='a folder: go on with its run, with everything it had: id, data and options; no other '
                            'flag is needed, and those that are given win. auto: with the complete command of a run, '
                            'go on with it if its folder holds a checkpoint, and start it if not, so that a batch '
                            'system can give the same line again and again')
    group.add_argument('--start_from', metavar='DIR',
                       help='resume the run in this folder with the options of this command: for the next phase, or '
                            'into another folder; after a crash --resume is shorter')
    group.add_argument('--save_checkpoint_every', type=number_in(int, 1), default=1000, metavar='STEPS',
                       help='steps between checkpoints')
    group.add_argument('--save_every_minutes', type=number_in(float, 0), default=0.0, metavar='MINUTES',
                       help='also save when so many minutes have passed since the last checkpoint: what is lost at '
                            'most where a machine goes down without warning; 0: by steps alone')
    group.add_argument('--keep_checkpoints', type=number_in(int, 0), default=0, metavar='N',
                       help='besides the last and the best checkpoint, keep the last N in folders iteration_..., '
                            'each about three times as large as model.pth; to evaluate several, or to go back')
    group.add_argument('--perform_validation_every', type=steps_or_epoch, default='epoch', metavar='STEPS',
                       help='steps between validations, or epoch: at the end of each epoch; each validation also '
                            'saves a checkpoint')
    group.add_argument('--patience', type=number_in(int, 0), default=0, metavar='N',
                       help='stop after N validations in a row without a new best, counted anew in the self-critical '
                            'phase; 0: train to --max_epochs')
    group.add_argument('--val_images_use', type=number_in(int, -1), default=5000, metavar='N',
                       help='validation images, the first N; -1 for all; 0 trains without validation, for data '
                            'without a val split: the last checkpoint is then the only one, and there is no '
                            'model-best.pth')
    flag(group, 'language_eval', 'score validation captions (BLEU, METEOR, ROUGE-L, CIDEr); the best '
                                 'checkpoint is then that of the highest CIDEr, not of the lowest loss')
    add_score_tokens_flag(group)
    group.add_argument('--losses_log_every', type=number_in(int, 1), default=25, metavar='STEPS',
                       help='steps between lines of the log')
    flag(group, 'load_best_score', 'with --start_from: keep the best validation score so far, so that '
                                   'only a better model replaces model-best.pth', True)
    flag(group, 'train_only', 'train on the train split alone, without restval')


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the machine."""
    group = parser.add_argument_group('machine')
    group.add_argument('--device', type=device_name, default='auto', metavar='NAME',
                       help='auto (CUDA where there is one), cpu, cuda or cuda:N')
    group.add_argument('--matmul_precision', type=one_of('highest', 'high', 'medium'), default='high',
                       metavar='NAME',
                       help='of float32 matrix products on CUDA: high (TF32: ten bits of mantissa, several times '
                            'as fast), highest (float32; where results are compared with those of a CPU), or '
                            'medium (as high, or less where PyTorch offers it). Nothing changes on a CPU')
    group.add_argument('--xlinear', type=one_of('auto', 'plain', 'fused'), default='auto', metavar='NAME',
                       help='X-linear attention on CUDA: auto (fused Triton kernels where they can run), plain '
                            '(PyTorch: slower, and sums in the same order every time, so that a training on one GPU '
                            'can be repeated bit for bit), or fused (refuse to start without). Nothing changes on '
                            'a CPU')
    group.add_argument('--cuda_graphs', type=one_of('auto', '0', '1'), default='auto', metavar='NAME',
                       help='on CUDA, record the kernels of captioning a batch, and of loss and gradients in '
                            'cross-entropy training, and launch them together for every later batch of its shapes: '
                            'auto (where recording works), 1 (it must work), or 0 (kernel by kernel: slower, with '
                            'less memory, and errors name their place). Captions are the same; dropout draws other '
                            'random numbers')
    group.add_argument('--seed', type=number_in(int, 0, 2 ** 32 - 1), default=123, metavar='N',
                       help='seed of everything random')
    group.add_argument('--num_workers', type=number_in(int, 0), default=min(2, cpu_count()), metavar='N',
                       help='processes that load data, for each training process; 0 loads in a thread. Results '
                            'do not depend on it')


def steps_or_epoch(text: str) -> int | str:
    """An argparse type: a number of steps from 1, or 'epoch'."""
    return 'epoch' if text.lower() == 'epoch' else number_in(int, 1)(text)


def count_or_all(text: str) -> int:
    """An argparse type: a number of images from 1, or -1 for all."""
    value = number_in(int, -1)(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not allowed; give a whole number from 1, or -1 for all')
    return value


def run_name(text: str) -> str:
    """An argparse type: a name that can be part of a file's name."""
    if any(sign in text for sign in '/\\\0\n') or len(text.encode()) > 100 or text.startswith('.'):
        raise argparse.ArgumentTypeError(f'{text[:50]!r} is not allowed; give a name that can be part of a '
                                         'file name: up to 100 bytes, without slashes, no dot first')
    return text


def device_name(text: str) -> str:
    """An argparse type: auto, cpu, cuda or cuda:N."""
    if text in ('auto', 'cpu', 'cuda') or (text.startswith('cuda:') and text[5:].isdigit()):
        return text
    raise argparse.ArgumentTypeError(f'{text!r} is not a device; allowed are auto, cpu, cuda, cuda:N')


def network_names(text: str) -> str:
    """An argparse type: names of networks joined by '+', in lower case."""
    try:
        return '+'.join(names_in(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_decoding_flags(parser: argparse.ArgumentParser, beam_size: int) -> None:
    """Add the flags of decoding."""
    group = parser.add_argument_group('decoding')
    group.add_argument('--beam_size', type=number_in(int, 1), default=beam_size, metavar='N',
                       help='beams; 1 is greedy')
    flag(group, 'sample_max', 'decode the most probable words (1), or sample words at random (0), whatever '
                              'the beam size', True)
    group.add_argument('--temperature', type=number_in(float, above=0), default=1.0, metavar='T',
                       help='for sampling: below 1 more conservative, above 1 more varied')
    group.add_argument('--top_k', type=number_in(int, 0), default=0, metavar='K',
                       help='sample from the K most probable words only; 0: from all')
    group.add_argument('--top_p', type=number_in(float, above=0, high=1), default=1.0, metavar='P',
                       help='sample from the smallest set of words with probability P (nucleus); 1: from all')
    flag(group, 'max_ppl', 'rank finished beams by mean instead of summed log-probability')
    group.add_argument('--length_penalty', type=number_in(float, 0), default=0.0, metavar='A',
                       help='rank finished beams by sum / length^A; above 0 favours longer captions')
    flag(group, 'decoding_constraint', 'never output the same word twice in a row')
    flag(group, 'block_trigrams', 'never output the same three words in a row twice')
    flag(group, 'remove_bad_endings', 'never end a caption with an English article, preposition or conjunction (a '
                                      'man on a), for models that do so after self-critical training')
    flag(group, 'suppress_UNK', 'never output UNK', True)


def add_score_tokens_flag(group: Any) -> None:
    """Add the flag of what captions are scored against."""
    group.add_argument('--score_tokens', type=one_of(*SCORE_TOKENS), default='auto', metavar='NAME',
                       help='score captions against the texts of the references (raw), or against their tokens, as '
                            'words separated by spaces (tokens); auto: tokens where scripts/prepro_labels.py kept '
                            'them, as it does for Chinese and other texts without spaces. Give raw or tokens to '
                            'compare with scores that were computed so')


def add_diversity_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of diverse beam search, which only matters for several captions of an image."""
    group = parser.add_argument_group('diverse beam search, for --sample_n or --verbose_beam')
    group.add_argument('--group_size', type=number_in(int, 1), default=1, metavar='N',
                       help='groups of beams; must divide --beam_size')
    group.add_argument('--diversity_lambda', type=number_in(float, 0), default=0.5, metavar='L',
                       help='penalty on a word that an earlier group has at the same position')


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what is evaluated and written."""
    group = parser.add_argument_group('evaluation')
    group.add_argument('--run', nargs='+', metavar='DIR',
                       help='the folder of a run, in place of --model, --infos_path and the data flags: its best '
                            'model and the data that it was trained with; data flags that are given win. Several '
                            'make an ensemble')
    group.add_argument('--checkpoint', type=one_of('best', 'last'), default='best', metavar='NAME',
                       help='with --run: best (on validation; the last one where there is no best) or last')
    group.add_argument('--model', nargs='+', metavar='FILE',
                       help='weights, model.pth; several make an ensemble')
    group.add_argument('--infos_path', nargs='+', metavar='FILE',
                       help='options and vocabulary, infos_ID.pkl beside the weights; one for each model')
    group.add_argument('--split', type=one_of('train', 'restval', 'val', 'test', 'all'), default='test',
                       metavar='NAME', help='images to caption: train, restval, val, test or all')
    group.add_argument('--images_json', metavar='FILE',
                       help='caption the images of this list by their feature folders (--input_img_feat_dir and so '
                            'on), not a split of --input_json: for new pictures that have features, but neither '
                            "labels nor a vocabulary, which is the model's. COCO's lists, OUT_images.json of "
                            'scripts/extract_regions.py, or a list of ids')
    group.add_argument('--num_images', type=count_or_all, default=-1, metavar='N',
                       help='only the first N images of the split; -1, or more than there are: all')
    group.add_argument('--batch_size', type=number_in(int, 1), default=50, metavar='N',
                       help='images decoded at a time; less takes less memory')
    group.add_argument('--sample_n', type=number_in(int, 1), default=1, metavar='N',
                       help='captions per image: N samples, or the N best beams')
    group.add_argument('--score_caption', type=one_of('first', 'best'), default='first', metavar='NAME',
                       help='which of the --sample_n captions of an image is scored, shown first, and written as its '
                            'caption: first (the best beam, or the first sample) or best (the one with the highest '
                            'log-probability, which helps with samples)')
    flag(group, 'language_eval', 'score the captions (BLEU, METEOR, ROUGE-L, CIDEr, SPICE where it is '
                                 'installed)')
    add_score_tokens_flag(group)
    group.add_argument('--coco_json', metavar='FILE',
                       help='COCO caption annotations to take references from, in place of --input_json; or COCO\'s '
                            'list of images without captions, image_info_test2014.json: those images are captioned '
                            'from their feature folders (or --image_folder), and the captions are also written as '
                            'COCO\'s test server expects them')
    group.add_argument('--id', type=run_name, default='', metavar='NAME',
                       help="name in eval_results/ID_SPLIT.json (default: the run's, or the runs' joined "
                            'by +, cut where that is too long); SPLIT is LIST of the images that '
                            '--coco_json LIST.json lists, and pictures_LIST with --image_folder')
    flag(group, 'verbose_beam', 'print every finished beam of every image')
    flag(group, 'verbose_loss', 'also compute the cross-entropy loss, on five captions of each image')
    flag(group, 'dump_json', 'write the captions to vis/vis.json', True)
    flag(group, 'dump_path', "write each image's file path to vis/vis.json", True)
    flag(group, 'dump_images', 'write vis/index.html, a page with pictures, captions, scores, and the regions that '
                               'each word attended to, as boxes where --input_box_dir or --input_rel_box_dir is '
                               'given (needs --image_root)')
    group.add_argument('--output_dir', default='', metavar='DIR',
                       help='folder in which vis/ and eval_results/ are written (default: the current one); one for '
                            'each of several evaluations at the same time')
    group.add_argument('--image_root', default='', metavar='DIR',
                       help='folder that holds train2014/ and val2014/, for --dump_images')


def add_own_picture_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of captioning pictures that belong to no data set."""
    group = parser.add_argument_group('your own pictures')
    group.add_argument('--image_folder', metavar='DIR',
                       help='caption the pictures in this folder and its subfolders, or a single one: regions are '
                            'found in the same way as those the model was trained on; no labels are needed. '
                            "With --coco_json FILE, COCO's list of images, ids are taken from it, and the "
                            "captions are also written as COCO's test server expects them")
    group.add_argument('--regions_dir', metavar='DIR',
                       help='keep the regions in DIR_att and so on, as scripts/extract_regions.py does, and next '
                            'time find only those of new or changed pictures. By default they are kept in a '
                            'temporary folder regions_... (TMPDIR names another place) and removed at the end. '
                            'They take up to 0.4 MB per picture on a grid of 7 x 7, and 0.8 MB as 100 boxes')
    group.add_argument('--detector', type=one_of('grid', 'fasterrcnn'), metavar='NAME',
                       help='find regions with grid or fasterrcnn, whatever the model was trained on; features of '
                            'another origin mean something else to the model')
    group.add_argument('--cnn_model', type=network_names, metavar='NAME[+NAME]',
                       help='the network of the features, or several, as of scripts/extract_regions.py (default: '
                            "the training's)")
    group.add_argument('--cnn_layout', type=one_of(*LAYOUTS), metavar='NAME',
                       help='with --detector: the layout of the weights in NAME.pth of resnet101 or resnet152, caffe '
                            'or torchvision; not needed for files named as torchvision names them')
    group.add_argument('--cnn_weight_dir', metavar='DIR',
                       help="folder of the weights, NAME.pth or named as torchvision does (default: data, "
                            "data/imagenet_weights, then torchvision's own downloads)")
    group.add_argument('--extractor', metavar='FILE.py',
                       help='find the regions with a Python file of your own, for a model that was trained on its '
                            'features (docs/pictures.md says what it holds); the file is run')


def train_parser(parser_class: type[Parser] = Parser) -> Parser:
    """The parser of `train.py`."""
    parser = parser_class(prog='train.py', description=(
        'Train an image captioner on region features.\n\n'
        'example: python train.py --id first --caption_model spatial_pe --input_json data/cocotalk.json \\\n'
        '             --input_label_h5 data/cocotalk_label.h5 --input_img_feat_dir data/cocobu_att \\\n'
        '             --input_grid_vec_dir data/cocobu_box_vec --noamopt --checkpoint_path checkpoints/first\n'
        '         python train.py --resume checkpoints/first'))
    add_data_flags(parser)
    add_model_flags(parser)
    add_dropout_flags(parser)
    add_word_dropout_flag(parser)
    add_optimisation_flags(parser)
    add_scheduled_sampling_flags(parser)
    add_self_critical_flags(parser)
    add_running_flags(parser)
    add_decoding_flags(parser, beam_size=1)
    add_machine_flags(parser)
    parser.set_defaults(group_size=1, diversity_lambda=0.0)
    return parser


def eval_parser(parser_class: type[Parser] = Parser) -> Parser:
    """The parser of `eval.py`."""
    parser = parser_class(prog='eval.py', description=(
        'Caption a split with a trained model, and score the captions.  The model options come from\n'
        'the infos file; they need not be given again, and may not contradict it.\n\n'
        'example: python eval.py --run checkpoints/first --language_eval 1\n'
        '         python eval.py --model checkpoints/first/model.pth \\\n'
        '             --infos_path checkpoints/first/infos_first.pkl --language_eval 1\n'
        '         python eval.py --model checkpoints/first/model.pth \\\n'
        '             --infos_path checkpoints/first/infos_first.pkl --image_folder PICTURES'))
    add_evaluation_flags(parser)
    add_decoding_flags(parser, beam_size=2)
    add_diversity_flags(parser)
    add_own_picture_flags(parser)
    add_data_flags(parser)
    add_model_flags(parser)
    add_machine_flags(parser)
    parser.set_defaults(dropout=0.0, drop_prob_lm=0.0)
    return parser


def train_options(arguments: Sequence[str] | None = None) -> tuple[Options, set[str]]:
    """The options of `train.py` and the names of those given on the command line (default: `sys.argv`), checked
    as far as they can be before any file is read."""
    options, given = parse(train_parser(), arguments)
    if options.resume == 'auto':
        options = resumed_or_new(named_run(options))
    elif options.resume:
        options = resumed_options(options, given, sys.argv[1:] if arguments is None else arguments)
    options = named_run(options)
    if options.sc_samples is None:
        options = replaced(options, sc_samples=options.seq_per_img)
    check_optimiser(options, given)
    check_validation(options)
    check_cosine(options)
    check_decoding(options)
    check_self_critical(options)
    return options, given


def resumed_or_new(options: Options) -> Options:
    """A copy of `options` that goes on with the run in its own folder, if there is one; `--start_from` is for the
    first start alone."""
    from misc.run.folder import runs_in
    has_run = os.path.isdir(options.checkpoint_path) and bool(runs_in(options.checkpoint_path))
    note(f'note: --resume auto: {options.checkpoint_path} '
         + ('holds a checkpoint; going on from it' if has_run else 'holds no checkpoint; the run starts'))
    return replaced(options, start_from=options.checkpoint_path) if has_run else options


def resumed_options(options: Options, given: set[str], arguments: Sequence[str]) -> Options:
    """The options of the run in the folder `options.resume`, but for those `given` on the command line, `arguments`.

    Raises `UsageError` where they contradict each other, `DataError` where the folder holds no run that records its
    options.
    """
    from misc.run.folder import saved_options
    if 'start_from' in given:
        raise UsageError(f'--start_from {options.start_from} contradicts --resume {options.resume}: both name the '
                         'run to go on with; leave one out')
    infos_path, run_id, saved = saved_options(options.resume, options.id)
    names = [action.dest for action in train_parser()._actions if action.dest not in OF_ONE_START]
    words = [f'--{name}={show(saved[name])}' for name in names if saved.get(name) is not None]
    place = [f'--checkpoint_path={options.resume}', f'--id={run_id}']
    try:
        parse(train_parser(RaisingParser), words)
    except UsageError as error:
        raise DataError(f'{infos_path}: {error}; the file is damaged, or of a later version; give the complete '
                        f'command with --start_from {options.resume}') from None
    return replaced(parse(train_parser(), [*words, *place, *arguments])[0], start_from=options.resume)


def eval_options(arguments: Sequence[str] | None = None) -> tuple[Options, set[str]]:
    """The options of `eval.py` and the names of those given on the command line (default: `sys.argv`), checked as
    far as they can be before any file is read."""
    return checked_eval_options(*parse(eval_parser(), arguments))


def eval_options_from(**values: Any) -> tuple[Options, set[str]]:
    """As `eval_options`, from Python values in place of a command line; None stands for an option not given.

    Raises `UsageError` for a value that is not allowed.
    """
    arguments = []
    for name, value in values.items():
        if value is not None:
            arguments += [f'--{name}', *map(show, value if isinstance(value, (list, tuple)) else [value])]
    return checked_eval_options(*parse(eval_parser(RaisingParser), arguments))


def checked_eval_options(options: Options, given: set[str]) -> tuple[Options, set[str]]:
    """Both arguments, with what `--run` stands for, if they can be; raises `UsageError` otherwise."""
    options = with_run_files(options, given)
    check_decoding(options, options.sample_n)
    check_image_folder(options, given)
    check_images_json(options, given)
    if options.dump_images and not (options.image_root or options.image_folder):
        raise UsageError('--dump_images 1 needs --image_root, the folder that holds train2014/ and val2014/')
    return options, given


def with_run_files(options: Options, given: set[str]) -> Options:
    """A copy of `options` with the model, infos and data files of the runs that `--run` names.

    Raises `UsageError` where model and infos are named twice or not at all, or the runs were trained with different
    data, `DataError` where a folder does not hold one run.
    """
    if not options.run:
        if not options.model or not options.infos_path:
            raise UsageError('name what to evaluate: --run DIR, the folder of a run, or --model and --infos_path, '
                             'its files')
        return options
    named = [name for name in ('model', 'infos_path') if name in given]
    if named:
        raise UsageError(f'--{named[0]} contradicts --run, which stands for --model and --infos_path; leave one out')
    from misc.run.folder import best_or_last_files, read_any_infos
    pairs = [best_or_last_files(folder, options.checkpoint == 'best', 'with --model and --infos_path')
             for folder in options.run]
    note(f'note: evaluating {", ".join(model for model, _ in pairs)}')
    found: dict[str, Any] = {'model': [model for model, _ in pairs], 'infos_path': [infos for _, infos in pairs]}
    if not options.image_folder:
        opts_of_runs = [read_any_infos(infos)['opt'] for _, infos in pairs]
        for name in DATA_FILES[2:] if options.images_json else DATA_FILES:
            paths = {os.path.realpath(opt[name]): opt[name] for opt in opts_of_runs
                     if isinstance(opt.get(name), str) and opt[name]}
            if len(paths) > 1 and name not in given:
                raise UsageError(f'the runs were trained with different --{name}: {", ".join(paths.values())}; '
                                 'name the one to evaluate with')
            if paths and name not in given:
                found[name] = next(iter(paths.values()))
    return replaced(options, **found)


def of_listed_images(options: Options, given: set[str], split: str) -> Options:
    """A copy of `options` for the images that `--coco_json` lists without captions, in place of a `split` of
    `--input_json`.  Raises `UsageError` for flags that need captions, or name other images."""
    for name in ('language_eval', 'verbose_loss'):
        if getattr(options, name):
            raise UsageError(f'--{name} 1 needs captions, and --coco_json {options.coco_json} lists images without '
                             'any; leave it out')
    if 'split' in given:
        raise UsageError(f'--split {options.split} contradicts --coco_json {options.coco_json}, whose images are '
                         'captioned; leave one out')
    if 'input_json' in given:
        note(f'note: the images are those of {options.coco_json}, and the vocabulary is that of the model; '
             f'--input_json {options.input_json} is not read')
    return replaced(options, split=split, input_json=options.coco_json)


class RaisingParser(Parser):
    """A parser that raises `UsageError` where others end the program."""

    def error(self, message: str) -> NoReturn:
        """Refuse what was given."""
        raise UsageError(message)


def parse(parser: argparse.ArgumentParser,
          arguments: Sequence[str] | None = None) -> tuple[Options, set[str]]:
    """Parse `arguments` (default: the command line) -> (options, names given on the command line)."""
    options = parser.parse_args(arguments)
    unset = object()
    marks = argparse.Namespace(**dict.fromkeys(vars(options), unset))
    parser.parse_args(arguments, marks)
    return options, {name for name, value in vars(marks).items() if value is not unset}


def sources(options: Options) -> Sources:
    """The files of the data set that `options` name, and how they are read."""
    return Sources(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sources)})


def schedule(options: Options, images: int) -> Schedule:
    """The learning rates and the probabilities of scheduled sampling of a training on so many `images`."""
    steps, total = -(-images // options.batch_size), max(options.max_epochs, 0)  # steps of an epoch, epochs
    first = options.self_critical_after if has_self_critical_epochs(options) else total
    return Schedule(
        learning_rate=options.learning_rate, decay_start=options.learning_rate_decay_start,
        decay_every=options.learning_rate_decay_every, decay_rate=options.learning_rate_decay_rate,
        noam=options.noamopt, noam_warmup=options.noamopt_warmup, noam_factor=options.noamopt_factor,
        size=options.input_encoding_size, reduce_on_plateau=options.reduce_on_plateau,
        sampling_start=options.scheduled_sampling_start,
        sampling_every=options.scheduled_sampling_increase_every,
        sampling_increase=options.scheduled_sampling_increase_prob,
        sampling_max=options.scheduled_sampling_max_prob, cosine=options.cosine, cosine_warmup=options.cosine_warmup,
        phase_steps=(first * steps, (total - first) * steps))


def plan(options: Options) -> Plan:
    """How long a run trains, and when it logs, saves and validates."""
    return Plan(options.max_epochs, options.accumulate, options.losses_log_every, options.save_checkpoint_every,
                None if options.perform_validation_every == 'epoch' else options.perform_validation_every,
                options.language_eval, options.patience, options.keep_checkpoints, options.save_every_minutes)


def has_self_critical_epochs(options: Options) -> bool:
    """Whether self-critical training starts before the last epoch."""
    return options.self_critical_after >= 0 and (
        options.max_epochs < 0 or options.self_critical_after < options.max_epochs)


def optimiser(options: Options, parameters: Iterable[Any]) -> Any:
    """The optimiser of the model's `parameters`; `--noamopt` brings its own settings."""
    from misc.training.optim import NOAM_BETAS, NOAM_EPSILON, build_optimiser
    if options.noamopt:
        return build_optimiser(parameters, 'adam', *NOAM_BETAS, NOAM_EPSILON, options.weight_decay)
    return build_optimiser(parameters, options.optim, options.optim_alpha, options.optim_beta,
                           options.optim_epsilon, options.weight_decay)


def completed(options: Options, given: set[str], saved_options: Mapping[str, Any] | None, infos_path: str | None,
              in_place: bool, processes: int) -> Options:
    """A copy of `options` with those that a run to resume brings, `saved_options` of `infos_path`, and all checked.

    `in_place`: whether the run goes on in its own folder; `processes`: how many train.
    """
    if saved_options is not None and infos_path is not None:
        options = with_model_options(options, given, saved_options, infos_path)
        options, rates = with_dropout_rates(options, given, saved_options, infos_path)
        if rates:
            listed = ', '.join(f'{name} {rate}' for name, rate in rates.items())
            note(f'note: {listed}, as in the legacy checkpoint; give the flags to change that')
        # The best model so far lies in the old folder, so it is the best of this run only if that is the same.
        options = replaced(options, load_best_score=options.load_best_score and in_place)
    options = checked_model(options, given, infos_path)
    check_scheduled_sampling(options)
    check_batch_norm(options, processes)
    unused_flags = unused(options, given)
    if unused_flags:
        note(f'note: --caption_model {options.caption_model} makes no use of --{", --".join(unused_flags)}')
    return options


def feature_source(options: Options) -> tuple[str, str]:
    """Where the features lie whose width is the model's, and their kind: 'att', or 'fc' for a model that reads
    nothing but mean features and has a source of them."""
    reads_means = 'features' not in MODELS[options.caption_model].inputs
    kind = 'fc' if reads_means and options.input_fc_feat_dir else 'att'
    return getattr(options, FLAGS[kind]), kind


def with_feature_size(options: Options, width: int | None, infos_path: str | None) -> Options:
    """A copy of `options` with the `width` of the features (None: there are none) as `img_feat_size`.

    infos_path: the infos file of a run to resume, whose `img_feat_size` stays.  Raises `UsageError` where the one
    that is given, or that of the run, is another.
    """
    if options.img_feat_size is None:
        return replaced(options, img_feat_size=width or FEATURE_SIZE)
    if width in (None, options.img_feat_size):
        return options
    path, kind = feature_source(options)
    where = f'--{FLAGS[kind]}: the features of {path} have {width} numbers'
    if infos_path is not None:
        raise UsageError(f'{where}, but {infos_path} has img_feat_size {options.img_feat_size}; give the features '
                         'that the run was trained with, or start another run')
    raise UsageError(f'{where}, but --img_feat_size is {options.img_feat_size}; leave the flag out')


def with_model_options(options: Options, given: set[str], saved_options: Mapping[str, Any],
                       infos_path: str) -> Options:
    """A copy of `options` with the model options of a checkpoint, `saved_options`.

    Raises `UsageError` where a flag given on the command line contradicts the checkpoint, `DataError` where a
    saved value is not allowed.
    """
    saved = {name: allowed_value(name, saved_options[name], infos_path) for name in MODEL_OPTIONS
             if saved_options.get(name) is not None}
    for name, value in saved.items():
        if name in given and getattr(options, name) != value:
            raise UsageError(f'--{name} {show(getattr(options, name))} contradicts {infos_path}, which '
                             f'has {name} {show(value)}; leave the flag out, or start another run')
    return replaced(options, **{'img_feat_size': options.img_feat_size or FEATURE_SIZE, **saved})


def member_options(options: Options, given: set[str],
                   saved: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Options]:
    """The options of each model of an ensemble, or of a single model: copies with the model's own options.

    saved: for each model, the path of its infos file and the options in it.  Raises as `with_model_options` and
    `checked_model` do, and `UsageError` where two models would read the same inputs in different ways.
    """
    members: list[Options] = []
    for path, saved_options in saved:
        member = checked_model(with_model_options(options, given, saved_options, path), given, path)
        members.append(member)
        shared = shared_inputs(members)
        for name in INPUT_OPTIONS:
            if is_used(name, member) and getattr(member, name) != getattr(shared, name):
                raise UsageError(f'{path} has {name} {show(getattr(member, name))}, a model before it '
                                 f'{show(getattr(shared, name))}; models of an ensemble read the same inputs')
    return members


def shared_inputs(members: Sequence[Options]) -> Options:
    """The options by which the models of an ensemble read their inputs: each from the first of the `members` for
    which it matters."""
    found: dict[str, Any] = {}
    for member in members:
        for name in INPUT_OPTIONS:
            if is_used(name, member):
                found.setdefault(name, getattr(member, name))
    return replaced(members[0], **found)


def with_dropout_rates(options: Options, given: set[str], saved_options: Mapping[str, Any],
                       infos_path: str) -> tuple[Options, dict[str, float]]:
    """A copy of `options` with the dropout rates that a run converted from a legacy checkpoint was trained with,
    where no flag gives them, and {name: rate} of those that were taken over.

    Such a run keeps its rates each time it is resumed, so the same command means the same training.  Raises
    `DataError` where a saved value is not allowed.
    """
    keeps_rates = bool(saved_options.get('keeps_rates'))
    names = [name for name in DROPOUT_RATES if keeps_rates and is_used(name, options)
             and name not in given and saved_options.get(name) is not None]
    taken = {name: allowed_value(name, saved_options[name], infos_path) for name in names}
    return replaced(options, keeps_rates=keeps_rates, **taken), taken


def replaced(options: Options, **values: Any) -> Options:
    """A copy of `options` with other `values`; options are never changed in place."""
    return argparse.Namespace(**{**vars(options), **values})


def allowed_value(name: str, value: Any, infos_path: str) -> Any:
    """The saved `value` of an option, checked as its flag would be."""
    parser = Parser()
    add_data_flags(parser)
    add_model_flags(parser)
    add_dropout_flags(parser)
    kind: Any = next(action.type for action in parser._actions if action.dest == name)
    try:
        return kind(show(value))
    except argparse.ArgumentTypeError as error:
        raise DataError(f'{infos_path} says {name}: {error}; the file is damaged, or not of this program') from None


def show(value: Any) -> str:
    """A value as it is given on the command line."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def training_options(options: Options) -> list[str]:
    """The options that decide how a model is trained, besides those of the model itself."""
    neutral = {*NEUTRAL, *MODEL_OPTIONS} - ({'max_epochs'} if options.cosine else set())
    return [name for name in vars(options) if name not in neutral and is_used(name, options)]


def announced_options(options: Options, given: set[str]) -> list[str]:
    """The options that are announced where they are not those of the run that is resumed: those that decide how a
    model is trained, and where `--resume` takes over all others, those that are `given`."""
    more = given.difference(OF_ONE_START) if options.resume not in (None, 'auto') else set()
    return list(dict.fromkeys([*training_options(options), *sorted(more)]))


def unused(options: Options, given: set[str]) -> list[str]:
    """The flags among those `given` that the model does not use."""
    return [name for name in vars(options) if name in given and not is_used(name, options)]


def checked_model(options: Options, given: set[str], infos_path: str | None = None) -> Options:
    """A copy of `options` with the default that depends on the model, `cross_attn`, filled in.

    Raises `UsageError` for model options that contradict each other; where they come from a checkpoint, the
    message names its `infos_path`.
    """
    model = MODELS[options.caption_model]
    if options.cross_attn is None:
        options = replaced(options, cross_attn=model.default_cross)
    try:
        check_sizes(options)
        for name, value in model.fixed.items():
            if getattr(options, name) != value:
                raise UsageError(f'--{name} {show(getattr(options, name))} does not go with --caption_model '
                                 f'{options.caption_model}, which only knows {value}; leave it out')
        check_places(options, given)
    except UsageError as error:
        raise UsageError(f'{error}' + (f' (the model is that of {infos_path})' if infos_path else '')) from None
    return options


def check_sizes(options: Options) -> None:
    """Refuse a model size that attention with several heads cannot have."""
    if not is_used('heads', options):
        return
    if options.input_encoding_size % 2:
        raise UsageError(f'--input_encoding_size {options.input_encoding_size} must be even')
    if options.input_encoding_size % options.heads:
        raise UsageError(f'--heads {options.heads} does not divide --input_encoding_size '
                         f'{options.input_encoding_size}; allowed are its divisors')


def check_places(options: Options, given: set[str]) -> None:
    """Refuse a model that knows where regions are without a source for their places, and a spatial encoding that
    does not exist."""
    model = MODELS[options.caption_model]
    place, chooses = model.place(options), isinstance(model.places, Mapping)
    if chooses and not options.enc_pos_embedding and 'enc_pos_type' in given and options.enc_pos_type != 'gxg':
        raise UsageError(f'--enc_pos_type {options.enc_pos_type} has no fixed form; with '
                         '--enc_pos_embedding 0 only gxg is allowed')
    if place is None or options.input_box_dir or options.input_rel_box_dir:
        return
    if place.source == 'boxes':
        who = f'--enc_pos_type {options.enc_pos_type}' if chooses else f'--caption_model {options.caption_model}'
        raise UsageError(f'{who} needs --input_box_dir or --input_rel_box_dir')
    if not options.input_grid_vec_dir:
        raise UsageError(f'--caption_model {options.caption_model} needs --input_grid_vec_dir (made by '
                         'prepro_areas.py), or --input_box_dir or --input_rel_box_dir to compute grid vectors from')


def check_batch_norm(options: Options, processes: int) -> None:
    """Refuse batch normalisation of parts of a batch, whose statistics would differ from those of the whole."""
    if options.use_bn and (options.accumulate > 1 or processes > 1):
        parts = f'--accumulate {options.accumulate}' if options.accumulate > 1 else f'{processes} processes'
        raise UsageError(f'--use_bn {options.use_bn} does not go with {parts}: batch normalisation needs the '
                         'whole batch; use one process without --accumulate, or --use_bn 0')


def check_xlinear(options: Options, device: str, obstacle: str | None) -> None:
    """Refuse `--xlinear fused` where there is an `obstacle` to it, and report it on a CUDA `device` that could be
    faster without."""
    if options.xlinear == 'fused' and obstacle is not None:
        raise UsageError(f'--xlinear fused: the kernels cannot run: {obstacle}; take auto or plain')
    if options.xlinear == 'auto' and device == 'cuda' and obstacle is not None:
        note(f'note: X-linear attention runs in plain PyTorch, not in fused kernels: {obstacle}')


def check_cuda_graphs(options: Options, device: str) -> None:
    """Refuse `--cuda_graphs 1` on a device without."""
    if options.cuda_graphs == '1' and device != 'cuda':
        raise UsageError('--cuda_graphs 1 needs a CUDA device; take auto, or --device cuda')


def check_scheduled_sampling(options: Options) -> None:
    """Refuse scheduled sampling of a model that reads all words of a caption at once."""
    if options.scheduled_sampling_start >= 0 and not MODELS[options.caption_model].word_by_word:
        recurrent = ', '.join(name for name, model in MODELS.items() if model.word_by_word)
        raise UsageError(f'--scheduled_sampling_start {options.scheduled_sampling_start} does not go with '
                         f'--caption_model {options.caption_model}, which reads all words of a caption at '
                         f'once; allowed is -1, or one of {recurrent}')


def check_image_folder(options: Options, given: set[str]) -> None:
    """Refuse flags that do not go with `--image_folder`, and those that need it."""
    own = ('regions_dir', 'detector', 'cnn_model', 'cnn_layout', 'cnn_weight_dir', 'extractor')
    if not options.image_folder:
        for name in own:
            if name in given:
                raise UsageError(f'--{name} is for your own pictures; name their folder with --image_folder')
        return
    for name in ('input_json', 'input_label_h5', 'input_img_feat_dir', 'input_fc_feat_dir', 'input_grid_vec_dir',
                 'input_box_dir', 'input_rel_box_dir', 'image_root', 'split', 'verbose_loss'):
        if name in given and getattr(options, name):
            raise UsageError(f'--{name} {show(getattr(options, name))} does not go with --image_folder, whose '
                             'pictures are all there is to read; leave it out')
    for name in ('detector', 'cnn_model', 'cnn_layout', 'cnn_weight_dir'):
        if options.extractor and name in given:
            raise UsageError(f'--{name} {show(getattr(options, name))} contradicts --extractor, which finds regions '
                             'and computes their features; leave one out')
    if options.language_eval and not options.coco_json:
        raise UsageError('--language_eval 1 with --image_folder needs --coco_json, COCO caption annotations of '
                         'these pictures; leave it out to caption without scores')


def check_images_json(options: Options, given: set[str]) -> None:
    """Refuse flags that do not go with `--images_json`."""
    for name in ('image_folder', 'input_json', 'input_label_h5', 'split', 'verbose_loss'):
        if options.images_json and name in given and getattr(options, name):
            raise UsageError(f'--{name} {show(getattr(options, name))} does not go with --images_json, whose images '
                             'are captioned without labels; leave one out')
    if options.images_json and options.language_eval and not options.coco_json:
        raise UsageError('--language_eval 1 with --images_json needs --coco_json, COCO caption annotations of these '
                         'images; leave it out to caption without scores')


def named_run(options: Options, flag: str = '--checkpoint_path') -> Options:
    """A copy of `options` with the run's name or folder derived from the other where one is not given.

    `flag` is the one that names the folder, for messages.
    """
    folder = os.path.basename(os.path.normpath(options.checkpoint_path or 'captioner'))
    try:
        run_id = options.id or run_name(folder)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f'{flag}: {error}, or name the run with --id') from None
    return replaced(options, id=run_id,
                    checkpoint_path=options.checkpoint_path or os.path.join('checkpoints', run_id))


def check_optimiser(options: Options, given: set[str]) -> None:
    """Refuse an optimiser that another flag replaces."""
    if options.noamopt and 'optim' in given and options.optim != 'adam':
        raise UsageError(f'--optim {options.optim} contradicts --noamopt 1, which is adam; leave one out')


def check_validation(options: Options) -> None:
    """Refuse flags that need validation images where there are none."""
    for name in ('language_eval', 'reduce_on_plateau', 'patience'):
        if not options.val_images_use and getattr(options, name):
            raise UsageError(f'--{name} {show(getattr(options, name))} needs validation, and --val_images_use 0 '
                             'trains without; leave one out')


def check_cosine(options: Options) -> None:
    """Refuse a cosine rate beside another schedule, or without an end."""
    for name in ('noamopt', 'reduce_on_plateau'):
        if options.cosine and getattr(options, name):
            raise UsageError(f'--cosine 1 contradicts --{name} 1: both set the learning rate; leave one out')
    if options.cosine and options.max_epochs < 0:
        raise UsageError('--cosine 1 needs an end: give --max_epochs the number of epochs, not -1')


def check_self_critical(options: Options) -> None:
    """Refuse a reward that gives no gradient."""
    if options.sc_baseline == 'mean' and options.sc_samples < 2:
        raise UsageError(f'--sc_baseline mean compares the samples of an image: --sc_samples '
                         f'{options.sc_samples} must be at least 2')
    if not options.cider_reward_weight and not options.bleu_reward_weight:
        raise UsageError('--cider_reward_weight 0 with --bleu_reward_weight 0 leaves nothing to reward; '
                         'raise one of them')


def check_decoding(options: Options, copies: int = 1) -> None:
    """Refuse decoding options that contradict each other; `copies` captions per image are wanted."""
    if options.max_ppl and options.length_penalty:
        raise UsageError(f'--length_penalty {options.length_penalty:g} contradicts --max_ppl 1, which ranks by '
                         'the mean; leave one out')
    if options.beam_size % options.group_size:
        raise UsageError(f'--group_size {options.group_size} does not divide --beam_size '
                         f'{options.beam_size}')
    if options.sample_max and copies > options.beam_size:
        raise UsageError(f'--sample_n {copies} is more than --beam_size {options.beam_size} '
                         'beams; raise the beam size, or sample with --sample_max 0')
