"""Faults in the folder of a run: saving, finding, resuming, recording."""

from tests.stress.faults.fault import faults_in

TRAIN = 'tests/programs/test_train.py'
RESUMED = f'{TRAIN}::test_a_resumed_run_has_the_weights_of_an_uninterrupted_one_bit_for_bit'
NAMES = f'{TRAIN}::test_whatever_the_names_a_run_goes_on_from_its_last_model_with_its_last_infos_and_moments'
LAST_VALIDATION = f'{TRAIN}::test_a_run_that_was_killed_in_its_last_validation_validates_when_it_goes_on'
KEPT_APART = f'{TRAIN}::test_a_run_is_not_overwritten_by_another_and_a_missing_one_is_named'
PHASES = 'tests/programs/test_phases.py'
PLATEAU = f'{PHASES}::test_a_plateau_goes_on_where_it_was_when_a_run_is_resumed'
SECOND = (f'{PHASES}::test_the_second_phase_begins_without_the_plateau_of_the_first_and_keeps_its_own_'
          'when_resumed')
SELF_CRITICAL = 'tests/programs/test_self_critical.py'
IN_PHASE = f'{SELF_CRITICAL}::test_resumed_in_the_middle_of_the_phase_it_is_the_same_run_bit_for_bit'
COURSE = 'tests/programs/test_flags.py::test_each_flag_of_the_course_of_a_run_has_its_effect'
BAD_RUN = 'tests/programs/test_bad_run.py'
RANKS = 'tests/programs/test_parallel.py::test_each_process_draws_its_own_dropout'
IDENTITY = 'tests/run/test_identity.py'
INFOS = 'tests/run/test_infos.py'
RECORD = 'tests/run/test_record.py'
LOG = 'tests/run/test_log.py'
SIGNALS = 'tests/run/test_signals.py'
STATE = 'tests/run/test_state.py'
FILESETS = 'tests/disk/test_filesets.py'
HISTORIES = 'tests/compare/test_plot_history.py'
READERS = 'tests/stress/test_fuzz.py::test_every_reader_and_its_plain_one_agree_on_the_whole_file'

FAULTS = [
    *faults_in(
        'misc/run/folder.py', [STATE, PLATEAU, SECOND, RESUMED, LAST_VALIDATION, IN_PHASE],
        ("'plateau': self.plateau.state(), ", ''),
        ("plateau=Plateau(infos.get('plateau'))", 'plateau=Plateau()'),
        ("state.histories.update(infos.get('histories') or {})", 'pass'),
        ("Best(infos.get('best_val_score'), infos.get('best_measure'))", "Best(infos.get('best_val_score'))"),
        ("validations=infos.get('validations') or []", 'validations=[]'),
        ("cider=CollapseWatch(infos.get('first_cider'))", 'cider=CollapseWatch()'),
        ("infos.get('self_critical_from', begun)", 'begun'),
        ("infos.get('self_critical_from', begun)", "infos.get('self_critical_from')"),
        ("self.validations[-1]['iteration'] == self.iteration", 'True'),
        ('if keeps_best:', 'if True:')),
    *faults_in(
        'misc/run/folder.py', [IDENTITY, KEPT_APART],
        ('resumed.identity if resumed.identity and not is_renamed else self.identity',
         'resumed.identity or self.identity'),
        ('            self._check_free()\n', '            pass\n'),
        ('self._check_only_run(resumed)', 'pass'),
        ('if own and other and own != other:', 'if False:'),
        ('if own and other and own != other:', 'if own != other:'),
        ('infos[identity.RUN] = self.identity', 'pass'),
        ('identity.marked(model.state_dict(), self.identity)', 'model.state_dict()'),
        ('if resumed.run_id not in (None, self.run_id):', 'if False:'),
        ('others = [run for run in runs_in(self.path) if run not in (None, self.run_id)]', 'others = []'),
        ('name in OF_ANY_RUN]', 'name in ()]')),
    *faults_in(
        'misc/run/folder.py', [COURSE, RESUMED],
        ('        if is_best:\n            files.update', '        if True:\n            files.update'),
        ('load_run_moments(optimiser, model, run, saved)', 'pass'),
        ('    run.weights = None  # as large as the model\n    restore_random(infos, seed, device)\n',
         '    run.weights = None\n'),
        ('run.optimiser_path, run.stamp = moments, stamp', 'pass')),
    *faults_in(
        'misc/run/folder.py', [INFOS, NAMES],
        ('(best if is_best else last).append(', 'last.append('),
        ("infos_name(run, best=True), f'histories_{run}.pkl'}", "f'histories_{run}.pkl'}"),
        ("infos_name(run, best=True), f'histories_{run}.pkl'}", 'infos_name(run, best=True)}'),
        ('run_id.removesuffix', 'run_id.removeprefix'),
        ('if own or len(found) == 1:', 'if own:'),
        ("os.path.basename(infos_path) != infos_name(run.infos['opt'].get('id')):", 'False:')),
    *faults_in(
        'misc/run/folder.py', [INFOS, BAD_RUN],
        ("if infos['vocab'] != vocabulary:", 'if False:'),
        ('if not torch.isfinite(value).all()]', 'if not torch.isfinite(value).any()]'),
        ('if name in own and value.shape != own[name].shape]', 'if False]'),
        ('if not isinstance(value, int) or value < 0]', 'if value is None]')),
    *faults_in(
        'misc/run/folder.py', [INFOS],
        ('value.is_floating_point() != own[name].is_floating_point()]', 'False]'),
        ("with torch.random.fork_rng(devices=[]), torch.device('meta'):", "with torch.device('cpu'):"),
        ('problem = rules.problem(infos)', "problem = ''")),
    *faults_in(
        'misc/run/folder.py', [RANKS],
        ("(seed, infos.get('iter', 0), rank)", "(seed, infos.get('iter', 0))"),
        ("(seed, infos.get('iter', 0), rank)", '(seed, rank)')),
    *faults_in(
        'misc/run/identity.py', [IDENTITY],
        ('found.update(hashlib.sha256(content).digest())', 'found.update(content)'),
        ('return secrets.token_hex(16)', "return '0' * 32"),
        ('IDENTITY.fullmatch(value) is not None', 'True'),
        ('metadata.get(METADATA) if isinstance(metadata, dict) else None', 'None')),
    *faults_in(
        'misc/run/infos.py', [INFOS],
        ('0 <= int(value) < 2 ** 62', 'int(value) < 2 ** 62'),
        ('0 <= int(value) < 2 ** 62', '0 <= int(value)'),
        ('0 < value[2] <= 1', 'value[2] <= 1'),
        ('len({str(index) for index in value}) == len(value)', 'True'),
        ("'loader': is_loader, ", ''),
        ("'random': is_random,", ''),
        ("'plateau': is_plateau, ", ''),
        ("'first_cider': is_score, ", ''),
        ("'histories': is_histories, ", ''),
        ('LARGEST_OPTION = 1 << 20', 'LARGEST_OPTION = 1 << 60'),
        ("('num_layers', MOST_LAYERS)", "('num_layers', 1 << 60)"),
        ("order.dtype.kind in 'iu'", "order.dtype.kind in 'iuf'"),
        ('value.dtype == np.uint8 and', '')),
    *faults_in(
        'misc/run/record.py', [RECORD],
        ('found.update(str(part.shape).encode())', 'pass'),
        ('(labels.labels, labels.start, labels.end)', '(labels.labels, labels.start)'),
        (", np.array(size, '<f8'))", ')'),
        ("image['split'], image.get('captions')]", "image['split']]"),
        ("[image['id'], image['split'], image", "[image['id'], image"),
        ('old.get(image, new[image]) != new[image]]', 'False]'),
        ("any(not line.startswith('#') for line in lines)", 'False'),
        ("if not name.upper().startswith('GIT_')", ''),
        ("'core.fsmonitor=false', ", ''),
        ('zlib.crc32(str(image).encode())', 'str(image)',
         'other images are looked at, which serves as well'),
        ('    if in_place:\n        raise', '    if False:\n        raise'),
        ("found['cached_tokens'] =", "found['other'] ="),
        ('[*earlier_starts(start_from), start]', '[start]'),
        ('old_options[name] != options[name]}', 'name in ()}'),
        ("part.dtype.newbyteorder('<')", 'part.dtype'),
        ('array.reshape(array.size // max(width, 1), width)', 'array'),
        ("if commit == '(initial)':", 'if False:')),
    *faults_in(
        'misc/run/log.py', [LOG],
        ('for iteration, loss in histories[LOSSES].items():', 'for iteration, loss in ():'),
        ('histories[RATES].get(iteration)', 'None'),
        ('latest = max(map(latest_time, before), default=0.0)', 'latest = 0.0'),
        ("f'.{len(before):06d}'", "'.0'"),
        ('self.histories.setdefault(REWARDS, {})[iteration] = dict(statistics)', 'pass'),
        ('self.histories[SCORES][iteration] = dict(scores)', 'pass'),
        ('self.clock = max(time.time(), latest)', 'self.clock = time.time()')),
    *faults_in(
        'misc/run/logfile.py', [LOG],
        ('training goes on\')\n            self.file = None', 'training goes on\')'),
        ('        self.file = None\n\n    @', '\n    @')),
    *faults_in(
        'misc/run/histories.py', [HISTORIES, READERS, STATE],
        ("(line for line in file if line.endswith('\\n'))", 'file'),
        ('if plain <= iteration < first), default=plain)', 'if iteration < first), default=plain)'),
        ('if iteration < first), default=0)', 'if iteration <= first), default=first)'),
        ('merged.setdefault(iteration, {}).update(numbers)', 'merged[iteration] = numbers'),
        ('if not 0 <= iteration <= LAST:', 'if not iteration <= LAST:'),
        ('isinstance(value, (int, float)) and not isinstance(value, bool)}', 'isinstance(value, (int, float))}'),
        ("history.losses[iteration] = numbers.pop('loss')", "history.losses[iteration] = numbers['loss']")),
    *faults_in(
        'misc/disk/filesets.py', [FILESETS],
        ('place = path + NEW if name in names and os.path.exists(path + NEW) else path', 'place = path'),
        ('place = path + NEW if name in names and', 'place = path + NEW if'),
        ('            if stamp(paths) == before:\n                return result', '            return result'),
        ('            if stamp(paths) == before:\n                raise\n', '            raise\n'),
        ('                finish_moves(folder)\n            except', '                pass\n            except'),
        ('            json.dump(list(files), file)', '            json.dump(list(files)[1:], file)'),
        ('os.unlink(os.path.join(folder, JOURNAL))', 'pass'),
        ('unfinished = [name for name in _journal(folder)[1] if', 'unfinished = [name for name in () if'),
        ('                refuse_links(folder)\n', '')),
    *faults_in(
        'misc/run/signals.py', [SIGNALS],
        ('return 128 + self.agreed', 'return self.agreed'),
        ('signal.signal(number, handler)', 'pass'),
        ('parallel.most(self.received)', 'self.received')),
    *faults_in(
        'misc/run/early.py', [SIGNALS],
        ('signal.getsignal(number) == signal.SIG_IGN', 'False'),
        ('sys.stdout, sys.stderr = Quiet(sys.stdout), Quiet(sys.stderr)', 'pass')),
]
