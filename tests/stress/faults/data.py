"""Faults in the data set's files and in the loader."""

from tests.stress.faults.fault import faults_in

BAD_INPUT = 'tests/programs/test_bad_input.py'
WRONG_ARRAYS = f'{BAD_INPUT}::test_an_array_that_does_not_fit_is_named'
WRONG_LABELS = f'{BAD_INPUT}::test_labels_that_do_not_fit_are_named_with_the_command_that_makes_them'
WRONG_DATA = f'{BAD_INPUT}::test_data_that_do_not_fit_are_named'
MISSING = f'{BAD_INPUT}::test_images_without_arrays_are_counted_and_named_before_training'
READERS = 'tests/stress/test_fuzz.py::test_every_reader_and_its_plain_one_agree_on_the_whole_file'
LOADER = 'tests/programs/test_dataloader.py'
PHASES = 'tests/programs/test_phases.py'
DRAWN = f'{PHASES}::test_captions_are_drawn_without_repeats_and_anew_in_every_epoch'
ALL_DRAWN = f'{PHASES}::test_all_captions_are_drawn_where_as_many_are_wanted_and_some_twice_where_more_are'
DEALT = 'tests/programs/test_train.py::test_every_epoch_deals_every_image_once_in_another_order'
RESUMED = 'tests/programs/test_train.py::test_a_resumed_run_has_the_weights_of_an_uninterrupted_one_bit_for_bit'
OTHER_IMAGES = 'tests/programs/test_bad_run.py::test_resuming_with_another_vocabulary_or_other_images_is_refused'
FLAGS = 'tests/programs/test_flags.py'
CHANGES = f'{FLAGS}::test_the_flag_changes_the_weights'
MEANS = f'{FLAGS}::test_mean_features_come_from_their_folder_or_from_the_regions'
OUTPUTS = 'tests/programs/test_eval.py::test_each_output_flag_has_its_effect'
GRIDS = 'tests/dataset/test_grids.py'
LABELS = 'tests/dataset/test_labels.py'
PAIRING = 'tests/dataset/test_pairing.py'
PACKED = 'tests/dataset/test_pack_features.py'
KNOWN = 'tests/disk/test_known.py'
UNTRUSTED = 'tests/disk/test_untrusted.py'
RELATIONS = 'tests/programs/test_families.py::test_relation_transformer_captions_alike_from_pixel_and_relative_boxes'
SOURCES = 'tests/programs/test_families.py::test_only_the_sources_that_a_model_needs_are_opened'

FAULTS = [
    *faults_in(
        'dataloader.py', [LOADER, DRAWN, DEALT, RESUMED],
        ('(self.seed, epoch, row)) for row in rows', '(self.seed, row)) for row in rows'),
        ('(self.seed, epoch, row)) for row in rows', '(self.seed, epoch)) for row in rows'),
        ('(self.seed, epoch, row)) for row in rows', '(epoch, row)) for row in rows'),
        ('np.random.default_rng((self.seed, epoch))', 'np.random.default_rng(self.seed)'),
        ('np.random.default_rng((self.seed, epoch))', 'np.random.default_rng(epoch)'),
        ('.permutation(self.rows)', '.choice(self.rows, len(self.rows))'),
        ('self.order if epoch == self.epoch else self._shuffled(epoch)', 'self._shuffled(epoch)'),
        ('self.epoch, self.position = batch.epoch, batch.position', 'self.epoch = batch.epoch'),
        ('if self.epoch_is_over:\n            epoch, position', 'if False:\n            epoch, position'),
        ('return self.epoch + self.epoch_is_over', 'return self.epoch'),
        ('edges = [len(self) * part // parts for part', 'edges = [len(self) * part // (parts + 1) for part'),
        ('lengths = lengths[start * each:end * each]', 'lengths = lengths[start:end]'),
        ('slice(sum(self.counts[:start]), sum(self.counts[:end]))', 'slice(start, end)'),
        ('None if self.fc is None else self.fc[start:end]', 'self.fc'),
        ('epoch=self.epoch, position=self.position, **parts)', 'position=self.position, **parts)'),
        ('(self.captions > 0).sum(2)', '(self.captions > 1).sum(2)')),
    *faults_in(
        'dataloader.py', [OTHER_IMAGES],
        ('len(self.order) != len(rows) or set(self.order.tolist()) != set(rows)', 'False')),
    *faults_in(
        'dataloader.py', ['tests/models/test_models.py', LOADER, RESUMED],
        ('generator=torch.Generator().manual_seed(0), ', ''),
        ('is_saved else self._shuffled(self.epoch)', 'is_saved else self._shuffled(0)')),
    *faults_in(
        'misc/dataset/corpus.py', [DRAWN, ALL_DRAWN, OUTPUTS, CHANGES],
        ('replace=len(labels) < count', 'replace=True'),
        ('replace=len(labels) < count', 'replace=False'),
        ('np.random.default_rng(seed)', 'np.random.default_rng(0)'),
        ("{'train'} if train_only else {'train', 'restval'}", "{'train', 'restval'}"),
        ("{'train'} if train_only else {'train', 'restval'}", "{'train'}"),
        ("'all': set(self.splits)}", "'all': {'val'}}"),
        ('random.choice(len(labels), count,', 'random.choice(len(labels) - 1, count,')),
    *faults_in(
        'misc/dataset/corpus.py', [WRONG_LABELS, PAIRING],
        ('if not len(self.labels.of(row))]', 'if False]'),
        ('check_pair(self.labels, self.images, self.vocabulary, sources.input_json)', 'pass')),
    *faults_in(
        'misc/dataset/labels.py', [LABELS, READERS, WRONG_LABELS],
        ('int(self.start[image]) - 1:int(self.end[image])', 'int(self.start[image]):int(self.end[image])'),
        ('int(self.start[image]) - 1:int(self.end[image])', 'int(self.start[image]) - 1:int(self.end[image]) - 1'),
        ('if labels.max() > words or labels.min() < 0:', 'if labels.max() > words + 1 or labels.min() < 0:'),
        ('if labels.max() > words or labels.min() < 0:', 'if labels.max() > words:'),
        ('(self.start.min() < 1 or', '(self.start.min() < 0 or'),
        ('self.end.max() > len(labels)):', 'self.end.max() > len(labels) + 1):'),
        ('broken = ~is_word[:, 0] | (is_word[:, 1:] & ~is_word[:, :-1]).any(1)', 'broken = ~is_word[:, 0]'),
        ('broken = ~is_word[:, 0] | (is_word', 'broken = (is_word'),
        ('if len(self.start) != images or len(self.end) != images:', 'if len(self.start) != images:'),
        ("if seen.setdefault(image['id'], number) != number:", 'if False:'),
        ('for index in range(1, len(words) + 1)):', 'for index in range(1, len(words))):'),
        ("if not _are_captions(image.get('captions')):", 'if False:')),
    *faults_in(
        'misc/dataset/pairing.py', [PAIRING],
        ('labels.digests[name] not in (None, own[name])', 'labels.digests[name] not in (None, *own.values())',
         'the digests of a vocabulary and of images never are the same'),
        ('labels.digests[name] not in (None, own[name])', 'False'),
        ('if not problem and None in labels.digests.values():', 'if False:'),
        ('MOST = 0.1', 'MOST = 0.9'),
        ('SAMPLE = 200', 'SAMPLE = 1'),
        ('place = found + len(piece)', 'place = 0'),
        ('if word == UNKNOWN or not piece:', 'if not piece:'),
        ('text.lower())', 'text)'),
        ('(IMAGES, list(ids))', '(IMAGES, sorted(ids))'),
        ('(VOCABULARY, words)', '(VOCABULARY, len(words))')),
    *faults_in(
        'misc/dataset/grids.py', [GRIDS],
        ('[side / float(width), side / float(height)]', '[side / float(height), side / float(width)]'),
        ('np.minimum(edges[1], cells + 1) - ', 'np.minimum(edges[1], cells + 2) - '),
        ('np.maximum(edges[0], cells), 0)', 'edges[0], 0)'),
        ('down[:, None] * across', 'across[:, None] * down'),
        ('[width, height, width, height]', '[width, width, height, height]'),
        ('/ size, 0, 1)', '/ size, 0, 2)'),
        ('| (boxes[:, 3] < boxes[:, 1])', ''),
        ('(boxes[:, 2] < boxes[:, 0]) | (', '('),
        ('if not np.isfinite(boxes).all():', 'if not np.isfinite(boxes).any():'),
        ('if not len(boxes):', 'if False:'),
        ('max(float(boxes[:, 2].max()), 1.0)', 'float(boxes[:, 2].max())'),
        ('max(float(boxes[:, 3].max()), 1.0)', 'max(float(boxes[:, 2].max()), 1.0)'),
        ('sizes[image_id] = _checked_size(size, image_id, box_dir)',
         'sizes.setdefault(image_id, _checked_size(size, image_id, box_dir))'),
        ('sizes[str(image_id)] = _checked_size(size, image_id, path)',
         'sizes.setdefault(str(image_id), _checked_size(size, image_id, path))'),
        ("0 < width < float('inf') and", "0 <= width < float('inf') and"),
        ('not isinstance(size, str) and', '')),
    *faults_in(
        'misc/dataset/regions.py', [WRONG_ARRAYS, CHANGES, MISSING],
        ('if len(rows) != regions:', 'if len(rows) < regions:'),
        ('if len(rows) != regions:', 'if len(rows) > regions:'),
        ('unit_rows(rows) if self.sources.norm_box_feat else rows', 'rows'),
        ('features is not None and self.sources.norm_img_feat', 'False'),
        ('low < -1e-3 or high > 1 + 1e-3', 'low < -1e-3'),
        ('not is_relative and high <= 1:', 'False:'),
        ('if features.shape[1] != self.sources.img_feat_size:', 'if False:'),
        ('[one for one in ids if one not in there]', '[]'),
        ('grids.ndim != 2 or grids.shape[1] != cells', 'grids.ndim != 2'),
        ('if mean.ndim != 1:', 'if False:'),
        ('features.ndim not in (2, 3) or not features.size', 'features.ndim not in (2, 3)'),
        ('if missing:', 'if len(missing) > 2:')),
    *faults_in(
        'misc/dataset/regions.py', [SOURCES, MEANS, RELATIONS],
        ('np.linalg.norm(array, axis=1, keepdims=True)', 'np.linalg.norm(array, 1, axis=1, keepdims=True)'),
        ('features.mean(0, keepdims=True)', 'features.max(0, keepdims=True)'),
        ('relative_boxes(boxes, *size), where', 'relative_boxes(boxes, *size[::-1]), where'),
        ("'features' in self.needs or 'fc' not in self.readers", 'True'),
        ("'boxes' in self.needs or 'grids' in self.needs and 'grid' not in self.readers", "'boxes' in self.needs")),
    *faults_in(
        'misc/dataset/array_files.py', [READERS, WRONG_ARRAYS, MISSING],
        ('if not np.isfinite(array).all():', 'if not np.isfinite(array).any():'),
        ("array.dtype.kind not in 'fiu'", "array.dtype.kind not in 'fiuU'"),
        ('array = np.asarray(array, dtype=np.float32)', 'array = np.asarray(array, dtype=np.float16)'),
        ('{entry.name[:-4] for entry in os.scandir(self.path)\n                if entry.name.endswith(self.suffix)}',
         '{entry.name[:entry.name.find(".")] for entry in os.scandir(self.path)}')),
    *faults_in(
        'misc/dataset/array_files.py', [KNOWN, UNTRUSTED],
        ('self.folder.check()', 'pass'),
        ('if member.file_size > LARGEST:', 'if False:')),
    *faults_in(
        'misc/dataset/packed.py', [READERS, WRONG_DATA, PACKED, KNOWN],
        ('self.file[self.offsets[index]:', 'self.file[self.offsets[0]:'),
        ('* self.width * self.dtype.itemsize\n', '* self.width * 4\n'),
        ('self.known.check(self.descriptor)', 'pass'),
        ("'state', axes=1) > 0", "'state', axes=1) >= 0"),
        ('len(counts) != images or', ''),
        ('or len(set(ids)) != images', ''),
        ('or self.offsets[-1] != rows', ''),
        ('(*self.maps[index], self.width)', '(*self.maps[index][::-1], self.width)'),
        ('if all(size)}', '}'),
        ('!= array.nbytes:', '== 0:'),
        ('if self.process != os.getpid():', 'if self.process is None:'),
        ("return {**self.__dict__, 'file': None, 'process': None}", 'return dict(self.__dict__)')),
    *faults_in(
        'misc/dataset/packing.py', [PACKED],
        ('if not np.isfinite(stored).all():', 'if False:'),
        ('if array.shape != reader.shape(image_id):', 'if False:'),
        ('sizes.get(image_id, (0, 0))', 'sizes.get(image_id, (1, 1))'),
        ('left = left[file.write(left):]', 'left = left[file.write(left) and len(left):]'),
        ('self.state[self.index[image_id]] = state', 'self.state[:] = state'),
        ('if needed > room:', 'if needed > room * 1e9:'),
        ('np.cumsum([0, *counts], dtype=np.int64)', 'np.cumsum([0, *counts[::-1]], dtype=np.int64)')),
    *faults_in(
        'misc/dataset/karpathy.py', [LABELS],
        ("first = self.images.setdefault(image['id'], image)", "first = self.images[image['id']] = image"),
        ("IDS = ('cocoid', 'imgid',", "IDS = ('imgid', 'cocoid',"),
        ("raw if isinstance(raw, str) and raw else ' '.join(tokens)", "' '.join(tokens)"),
        ("return f'{folder}/{name}' if", 'return name if'),
        ('if self.captions and (not isinstance(split, str) or not split):', 'if False:')),
    *faults_in(
        'misc/disk/known.py', [KNOWN],
        ('found.st_size, found.st_mtime_ns', 'found.st_size, 0'),
        ('found.st_size, found.st_mtime_ns', '0, found.st_mtime_ns',
         'a file of another size has another time of its last change too'),
        ('(state_of(self.path) or (0, 0))[:2] != self.state', 'False'),
        ('self.check(file.fileno())', 'pass')),
]
