/* The right-hand side: the details of the open image, or a description of the page where none is open. */
'use strict';

const TITLES = new Map(Object.entries({Bleu_1: 'BLEU-1', Bleu_2: 'BLEU-2', Bleu_3: 'BLEU-3', Bleu_4: 'BLEU-4',
                                       ROUGE_L: 'ROUGE-L', log_prob: 'log-probability'}));
const LAYERS = {mean: 'all layers', last: 'last layer'};
const TOUCH = matchMedia('(any-hover: none)');  // no mouse: nothing can be pointed at
const LISTED = 8;  // regions that are listed for a word, those with the largest weights

function scoreTitle(name) { return TITLES.get(name) || name; }

function scoreText(value) {
  if (value === null || value === undefined) return '–';
  return value.toFixed(Math.abs(value) >= 100 ? 1 : Math.abs(value) >= 10 ? 2 : 3);
}

/* What one does to a word or a region, at the beginning of a sentence. */
function pointAt() { return TOUCH.matches ? 'Tap' : 'Point at'; }

/* Let Tab stop at only one of the buttons in `node`; arrow keys move to the others. */
function roving(node, back, forth) {
  const items = () => [...node.querySelectorAll('button')];
  node.addEventListener('keydown', (event) => {
    const all = items(), at = all.indexOf(document.activeElement);
    const to = {[back]: at - 1, [forth]: at + 1, Home: 0, End: all.length - 1}[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    all[Math.min(all.length - 1, Math.max(0, to))].focus();
  });
  node.addEventListener('focusin', (event) => {
    items().forEach((item) => { item.tabIndex = item === event.target ? 0 : -1; });
  });
  items().forEach((item, i) => { item.tabIndex = i ? -1 : 0; });
}

class Details {
  /* `step(by)` opens another image, `leave()` closes it; `positionOf(entry)` is its position in the list, a text. */
  constructor(node, {step, leave, positionOf}) {
    this.node = node;
    this.positionOf = positionOf;
    this.layer = 'mean';
    this.asCells = false;
    this.spoken = element('p', {class: 'unseen', 'aria-live': 'polite'});  // for screen readers
    this.position = element('span', {class: 'position'});
    const button = (text, title, act) => {
      const made = element('button', {type: 'button', title}, text);
      made.addEventListener('click', act);
      return made;
    };
    this.bar = element('nav', {class: 'bar', 'aria-label': 'Images'},
                       button('← Previous', 'previous image (p)', () => step(-1)),
                       button('Next →', 'next image (n)', () => step(1)), this.position,
                       button('Close', 'back to the list (Escape)', leave));
    this.body = element('div', {class: 'body'});
    node.append(this.bar, this.body, this.spoken);
    this.entry = -1;
  }

  /* Describe the page. */
  about() {
    this.entry = -1;
    this.bar.classList.add('of-about');
    this.spoken.textContent = '';
    const facts = element('dl', {class: 'facts'});
    for (const [what, text] of PAGE.about) facts.append(element('dt', {}, what), element('dd', {}, text));
    this.body.replaceChildren(element('div', {class: 'about'},
      element('h2', {}, 'Choose an image'),
      element('p', {class: 'lead'}, `Its regions, references and scores are then shown. ${pointAt()} a word of its ` +
              'caption to highlight the regions that the model attended to when it chose that word.'),
      ...this.scoreList(PAGE.overall, 'Scores over all images'),
      element('h3', {}, 'How the captions were made'), facts,
      element('h3', {}, 'What the highlights show'), element('p', {}, PAGE.attention), element('p', {}, PAGE.places),
      ...(TOUCH.matches ? [] : [element('h3', {}, 'Keys'), element('p', {class: 'keys'}, ...keyHelp(
        [['←', '→', '↑', '↓'], 'move between images, words or regions'], [['Enter'], 'open an image'],
        [['n', 'p'], 'next, previous image'], [['Esc'], 'deselect the word, then close the image'],
        [['/'], 'search']))])));
  }

  /* Show an entry; `focus`: focus its first word. */
  async show(entry, focus) {
    this.entry = entry;
    this.word = {pinned: -1, over: -1};
    this.region = {pinned: -1, over: -1};
    this.bar.classList.remove('of-about');
    this.position.textContent = this.positionOf(entry);
    this.spoken.textContent = '';
    this.regions = this.words = null;
    this.build(entry);
    this.node.scrollTop = 0;
    try {
      const details = (await shardOf(entry))[entry % PAGE.shard];
      if (this.entry !== entry) return;
      this.regions = new Regions(details);
      this.fillIn(details);
      if (focus) (this.sentence.querySelector('button') || this.node).focus();
    } catch (error) {
      if (this.entry !== entry) return;
      this.hint.textContent = `The details of this image could not be loaded (${error.message}). ` +
        'If the page was rewritten after you opened it, reload it.';
    }
  }

  build(entry) {
    const name = PAGE.pictures[entry];
    this.picture = null;
    let frame = element('p', {class: 'picture missing'}, 'This picture could not be read.');
    if (name) {
      this.picture = new Picture(
        `imgs/${name}`, PAGE.sizes[entry], `The picture: ${PAGE.captions[entry]}`,
        (region) => { this.region.over = region; this.draw(); },
        (region) => { this.region.pinned = region === this.region.pinned ? -1 : region; this.draw(); });
      frame = this.picture.node;
    }
    this.sentence = element('p', {class: 'sentence'}, PAGE.captions[entry] || '(no words)');
    this.hint = element('p', {class: 'hint'});
    this.legend = element('div', {class: 'legend'});
    this.switches = element('div', {class: 'switches'});
    this.strong = element('div', {class: 'strong'});
    this.coverage = element('div', {class: 'cover'});
    this.more = element('div', {});
    const scores = {};
    for (const [score, values] of Object.entries(PAGE.scores)) scores[score] = values[entry];
    this.body.replaceChildren(element('h2', {class: 'unseen'}, `Image ${PAGE.ids[entry]}`), frame, this.sentence, this.hint, this.legend, this.switches,
      element('div', {class: 'two'}, this.strong, this.coverage), this.more,
      ...this.references(entry), ...this.scoreList(scores, 'Scores of this image'),
      element('p', {class: 'file'}, element('span', {}, PAGE.names[entry]), ` · image ${PAGE.ids[entry]}`));
  }

  /* Turn the words into buttons and add what depends on the regions. */
  fillIn(details) {
    const {regions} = this, attention = Object.keys(regions.attention);
    this.words = details.words;
    if (this.picture) this.picture.regions = regions;
    if (attention.length && regions.count) {
      this.sentence.replaceChildren(
        ...details.words.flatMap((word, i) => [i ? ' ' : '', this.wordButton(word, i)]));
      this.sentence.setAttribute('role', 'group');
      this.sentence.setAttribute('aria-label', 'Words of the caption');
      roving(this.sentence, 'ArrowLeft', 'ArrowRight');
      this.sentence.addEventListener('pointerleave', () => { this.word.over = -1; this.draw(); });
    } else if (details.words.length) {
      this.hint.textContent = PAGE.attention;
    }
    if (!regions.rectangles && attention.length) {
      this.hint.textContent = 'The positions of the regions are unknown, so only their weights are listed.';
    }
    if (attention.length > 1) {
      this.switches.append(this.toggle('Attention of', LAYERS,
        () => this.layer, (value) => { this.layer = value; }));
    }
    if (regions.boxes && regions.side) {
      this.switches.append(this.toggle('Show', {boxes: 'boxes', cells: `${regions.side} × ${regions.side} grid`},
        () => (this.asCells ? 'cells' : 'boxes'), (value) => { this.asCells = value === 'cells'; }));
    }
    if (details.others.length) {
      this.more.append(element('h3', {}, 'Other captions by the model'),
                       element('ol', {class: 'others'}, ...details.others.map((text) => element('li', {}, text))));
    }
    if (!regions.side) this.coverage.remove();
    this.draw();
  }

  wordButton(word, i) {
    const made = element('button', {type: 'button', class: 'word', 'aria-pressed': 'false'}, word);
    let held = false;
    made.addEventListener('pointerenter', () => { this.word.over = i; this.draw(); });
    made.addEventListener('pointerdown', () => { held = this.word.pinned === i; });
    made.addEventListener('focus', () => { this.word = {pinned: i, over: -1}; this.draw(); });
    made.addEventListener('click', () => { this.word.pinned = held ? -1 : i; held = !held; this.draw(); });
    return made;
  }

  /* A choice between `choices`, {value: text}, as radio buttons. */
  toggle(label, choices, get, set) {
    const name = `choice-${label}`;
    const set_ = element('fieldset', {class: 'toggle'}, element('legend', {}, label));
    for (const [value, text] of Object.entries(choices)) {
      const input = element('input', {type: 'radio', name, value});
      input.checked = get() === value;
      input.addEventListener('change', () => { set(value); this.draw(); });
      set_.append(element('label', {}, input, element('span', {}, text)));
    }
    return set_;
  }

  /* The weights of all regions for a word, or null. */
  weights(word) {
    const layers = this.regions.attention, layer = layers[this.layer] || layers.mean;
    return layer && word >= 0 ? layer[word] : null;
  }

  draw() {
    if (!this.regions) return;
    const word = this.word.over >= 0 ? this.word.over : this.word.pinned;
    const region = this.region.over >= 0 ? this.region.over : this.region.pinned;
    const weights = this.weights(word);
    if (this.picture) this.picture.draw(weights, this.asCells, region);
    this.sentence.querySelectorAll('.word').forEach((button, i) => {
      button.classList.toggle('lit', i === word);
      button.setAttribute('aria-pressed', String(i === this.word.pinned));
    });
    this.drawLegend(word, weights);
    if (this.listed !== weights || !this.strong.firstChild) this.list(word, weights);
    this.listed = weights;
    this.strong.querySelectorAll('button').forEach((button) => {
      button.classList.toggle('picked', Number(button.dataset.region) === region);
    });
    this.drawCoverage(region);
  }

  drawLegend(word, weights) {
    this.legend.replaceChildren();
    if (!Object.keys(this.regions.attention).length || !this.regions.count) return;
    if (!weights) {
      this.legend.append(element('p', {class: 'hint'},
        `${pointAt()} a word${TOUCH.matches ? '' : ', or use ← and →,'} to see which regions the model attended to.`));
      this.spoken.textContent = '';
      return;
    }
    const most = Math.max(...weights), even = 1 / this.regions.count;
    const ramp = element('span', {class: 'ramp'});
    if (this.asCells && this.regions.side) {  // brightness shows sums of weights
      ramp.style.background = dimGradient;
      this.legend.append(element('span', {}, 'no attention'), ramp, element('span', {}, 'most'));
    } else {
      ramp.style.background = rampGradient;
      if (even < most) {
        const tick = element('i', {title: 'the weight of each region if all were equal'});
        tick.style.left = `${100 * even / most}%`;
        ramp.append(tick);
      }
      this.legend.append(element('span', {}, '0 %'), ramp, element('span', {}, percent(most)),
                         element('span', {class: 'even'}, `│ uniform ${percent(even)}`));
    }
    const order = [...weights.keys()].sort((p, q) => weights[q] - weights[p]).slice(0, 3);
    const largest = order.map((p) => `region ${p + 1}, ${percent(weights[p])}`).join('; ');
    this.spoken.textContent = `${this.words[word]}: ${largest}`;
  }

  /* List the regions with the largest weights for the word, or on average over all words; without attention, all
     regions. */
  list(word, weights) {
    const {regions} = this, layer = regions.attention[this.layer] || regions.attention.mean;
    this.strong.replaceChildren();
    if (!regions.count) {
      this.strong.append(element('p', {class: 'hint'}, 'The regions of this image are unknown.'));
      return;
    }
    const buttons = element('div', {class: 'buttons', role: 'group', 'aria-label': 'Regions'});
    let title = `${regions.count} regions`;
    if (layer) {
      const shown = weights || Array.from({length: regions.count}, (_, p) =>
        layer.reduce((sum, one) => sum + one[p], 0) / layer.length);
      const order = [...shown.keys()].sort((p, q) => shown[q] - shown[p]).slice(0, LISTED);
      title = weights ? `Attention for “${this.words[word]}”` : 'Attention, mean over all words';
      buttons.append(...order.map((p) => this.regionButton(p, shown[p], shown[order[0]])));
      const rest = order.reduce((left, p) => left - shown[p], 1);
      this.strong.append(element('h3', {}, title), buttons);
      if (regions.count > LISTED) {
        this.strong.append(element('p', {class: 'hint'},
          `The other ${regions.count - LISTED} regions share ${percent(Math.max(0, rest))}.`));
      }
    } else {
      buttons.classList.add('chips');
      for (let p = 0; p < regions.count; p++) buttons.append(this.regionButton(p));
      this.strong.append(element('h3', {}, title), buttons);
    }
    roving(buttons, 'ArrowUp', 'ArrowDown');
  }

  regionButton(p, weight, most) {
    const made = element('button', {type: 'button', class: 'region', 'data-region': p},
                         element('b', {}, String(p + 1)));
    if (weight !== undefined) {
      const bar = element('i', {});
      bar.style.width = `${100 * weight / (most || 1)}%`;
      bar.style.background = colour(weight / (most || 1));
      made.append(element('span', {class: 'weight'}, bar), element('span', {}, percent(weight)));
      made.setAttribute('aria-label', `region ${p + 1}, ${percent(weight)}`);
    } else {
      made.setAttribute('aria-label', `region ${p + 1}`);
    }
    made.addEventListener('pointerenter', () => { this.region.over = p; this.draw(); });
    made.addEventListener('pointerleave', () => { this.region.over = -1; this.draw(); });
    const pick = () => { this.region = {pinned: p, over: -1}; this.draw(); };
    made.addEventListener('focus', pick);
    made.addEventListener('click', pick);  // Safari does not focus a button that is tapped
    made.addEventListener('blur', () => { this.region.pinned = -1; this.draw(); });
    return made;
  }

  drawCoverage(region) {
    const {regions} = this;
    if (!regions.side) return;
    this.coverage.replaceChildren(element('h3', {},
      region < 0 ? 'Grid coverage' : `Grid coverage of region ${region + 1}`));
    if (region < 0) {
      this.coverage.append(element('p', {class: 'hint'},
        `${pointAt()} a region, in the picture or in the list, to see which grid cells it covers.`));
      return;
    }
    this.coverage.append(coverageDrawing(regions, region));
  }

  references(entry) {
    const texts = PAGE.references[entry];
    if (!texts.length) return [element('p', {class: 'hint'}, 'This image has no references.')];
    const words = new Set(PAGE.captions[entry].toLowerCase().split(/\s+/));
    const lines = texts.map((text) => element('li', {}, ...text.split(/([\p{L}\p{N}]+)/u).map((piece) =>
      (words.has(piece.toLowerCase()) ? element('span', {class: 'shared'}, piece) : piece))));
    return [element('h3', {}, 'References'), element('ol', {class: 'references'}, ...lines),
            element('p', {class: 'hint'}, 'Words that also occur in the caption are emphasised.')];
  }

  scoreList(scores, title) {
    const known = Object.entries(scores).filter(([, value]) => value !== null && value !== undefined);
    if (!known.length) return [];
    return [element('h3', {}, title), element('dl', {class: 'scores'}, ...known.map(([name, value]) =>
      element('div', {}, element('dt', {}, scoreTitle(name)), element('dd', {}, scoreText(value)))))];
  }

  /* Deselect the word; false where none was selected. */
  deselect() {
    if (this.entry < 0 || !this.word || this.word.pinned < 0) return false;
    this.word = {pinned: -1, over: -1};
    this.draw();
    return true;
  }
}

function keyHelp(...rows) {
  return rows.map(([keys, text]) =>
    element('span', {}, ...keys.flatMap((key) => [element('kbd', {}, key), ' ']), text));
}

/* The details of the images whose file also holds those of `entry`, loaded when first needed. */
const shards = new Map();

function shardOf(entry) {
  const number = Math.floor(entry / PAGE.shard);
  if (!shards.has(number)) {
    shards.set(number, new Promise((resolve, reject) => {
      const base = document.querySelector('script[src$="entries.js"]').getAttribute('src');
      const script = element('script', {src: base.replace('entries.js', `${number}.js`)});
      script.addEventListener('load', () => resolve(PAGE.details[number]));
      script.addEventListener('error', () => {
        shards.delete(number);
        reject(new Error(`${number}.js is missing`));
      });
      document.head.append(script);
    }));
  }
  return shards.get(number);
}
