/* The list of images: cards in rows, of which only the visible ones are in the document. */
'use strict';

class CardList {
  /* `scroller` is the scrolling element, `list` the ul of cards; `fill(card, entry)` writes an entry into a card. */
  constructor(scroller, list, fill) {
    this.scroller = scroller;
    this.list = list;
    this.fill = fill;
    this.entries = [];
    this.cards = new Map();   // index in `entries` -> its card
    this.spare = [];          // hidden cards to use again
    this.active = 0;          // index of the card that Tab moves to
    this.chosen = -1;         // the open entry, or -1
    this.columns = 1;
    this.scheduled = false;
    scroller.addEventListener('scroll', () => this.schedule(), {passive: true});
    list.addEventListener('keydown', (event) => this.key(event));
    list.addEventListener('focusin', (event) => this.focused(event));
    new ResizeObserver(() => this.measure()).observe(scroller);
    this.measure();
  }

  /* Show `entries` (indices in the lists of PAGE), from the top. */
  show(entries) {
    this.entries = entries;
    this.active = Math.max(0, entries.indexOf(this.chosen));
    for (const index of [...this.cards.keys()]) this.release(index);
    this.scroller.scrollTop = 0;
    this.measure();
  }

  /* Mark an entry as the open one; -1 for none. */
  choose(entry) {
    this.chosen = entry;
    const index = this.entries.indexOf(entry);
    if (index >= 0) this.activate(index, false);
    for (const [at, card] of this.cards) this.mark(card, at);
  }

  /* Fit columns and cards to the width, and keep the first visible row in its place. */
  measure() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const narrow = this.scroller.clientWidth < 36 * rem, margin = (narrow ? 1 : 1.5) * rem;
    const room = this.scroller.clientWidth - 2 * margin, gap = 1.25 * rem;
    if (room <= 0) return;
    const first = Math.floor(this.scroller.scrollTop / (this.height || 1)) * this.columns;
    const least = (narrow ? 8.5 : 11.5) * rem;
    this.columns = Math.max(1, Math.floor((room + gap) / (least + gap)));
    this.width = Math.floor((room - gap * (this.columns - 1)) / this.columns);
    this.gap = gap;
    this.left = margin;
    this.height = Math.round(this.width * 0.75 + 5.75 * rem);
    this.list.style.height = `${Math.ceil(this.entries.length / this.columns) * this.height}px`;
    const within = this.scroller.scrollTop % this.height;
    this.scroller.scrollTop = Math.floor(first / this.columns) * this.height + within;
    const held = this.list.contains(document.activeElement);
    for (const index of [...this.cards.keys()]) this.release(index);
    this.draw();
    if (held && this.cards.has(this.active)) this.cards.get(this.active).link.focus({preventScroll: true});
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => { this.scheduled = false; this.draw(); });
  }

  /* Show the cards of the visible rows, and of one more row on either side. */
  draw() {
    if (!this.height) return;
    const top = this.scroller.scrollTop, seen = this.scroller.clientHeight;
    const from = Math.max(0, Math.floor(top / this.height) - 1) * this.columns;
    const to = Math.min(this.entries.length, (Math.ceil((top + seen) / this.height) + 1) * this.columns);
    for (const [index, card] of [...this.cards]) {
      if ((index < from || index >= to) && !card.contains(document.activeElement)) this.release(index);
    }
    for (let index = from; index < to; index++) if (!this.cards.has(index)) this.add(index);
    this.sort(from, to);
  }

  /* Bring the cards into reading order; the focused card is not moved, since moving it would take the focus. */
  sort(from, to) {
    let next = null;
    for (let index = to - 1; index >= from; index--) {
      const card = this.cards.get(index);
      const moved = card.nextElementSibling !== next && !card.contains(document.activeElement);
      if (moved) this.list.insertBefore(card, next);
      next = card;
    }
  }

  add(index) {
    const card = this.spare.pop() || this.make();
    const row = Math.floor(index / this.columns), column = index % this.columns;
    card.style.transform = `translate(${this.left + column * (this.width + this.gap)}px, ${row * this.height}px)`;
    card.style.width = `${this.width}px`;
    card.index = index;
    card.setAttribute('aria-posinset', index + 1);
    card.setAttribute('aria-setsize', this.entries.length);
    this.fill(card, this.entries[index]);
    this.mark(card, index);
    card.hidden = false;
    this.cards.set(index, card);
  }

  make() {
    const card = document.createElement('li');
    card.className = 'card';
    card.link = document.createElement('a');
    card.frame = document.createElement('span');
    card.frame.className = 'frame';
    card.picture = document.createElement('img');
    card.picture.alt = '';
    card.picture.decoding = 'async';
    card.blank = document.createElement('span');
    card.blank.className = 'blank';
    card.blank.textContent = 'no picture';
    card.caption = document.createElement('span');
    card.caption.className = 'caption';
    card.score = document.createElement('span');
    card.score.className = 'score';
    card.frame.append(card.picture, card.blank);
    card.link.append(card.frame, card.caption, card.score);
    card.append(card.link);
    this.list.append(card);
    return card;
  }

  release(index) {
    const card = this.cards.get(index);
    this.cards.delete(index);
    card.hidden = true;
    this.spare.push(card);
  }

  mark(card, index) {
    card.link.tabIndex = index === this.active ? 0 : -1;
    const chosen = this.entries[index] === this.chosen;
    card.classList.toggle('chosen', chosen);
    if (chosen) card.link.setAttribute('aria-current', 'true');
    else card.link.removeAttribute('aria-current');
  }

  /* Scroll to a card and make it the one that Tab moves to; with `focus`, focus it. */
  activate(index, focus) {
    const before = this.cards.get(this.active);
    this.active = index;
    const top = Math.floor(index / this.columns) * this.height;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    const bottom = top + this.height - this.scroller.clientHeight;
    if (bottom > this.scroller.scrollTop) this.scroller.scrollTop = bottom;
    this.draw();
    if (before && before.index !== index) this.mark(before, before.index);
    const card = this.cards.get(index);
    if (!card) return;
    this.mark(card, index);
    if (focus) card.link.focus({preventScroll: true});
  }

  focused(event) {
    const card = event.target.closest('.card');
    if (card && card.index !== this.active) this.activate(card.index, false);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.height)) * this.columns;
    const last = this.entries.length - 1;
    const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
                   PageUp: -page, PageDown: page, Home: -last, End: last};
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.activate(Math.min(last, Math.max(0, this.active + steps[event.key])), true);
  }
}
