/* What ties the page together: finding, ordering, the address of an image. */
'use strict';

PAGE.details = [];
const byId = (id) => document.getElementById(id);
const everything = PAGE.ids.map((_, place) => place);
const placeOf = new Map(PAGE.ids.map((id, place) => [id, place]));
const scoreNames = Object.keys(PAGE.scores);
const STEPS = 100, BINS = 50;
let shown = everything, ends = [0, 1], texts = null;

const list = new CardList(byId('scroller'), byId('list'), (card, place) => {
  const picture = PAGE.pictures[place];
  card.link.href = `#${encodeURIComponent(PAGE.ids[place])}`;
  card.picture.hidden = !picture;
  card.blank.hidden = Boolean(picture);
  if (picture) card.picture.src = `thumbs/${picture}`;
  card.caption.textContent = PAGE.captions[place] || '(no words)';
  const score = byId('score').value;
  card.score.textContent = score ? `${scoreTitle(score)} ${scoreText(PAGE.scores[score][place])}` : '';
});
const side = new Details(byId('side'), {
  step: (by) => step(by), leave: () => leave(),
  where: (place) => {
    const at = shown.indexOf(place);
    if (at < 0) return 'not among those shown';
    return `${(at + 1).toLocaleString('en')} of ${shown.length.toLocaleString('en')}`;
  }});

function values() { return PAGE.scores[byId('score').value] || []; }

/* The text of each entry that is searched, in lower case: made when it is wanted first. */
function haystack(place) {
  texts = texts || everything.map((at) =>
    [PAGE.captions[at], ...PAGE.references[at], PAGE.names[at], PAGE.ids[at]].join('\n').toLowerCase());
  return texts[place];
}

/* Set the ends of the range of scores anew. */
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

/* At its end a slider stands for the end itself: rounding may lead past it. */
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

function words(place) { return PAGE.captions[place].split(' ').length; }

/* Entries without the score come last, whatever the order; `sign` -1 puts the highest first. */
function compare(one, other, sign = 1) {
  if (one === null || other === null) return (one === null) - (other === null);
  return sign * (one - other);
}

/* Find and order anew. */
function refresh() {
  const wanted = byId('query').value.toLowerCase().split(/\s+/).filter(Boolean);
  const range = bounds(), [least, most] = range, scores = values();
  const bounded = least > -Infinity || most < Infinity;
  shown = everything.filter((place) => wanted.every((word) => haystack(place).includes(word))
    && (!bounded || scores[place] !== null && scores[place] >= least && scores[place] <= most));
  const order = ORDERS[byId('order').value];
  if (order) shown.sort(order);
  list.show(shown);
  if (!byId('range').hidden) drawHistogram(range);
  const all = everything.length.toLocaleString('en');
  byId('count').textContent = shown.length === everything.length
    ? `${all} ${all === '1' ? 'image' : 'images'}` : `${shown.length.toLocaleString('en')} of ${all} images`;
  byId('reset').hidden = shown.length === everything.length;
  byId('nothing').hidden = shown.length > 0;
  if (side.place >= 0) side.position.textContent = side.where(side.place);
}

function later(act, milliseconds) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(act, milliseconds); };
}

/* Show the image that the address names, or none. */
let focusNext = false, followed = null;

function follow() {
  let id = location.hash.slice(1);
  try { id = decodeURIComponent(id); } catch { /* a stray per cent sign: taken as it is */ }
  const place = placeOf.has(id) ? placeOf.get(id) : -1;
  if (place === followed) return;  // an address that changes is told of twice
  followed = place;
  document.body.classList.toggle('open', place >= 0);
  document.title = place >= 0 ? `${PAGE.captions[place]} · ${PAGE.title}` : PAGE.title;
  list.choose(place);
  if (place >= 0) side.show(place, focusNext);
  else side.about();
  focusNext = false;
  cover();
}

/* Where the chosen image covers the list, the list is out of reach. */
const narrow = matchMedia('(max-width: 62rem)');

function cover() { byId('browse').inert = narrow.matches && side.place >= 0; }

function go(place) {
  const address = place >= 0 ? `#${encodeURIComponent(PAGE.ids[place])}` : location.pathname + location.search;
  history.pushState(null, '', address);
  follow();
}

function step(by) {
  const at = shown.indexOf(side.place), to = at + by;
  if (at >= 0 && to >= 0 && to < shown.length) go(shown[to]);
  else if (at < 0 && shown.length) go(shown[0]);
}

function leave() {
  const at = shown.indexOf(side.place);
  go(-1);
  if (at >= 0) list.activate(at, true);
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
  byId('query').addEventListener('input', later(refresh, 120));
  byId('order').addEventListener('change', refresh);
  byId('score').addEventListener('change', () => { resetRange(); refresh(); });
  const soon = later(refresh, 60);
  byId('least').addEventListener('input', () => { cross('least', 'most', Math.min); soon(); });
  byId('most').addEventListener('input', () => { cross('most', 'least', Math.max); soon(); });
  byId('reset').addEventListener('click', () => {
    byId('query').value = '';
    resetRange();
    refresh();
    byId('query').focus();
  });
  byId('list').addEventListener('click', (event) => {
    focusNext = event.detail === 0 && Boolean(event.target.closest('a'));
  });
  byId('to-about').addEventListener('click', (event) => { event.preventDefault(); go(-1); byId('side').focus(); });
  document.addEventListener('keydown', keys);
  narrow.addEventListener('change', cover);
  window.addEventListener('hashchange', follow);
  window.addEventListener('popstate', follow);
  resetRange();
  refresh();
  follow();
}

/* Keep one end of the range from passing the other. */
function cross(moved, other, pick) {
  byId(moved).value = pick(Number(byId(moved).value), Number(byId(other).value));
}

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target.closest('input:not([type=range]):not([type=radio]), select');
  if (event.key === 'Escape' && side.place >= 0 && !typing) {
    if (!side.letGo()) leave();
  } else if (!typing && event.key === 'n') step(1);
  else if (!typing && event.key === 'p') step(-1);
  else if (!typing && event.key === '/') { event.preventDefault(); byId('query').focus(); }
}

start();
