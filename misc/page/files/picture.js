/* A picture with its regions: boxes or grid cells, highlighted by the attention of a word. */
'use strict';

const SVG = 'http://www.w3.org/2000/svg';

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'class') node.className = value;
    else if (key in node && typeof value !== 'string') node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/* The colour of a weight, as its share (0 to 1) of the largest: violet, rose, orange, yellow. */
const RAMP = [[0, 88, 70, 160], [0.35, 188, 66, 140], [0.65, 240, 116, 72], [1, 255, 222, 105]];

function colour(share) {
  const at = Math.max(1, RAMP.findIndex(([stop]) => stop >= share));
  const [from, to] = [RAMP[at - 1], RAMP[at]];
  const part = (share - from[0]) / (to[0] - from[0]);
  return `rgb(${[1, 2, 3].map((i) => Math.round(from[i] + part * (to[i] - from[i]))).join(' ')})`;
}

const rampStops = RAMP.map(([stop, ...rgb]) => `rgb(${rgb.join(' ')}) ${stop * 100}%`);
const rampGradient = `linear-gradient(90deg, ${rampStops.join(', ')})`;
/* How dark a picture is at each weight, on a middle grey. */
const dimGradient = 'linear-gradient(90deg, rgb(18 16 14 / 68%), transparent), linear-gradient(#b5b1aa, #b5b1aa)';

function bytes(text) {
  return Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
}

/* The regions of an image, unpacked from its details (see misc/page/data.py):
   boxes      [[x1, y1, x2, y2], ...] from 0 to 1, or null
   side       rows and columns of the grid, 0 without grid vectors
   attention  {layer: weights of each word, one per region} */
class Regions {
  constructor(details) {
    this.count = details.regions;
    this.boxes = null;
    if (details.boxes) {
      const view = new DataView(bytes(details.boxes).buffer);
      this.boxes = Array.from({length: this.count}, (_, p) =>
        [0, 1, 2, 3].map((edge) => view.getUint16(8 * p + 2 * edge, true) / 65535));
    }
    this.side = 0;
    if (details.rows) {
      this.rows = bytes(details.rows);
      this.columns = bytes(details.columns);
      this.side = this.count ? this.rows.length / this.count : 0;
    }
    this.attention = {};
    for (const [name, {top, weights}] of Object.entries(details.words.length ? details.attention : {})) {
      const shares = bytes(weights), width = top.length ? shares.length / top.length : 0;
      this.attention[name] = top.map((most, t) => Array.from(
        shares.subarray(t * width, t * width + this.count), (share) => share / 255 * most));
    }
    if (!this.boxes && this.side) this.hulls();
  }

  /* The share of a cell that region p covers. */
  covered(p, row, column) {
    return this.rows[p * this.side + row] * this.columns[p * this.side + column] / 65025;
  }

  /* How many cells region p covers in each row and in each column: the input of enc_pos_type gxg. */
  profiles(p) {
    const line = (array) => Array.from(array.subarray(p * this.side, (p + 1) * this.side), (share) => share / 255);
    const [rows, columns] = [line(this.rows), line(this.columns)];
    const sum = (numbers) => numbers.reduce((total, value) => total + value, 0);
    return [rows.map((value) => value * sum(columns)), columns.map((value) => value * sum(rows))];
  }

  /* Without boxes, a region is drawn as the rectangle of the cells that it covers. */
  hulls() {
    const ends = (shares) => {
      const there = [...shares.keys()].filter((i) => shares[i] > 0.004);
      return there.length ? [there[0] / this.side, (there[there.length - 1] + 1) / this.side] : [0, 0];
    };
    this.hull = Array.from({length: this.count}, (_, p) => {
      const [rows, columns] = this.profiles(p).map(ends);
      return [columns[0], rows[0], columns[1], rows[1]];
    });
  }

  /* The rectangles of the regions, or null where their positions are unknown. */
  get rectangles() { return this.boxes || this.hull || null; }

  /* The smallest region at a point of the picture, -1 for none. */
  at(x, y) {
    let found = -1, least = Infinity;
    (this.rectangles || []).forEach(([x1, y1, x2, y2], p) => {
      const area = (x2 - x1) * (y2 - y1);
      if (x >= x1 && x <= x2 && y >= y1 && y <= y2 && area < least) [found, least] = [p, area];
    });
    return found;
  }

  /* For each cell, row by row, the sum over the regions of weight times covered share. */
  cells(weights) {
    const out = [];
    for (let row = 0; row < this.side; row++) {
      for (let column = 0; column < this.side; column++) {
        out.push(weights.reduce((sum, weight, p) => sum + weight * this.covered(p, row, column), 0));
      }
    }
    return out;
  }
}

const OUTLINED = 6;  // regions that are outlined while a word is highlighted

class Picture {
  /* `point(region)` is called with the region under the pointer (-1: none), `pick(region)` with a clicked one. */
  constructor(url, size, alt, point, pick) {
    this.image = element('img', {alt, src: url});
    if (size) [this.image.width, this.image.height] = size;
    this.layer = svg('svg', {viewBox: '0 0 1 1', preserveAspectRatio: 'none', 'aria-hidden': 'true'});
    this.labels = element('div', {class: 'labels', 'aria-hidden': 'true'});
    this.node = element('div', {class: 'picture'}, this.image, this.layer, this.labels);
    if (size) this.node.style.setProperty('--ratio', size[0] / size[1]);
    this.regions = null;
    let over = -1;
    const report = (region) => { if (region !== over) { over = region; point(region); } };
    this.node.addEventListener('pointermove', (event) => report(this.under(event)));
    this.node.addEventListener('pointerleave', () => report(-1));
    this.node.addEventListener('click', (event) => pick(this.under(event)));
  }

  under(event) {
    const frame = this.layer.getBoundingClientRect();
    return this.regions ? this.regions.at((event.clientX - frame.left) / frame.width,
                                          (event.clientY - frame.top) / frame.height) : -1;
  }

  /* Draw the regions; `weights`: of each region, or null; `asCells`: the grid instead of boxes; `region`: the
     selected one, or -1. */
  draw(weights, asCells, region) {
    this.layer.replaceChildren();
    this.labels.replaceChildren();
    const regions = this.regions;
    if (!regions || !regions.rectangles) return;
    const cellwise = asCells && regions.side;
    if (weights) this.light(cellwise ? this.cellShares(regions.cells(weights)) : this.boxShares(weights));
    if (!weights && !cellwise) regions.rectangles.forEach((_, p) => this.outline(p, 'plain'));
    if (cellwise) this.lines(regions.side);
    if (weights && !cellwise) this.strongest(weights);
    if (region >= 0) {
      if (regions.side) this.cover(region);
      this.outline(region, 'picked');
    }
  }

  boxShares(weights) {
    const most = Math.max(...weights);
    return weights.map((weight, p) => [weight / most, this.regions.rectangles[p]])
      .filter(([share]) => share > 0.02);
  }

  cellShares(sums) {
    const most = Math.max(...sums), side = this.regions.side;
    return sums.map((sum, cell) => {
      const [x, y] = [cell % side / side, Math.floor(cell / side) / side];
      return [sum / most, [x, y, x + 1 / side, y + 1 / side]];
    }).filter(([share]) => share > 0.02);
  }

  /* Darken the picture, less so in the rectangles of [share, rectangle] pairs the larger their share.  Nothing is
     tinted: what the model attended to keeps its colours. */
  light(shares) {
    const mask = svg('mask', {id: 'dark', maskUnits: 'userSpaceOnUse', x: 0, y: 0, width: 1, height: 1},
                     svg('rect', {width: 1, height: 1, fill: 'white'}));
    for (const [share, [x1, y1, x2, y2]] of shares) {
      mask.append(svg('rect', {x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: 'black', 'fill-opacity': share}));
    }
    this.layer.append(mask, svg('rect', {class: 'dark', width: 1, height: 1, mask: 'url(#dark)'}));
  }

  outline(p, kind, share) {
    const [x1, y1, x2, y2] = this.regions.rectangles[p];
    const area = {x: x1, y: y1, width: x2 - x1, height: y2 - y1, 'data-region': p};
    if (kind !== 'plain') this.layer.append(svg('rect', {...area, class: 'halo'}));
    const line = svg('rect', {...area, class: `box ${kind}`});
    if (share !== undefined) line.style.stroke = colour(share);
    this.layer.append(line);
  }

  /* Outline the regions with the largest weights, the largest on top, and label the first three, where a label
     covers neither an outlined region nor another label. */
  strongest(weights) {
    const most = Math.max(...weights);
    const order = [...weights.keys()].sort((p, q) => weights[q] - weights[p])
      .slice(0, OUTLINED).filter((p) => weights[p] > 0.1 * most);
    for (const p of [...order].reverse()) this.outline(p, 'lit', weights[p] / most);
    const taken = order.map((p) => this.regions.rectangles[p]);
    for (const p of order.slice(0, 3)) {
      const label = element('span', {}, percent(weights[p]));
      label.style.background = colour(weights[p] / most);
      label.classList.toggle('pale', weights[p] < 0.5 * most);  // pale text on a dark colour
      this.labels.append(label);
      this.place(label, this.regions.rectangles[p], taken);
    }
  }

  /* Put a label beside a rectangle, above it if possible, where it covers none of the rectangles `taken`, to which
     it is added; without such a place, remove it. */
  place(label, [x1, y1, x2, y2], taken) {
    const frame = this.node.getBoundingClientRect(), touching = 0.002;
    const width = label.offsetWidth / frame.width, height = label.offsetHeight / frame.height;
    for (const [x, y, left, up] of [[x1, y1, 0, 1], [x2, y1, 1, 1], [x1, y2, 0, 0], [x2, y2, 1, 0], [x1, y1, 1, 0],
                                    [x2, y1, 0, 0]]) {
      const [from, top] = [x - left * width, y - up * height], [to, bottom] = [from + width, top + height];
      const covers = taken.some((one) => one[0] < to - touching && one[2] > from + touching
        && one[1] < bottom - touching && one[3] > top + touching);
      if (covers || from < 0 || top < 0 || to > 1 || bottom > 1) continue;
      label.style.left = `${100 * x}%`;
      label.style.top = `${100 * y}%`;
      label.style.transform = `translate(${-100 * left}%, ${-100 * up}%)`;
      taken.push([from, top, to, bottom]);
      return;
    }
    label.remove();
  }

  lines(side) {
    for (let i = 1; i < side; i++) {
      this.layer.append(svg('line', {class: 'grid', x1: i / side, x2: i / side, y1: 0, y2: 1}),
                        svg('line', {class: 'grid', y1: i / side, y2: i / side, x1: 0, x2: 1}));
    }
  }

  cover(p) {
    const side = this.regions.side;
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const share = this.regions.covered(p, row, column);
        if (share > 0.004) {
          this.layer.append(svg('rect', {class: 'covered', x: column / side, y: row / side, width: 1 / side,
                                         height: 1 / side, 'stroke-opacity': share}));
        }
      }
    }
  }
}

function percent(share) {
  const value = 100 * share;
  return `${value >= 9.95 ? value.toFixed(0) : value.toFixed(1)}\u00a0%`;  // no line break before the sign
}

/* A drawing of the cells that region p covers, with its row and column profiles at the left and the top. */
function coverageDrawing(regions, p) {
  const side = regions.side, [down, across] = regions.profiles(p), bar = side / 3;
  const from = -bar - 0.6, length = side + bar + 0.8;
  const drawing = svg('svg', {class: 'coverage', viewBox: `${from} ${from} ${length} ${length}`, role: 'img',
                              'aria-label': `Coverage of a ${side} by ${side} grid by region ${p + 1}`});
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const cell = {x: column + 0.05, y: row + 0.05, width: 0.9, height: 0.9};
      drawing.append(svg('rect', {class: 'cell', ...cell}),
                     svg('rect', {class: 'full', ...cell, 'fill-opacity': regions.covered(p, row, column)}));
    }
  }
  down.forEach((sum, row) => drawing.append(svg('rect', {
    class: 'full', x: -0.5 - sum / side * bar, y: row + 0.1, width: sum / side * bar, height: 0.8})));
  across.forEach((sum, column) => drawing.append(svg('rect', {
    class: 'full', x: column + 0.1, y: -0.5 - sum / side * bar, width: 0.8, height: sum / side * bar})));
  return drawing;
}
