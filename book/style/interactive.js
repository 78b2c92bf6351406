// The player and the editor of feature maps, as book/styleinv_book/interactive.py writes them.
(() => {
'use strict';

const STEP_MILLISECONDS = 700, LARGEST_FRAME = 256;
const KERNEL_ALPHA = 0.1, VARIANCE_FLOOR = 1e-5;

// The pictures are those of the table below, one on top of the other; the last one is seen first.
function setUpPlayer(player) {
  const { stops, places, losses } = JSON.parse(player.querySelector('script').textContent);
  const button = player.querySelector('button'), slider = player.querySelector('input');
  const rows = [...player.parentElement.querySelectorAll('table.pictures tbody tr')];
  const thumbnails = rows.map((row) => [...row.querySelectorAll('img')]);
  const frames = [...player.querySelectorAll('.player-frames')].map((place, row) => {
    const copies = thumbnails[row].map(enlarged);
    place.append(...copies);
    return copies;
  });
  const captions = [...player.querySelectorAll('.player-loss')];
  const last = stops.length - 1;
  let shown = last, timer = null;

  function show(stop) {
    shown = Math.min(Math.max(stop, 0), last);
    slider.value = places[shown];
    frames.forEach((row) => row.forEach((frame, i) => frame.classList.toggle('shown', i === shown)));
    thumbnails.forEach((row) => row.forEach((picture, i) => picture.classList.toggle('played', i === shown)));
    captions.forEach((caption, row) => { caption.textContent = losses[row][shown]; });
    const said = captions.map((caption) => caption.parentElement.textContent);
    const unit = stops[shown] === 1 ? 'evaluation' : 'evaluations';
    slider.setAttribute('aria-valuetext', [`${stops[shown]} ${unit}`, ...said].join('; '));
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    button.textContent = 'Play';
  }
  function play() {
    show(shown === last ? 0 : shown + 1);
    button.textContent = 'Pause';
    timer = setInterval(() => {
      if (shown < last) show(shown + 1);
      if (shown === last) pause();
    }, STEP_MILLISECONDS);
  }

  button.addEventListener('click', () => (timer === null ? play() : pause()));
  slider.addEventListener('input', () => {
    pause();
    const away = places.map((place) => Math.abs(place - slider.value));
    const nearest = away.indexOf(Math.min(...away));
    // A key moves the slider by less than the way to the next stop; it means that stop.
    const key = nearest === shown && !slider.matches(':active');
    show(key ? shown + Math.sign(slider.value - places[shown]) : nearest);
  });
  show(last);
  player.hidden = false;
}

// By a whole factor, as the figures' pictures are.
function enlarged(thumbnail) {
  const frame = thumbnail.cloneNode();
  const [width, height] = ['width', 'height'].map((name) => Number(thumbnail.getAttribute(name)));
  const zoom = Math.max(1, Math.floor(LARGEST_FRAME / width));
  frame.setAttribute('width', zoom * width);
  frame.setAttribute('height', zoom * height);
  return frame;
}

// The statistics of section 1.2. Maps are arrays of numbers, position by position.
const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;
const square = (value) => value * value;

const gram = (maps) => maps.map((a) => maps.map((b) => sum(a.map((value, at) => value * b[at]))));

function gramLoss(s, n) {
  const [of_s, of_n] = [gram(s).flat(), gram(n).flat()];
  const distance = sum(of_s.map((value, at) => square(value - of_n[at])));
  return distance / square(s.length * s[0].length);
}

function moments(map) {
  const centre = mean(map);
  const variance = sum(map.map((value) => square(value - centre))) / (map.length - 1);
  const deviation = Math.sqrt(variance + VARIANCE_FLOOR);
  const standardised = (power) => mean(map.map((value) => ((value - centre) / deviation) ** power));
  return [centre, deviation, standardised(3), standardised(4)];
}

// For N = 1 to 4.
function momentLosses(s, n) {
  const [of_s, of_n] = [s.map(moments), n.map(moments)];
  let total = 0;
  return of_s[0].map((_, order) => {
    const psi = Math.min(1, 1 / Math.abs(mean(of_s.map((found) => found[order]))));
    total += psi * mean(of_s.map((found, j) => square(found[order] - of_n[j][order])));
    return total;
  });
}

const kernel = (a, b) => Math.exp(-KERNEL_ALPHA * square(a - b));

// Of one map, pair by pair.
function pairs(style, noise) {
  const found = [];
  for (let at = 0; at + 1 < style.length; at += 2) {
    const [x, x2, y, y2] = [style[at], style[at + 1], noise[at], noise[at + 1]];
    found.push(kernel(x, x2) + kernel(y, y2) - kernel(x, y2) - kernel(x2, y));
  }
  return found;
}

// What the cells of the tables show, by the names in their data-of.
function statistics({ s, n }) {
  const found = { gram: gramLoss(s, n) };
  for (const [side, maps] of [['s', s], ['n', n]]) {
    gram(maps).forEach((row, i) => row.forEach((value, j) => { found[`G ${side} ${i} ${j}`] = value; }));
    maps.forEach((map, j) => moments(map).forEach((value, i) => { found[`M ${side} ${i} ${j}`] = value; }));
  }
  momentLosses(s, n).forEach((loss, i) => { found[`moment-${i + 1}`] = loss; });
  const h = s.map((map, j) => pairs(map, n[j]));
  h.forEach((row, j) => row.forEach((value, pair) => { found[`h ${j} ${pair}`] = value; }));
  found.mmd = sum(h.flat());
  return found;
}

// Inner products of whole numbers are whole; the others are rounded, and what rounds to 0 has no sign.
function written(name, value) {
  return name.startsWith('G ') ? String(value) : value.toFixed(3).replace('-0.000', '0.000').replace('-', '−');
}

// What several maps hold at one place stays together.
function shuffled(maps) {
  const order = maps[0].map((_, position) => position);
  for (let last = order.length - 1; last > 0; last -= 1) {
    const other = Math.floor(Math.random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return maps.map((map) => order.map((position) => map[position]));
}

function setUpToy(toy) {
  const given = JSON.parse(toy.querySelector('script').textContent);
  const flat = () => ({ s: given.s.map((map) => map.flat()), n: given.n.map((map) => map.flat()) });
  const sliders = [...toy.querySelectorAll('input')];
  const cells = [...toy.querySelectorAll('[data-of]')];
  const said = toy.querySelector('.toy-said');
  let maps = flat(), before = new Map(), edited = null;

  // `source` is what the reader moves. As long as it is the same, changes count from where it began.
  function update(source) {
    if (source !== edited || source === null) before = new Map(cells.map((cell) => [cell, cell.textContent]));
    edited = source;
    for (const slider of sliders) {
      const { side, map, position } = slider.dataset;
      const value = maps[side][map][position];
      slider.value = value;
      slider.parentElement.style.setProperty('--share', value / slider.max);
      slider.previousElementSibling.textContent = value;
    }
    const found = statistics(maps);
    for (const cell of cells) {
      const name = cell.dataset.of;
      cell.dataset.value = found[name];
      cell.textContent = written(name, found[name]);
      cell.classList.toggle('changed', before.get(cell) !== '' && before.get(cell) !== cell.textContent);
    }
  }
  function tell() {
    const tables = [...toy.querySelectorAll('table')];
    const titles = (wanted) => tables.filter((table) => Boolean(table.querySelector('.changed')) === wanted)
      .map((table) => table.dataset.title).join(', ');
    said.textContent = [['Changed', titles(true)], ['The same', titles(false)]]
      .filter(([, found]) => found).map(([what, found]) => `${what}: ${found}.`).join(' ');
  }

  // Once more if nothing moved, unless all places hold the same.
  function shuffle(moved) {
    const old = String(maps.n), different = maps.n.some((map) => new Set(map).size > 1);
    do maps.n = moved(maps.n); while (different && String(maps.n) === old);
  }

  const actions = {
    copy() { maps.n = maps.s.map((map) => [...map]); },
    together() { shuffle(shuffled); },
    apart() { shuffle((all) => all.map((map) => shuffled([map])[0])); },
    reset() { maps = flat(); },
  };
  for (const button of toy.querySelectorAll('button')) {
    button.addEventListener('click', () => {
      actions[button.dataset.do]();
      update(null);
      tell();
    });
  }
  for (const slider of sliders) {
    const set = (value) => {
      const { side, map, position } = slider.dataset;
      maps[side][map][position] = Number(value);
      update(slider);
      tell();
    };
    slider.addEventListener('input', () => set(slider.value));
    slider.addEventListener('keydown', (event) => {
      if (/^\d$/.test(event.key) && Number(event.key) <= slider.max) set(event.key);
    });
  }
  update(null);
  toy.hidden = false;
}

document.querySelectorAll('.player').forEach(setUpPlayer);
document.querySelectorAll('.toy').forEach(setUpToy);
})();
