/* The page as a whole: search, order, the URL of an image, keys. */
'use strict';

PAGE.details = [];
const byId = (id) => document.getElementById(id);
const allEntries = PAGE.ids.map((_, entry) => entry);
const entryOf = new Map(PAGE.ids.map((id, entry) => [id, entry]));
const scoreNames = Object.keys(PAGE.scores);
const STEPS = 100, BINS = 50;
let shown = allEntries, ends = [0, 1], texts = null;

const list = new CardList(byId('scroller'), byId('list'), (card, entry) => {
  const picture = PAGE.pictures[entry];
  card.link.href = `#${encodeURIComponent(PAGE.ids[entry])}`;
  card.picture.hidden = !picture;
  card.blank.hidden = Boolean(picture);
  if (picture) card.picture.src = `thumbs/${picture}`;
  card.caption.textContent = PAGE.captions[entry] || '(no words)';
  const score = byId('score').value;
  card.score.textContent = score ? `${scoreTitle(score)} ${scoreText(PAGE.scores[score][entry])}` : '';
});
const side = new Details(byId('side'), {
  step: (by) => step(by), leave: () => leave(),
  positionOf: (entry) => {
    const at = shown.indexOf(entry);
    if (at < 0) return 'not in the list';
    return `${(at + 1).toLocaleString('en')} of ${shown.length.toLocaleString('en')}`;
  }});

function values() { return PAGE.scores[byId('score').value] || []; }

/* The text of an entry that is searched, in lower case; computed for all entries when first needed. */
function searchText(entry) {
  texts = texts || allEntries.map((at) =>
    [PAGE.captions[at], ...PAGE.references[at], PAGE.names[at], PAGE.ids[at]].join('\n').toLowerCase());
  return texts[entry];
}

/* Reset the range of scores to that of the selected score. */
function resetRange() {
  const known = values().filter((value) => value !== null);
  ends = known.length ? [Math.min(...known), Math.max(...known)] : [0, 0];
  byId('range').hidden = ends[0] >= ends[1];
  byId('least').value = 0;
  byId('most').value = STEPS;
  const title = scoreTitle(byId('score').value);
  byId('least').setAttribute('aria-label', `Lowest ${title} to show`);
  byId('most').setAttribute('aria-label', `Highest ${title} to show`);
}

/* A slider at its end means the end itself, which rounding might miss. */
function bounds() {
  const [least, most] = ['least', 'most'].map((input) => Number(byId(input).value));
  const at = (steps) => (steps === STEPS ? ends[1] : ends[0] + (ends[1] - ends[0]) * steps / STEPS);
  return [least ? at(least) : -Infinity, most === STEPS ? Infinity : at(most)];
}

function drawHistogram([least, most]) {
  const counts = new Array(BINS).fill(0), width = (ends[1] - ends[0]) / BINS;
  for (const value of values()) {
    if (value !== null) counts[Math.min(BINS - 1, Math.floor((value - ends[0]) / width))]++;
  }
  const tallest = Math.max(...counts, 1), plot = byId('histogram');
  plot.setAttribute('viewBox', `0 0 ${BINS} 1`);
  plot.replaceChildren(...counts.map((count, bin) => {
    const middle = ends[0] + (bin + 0.5) * width, height = count ? Math.max(0.03, count / tallest) : 0;
    const kind = middle >= least && middle <= most ? 'in' : 'out';
    return svg('rect', {x: bin + 0.08, width: 0.84, y: 1 - height, height, class: kind});
  }));
  const [low, high] = [Math.max(least, ends[0]), Math.min(most, ends[1])].map(scoreText);
  byId('bounds').textContent = `${low} to ${high}`;
  byId('least').setAttribute('aria-valuetext', low);
  byId('most').setAttribute('aria-valuetext', high);
}

const ORDERS = {
  given: null,
  low: (one, other) => compare(values()[one], values()[other]),
  high: (one, other) => compare(values()[one], values()[other], -1),
  short: (one, other) => words(one) - words(other),
  long: (one, other) => words(other) - words(one),
};

function words(entry) { return PAGE.captions[entry].split(' ').length; }

/* Order by scores, the highest first where `sign` is -1; entries without a score come last in both cases. */
function compare(one, other, sign = 1) {
  if (one === null || other === null) return (one === null) - (other === null);
  return sign * (one - other);
}

/* Search and sort again. */
function refresh() {
  const wanted = byId('query').value.toLowerCase().split(/\s+/).filter(Boolean);
  const range = bounds(), [least, most] = range, scores = values();
  const bounded = least > -Infinity || most < Infinity;
  shown = allEntries.filter((entry) => wanted.every((word) => searchText(entry).includes(word))
    && (!bounded || scores[entry] !== null && scores[entry] >= least && scores[entry] <= most));
  const order = ORDERS[byId('order').value];
  if (order) shown.sort(order);
  list.show(shown);
  if (!byId('range').hidden) drawHistogram(range);
  const all = allEntries.length.toLocaleString('en');
  byId('count').textContent = shown.length === allEntries.length
    ? `${all} ${all === '1' ? 'image' : 'images'}` : `${shown.length.toLocaleString('en')} of ${all} images`;
  byId('reset').hidden = shown.length === allEntries.length;
  byId('nothing').hidden = shown.length > 0;
  if (side.entry >= 0) side.position.textContent = side.positionOf(side.entry);
}

function debounced(act, milliseconds) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(act, milliseconds); };
}

/* Show the image that the URL names, or none.  No image has the URL of the description, since slashes in ids are
   encoded. */
const ABOUT = '#/about';
let focusNext = false, followed = null;

function follow() {
  let id = location.hash.slice(1);
  try { id = decodeURIComponent(id); } catch { /* a stray percent sign: take it literally */ }
  const about = location.hash === ABOUT, entry = !about && entryOf.has(id) ? entryOf.get(id) : -1;
  if (followed === (about ? ABOUT : entry)) return;  // a change fires both hashchange and popstate
  followed = about ? ABOUT : entry;
  document.body.classList.toggle('open', about || entry >= 0);
  document.title = entry >= 0 ? `${PAGE.captions[entry]} · ${PAGE.title}` : PAGE.title;
  list.choose(entry);
  if (entry >= 0) side.show(entry, focusNext);
  else side.about();
  focusNext = false;
  disableCovered();
}

/* Where the open image or the description covers the list, the list cannot be focused. */
const narrow = matchMedia('(max-width: 62rem)');

function disableCovered() { byId('browse').inert = narrow.matches && document.body.classList.contains('open'); }

function go(entry) {
  visit(entry >= 0 ? `#${encodeURIComponent(PAGE.ids[entry])}` : location.pathname + location.search);
}

function visit(url) {
  history.pushState(null, '', url);
  follow();
}

function step(by) {
  const at = shown.indexOf(side.entry), to = at + by;
  if (at >= 0 && to >= 0 && to < shown.length) go(shown[to]);
  else if (at < 0 && shown.length) go(shown[0]);
}

function leave() {
  const at = shown.indexOf(side.entry);
  go(-1);
  if (at >= 0) list.activate(at, true);
  else byId('to-about').focus();
}

function start() {
  byId('title').textContent = PAGE.title;
  byId('score').append(...scoreNames.map((name) => element('option', {value: name}, scoreTitle(name))));
  if (scoreNames.includes('CIDEr')) byId('score').value = 'CIDEr';
  byId('score').closest('label').hidden = !scoreNames.length;
  byId('order').value = 'given';
  if (!scoreNames.length) {
    byId('order').querySelectorAll('[value=low], [value=high]').forEach((option) => option.remove());
  }
  byId('least').max = byId('most').max = STEPS;
  byId('query').addEventListener('input', debounced(refresh, 120));
  byId('order').addEventListener('change', refresh);
  byId('score').addEventListener('change', () => { resetRange(); refresh(); });
  const soon = debounced(refresh, 60);
  byId('least').addEventListener('input', () => { keepOrder('least', 'most', Math.min); soon(); });
  byId('most').addEventListener('input', () => { keepOrder('most', 'least', Math.max); soon(); });
  byId('reset').addEventListener('click', () => {
    byId('query').value = '';
    resetRange();
    refresh();
    byId('query').focus();
  });
  byId('list').addEventListener('click', (event) => {
    focusNext = event.detail === 0 && Boolean(event.target.closest('a'));
  });
  byId('to-about').addEventListener('click', (event) => { event.preventDefault(); visit(ABOUT); byId('side').focus(); });
  document.addEventListener('keydown', keys);
  narrow.addEventListener('change', disableCovered);
  window.addEventListener('hashchange', follow);
  window.addEventListener('popstate', follow);
  resetRange();
  refresh();
  follow();
}

/* Keep one end of the range from passing the other. */
function keepOrder(moved, other, pick) {
  byId(moved).value = pick(Number(byId(moved).value), Number(byId(other).value));
}

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target.closest('input:not([type=range]):not([type=radio]), select');
  if (event.key === 'Escape' && document.body.classList.contains('open') && !typing) {
    if (!side.deselect()) leave();
  } else if (!typing && event.key === 'n') step(1);
  else if (!typing && event.key === 'p') step(-1);
  else if (!typing && event.key === '/') { event.preventDefault(); byId('query').focus(); }
}

start();
