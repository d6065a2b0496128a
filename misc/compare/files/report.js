'use strict';
// The page is complete without this script, which adds sorting and shows the examples of one run and metric at a time.

/** What a cell is sorted by: its number, its text, or null where it has nothing. */
function valueOf(row, column) {
  const cell = row.cells[column];
  const number = parseFloat(cell.dataset.value);
  if (!Number.isNaN(number)) return number;
  return cell.classList.contains('text') ? cell.textContent.trim() : null;
}

/** Sort a table's rows by a column; rows without a value come last, equal ones stay as they were. */
function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, row => ({row, value: valueOf(row, column)}));
  rows.sort((one, other) => {
    if (one.value === null || other.value === null) return (one.value === null) - (other.value === null);
    const order = typeof one.value === 'number' && typeof other.value === 'number'
      ? one.value - other.value : String(one.value).localeCompare(String(other.value));
    return descending ? -order : order;
  });
  body.append(...rows.map(entry => entry.row));
}

function makeSortable(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    if (head.dataset.sort === undefined) return;
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const before = head.getAttribute('aria-sort');
      const descending = before ? before === 'ascending' : head.dataset.sort === 'number';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
      sortBy(table, column, descending);
    });
  });
}

function chooseExamples(form) {
  const pairs = document.querySelectorAll('.pair');
  const show = () => {
    for (const pair of pairs) {
      pair.hidden = pair.dataset.run !== form.elements.run.value
        || pair.dataset.metric !== form.elements.metric.value;
    }
    document.getElementById('no-pair').hidden = Array.from(pairs).some(pair => !pair.hidden);
  };
  form.hidden = false;
  form.addEventListener('submit', event => event.preventDefault());
  form.addEventListener('change', show);
  show();
}

document.querySelectorAll('table.sortable').forEach(makeSortable);
document.querySelectorAll('form.choose').forEach(chooseExamples);
