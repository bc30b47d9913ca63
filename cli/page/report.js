// Sorts the table by a column: the best first, at the next click the other way round. Rows without a figure stay last.
(function () {
  var table = document.querySelector('table.all');
  if (!table) return;
  var body = table.tBodies[0], heads = Array.prototype.slice.call(table.tHead.rows[0].cells);

  function key(row, column) {
    var text = row.cells[column].getAttribute('data-value');
    return column === 0 ? text : text === null ? NaN : Number(text);
  }

  function sort(column) {
    var head = heads[column], first = head.getAttribute('data-first');
    var now = head.getAttribute('aria-sort');
    var next = now === null ? first : now === 'ascending' ? 'descending' : 'ascending';
    var sign = next === 'ascending' ? 1 : -1;
    heads.forEach(function (h) { h.removeAttribute('aria-sort'); });
    head.setAttribute('aria-sort', next);
    Array.prototype.slice.call(body.rows).map(function (row, i) {
      return { row: row, key: key(row, column), i: i };
    }).sort(function (a, b) {
      if (column === 0) return sign * a.key.localeCompare(b.key);
      var none = (a.key !== a.key) - (b.key !== b.key);
      return none || sign * (a.key - b.key) || a.i - b.i;
    }).forEach(function (one) { body.appendChild(one.row); });
  }

  heads.forEach(function (head, column) {
    head.querySelector('button').addEventListener('click', function () { sort(column); });
  });

  // A link to a configuration opens it.
  function open() {
    var target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === 'DETAILS') target.open = true;
  }
  window.addEventListener('hashchange', open);
  open();
})();
