// The viewer: choose a run, compare it with its style. Data and fallback grid are in the page.
// `parts.js` comes before it, in the same function.
const RADIOS = { style: 'Style', layer: 'Layer', loss: 'Loss' };
const SELECTS = { seed: 'Seed', protocol: 'Optimiser', encoder: 'Encoder', size: 'Size' };
// What there is only one of is not worth a control.
const OPTIONAL = ['encoder', 'size'];
const CHOICES = [...Object.keys(RADIOS), ...Object.keys(SELECTS)];
// Where a choice has no run, the cheapest others give way: each costs more than all before it.
// Another budget of the same optimiser costs 1.
const COST = { size: 2, seed: 4, protocol: 8, encoder: 16, loss: 32, layer: 64, style: 128 };
const FIRM = 256;
const STAGE = 512; // CSS pixels, at most

const root = document.querySelector('.viewer:not([data-live])');
root.dataset.live = '';
const { options, runs } = JSON.parse(root.querySelector('[type="application/json"]').textContent);
const app = root.querySelector('.viewer-app');
const byChoice = new Map(runs.map((run) => [String(parameters(run.choice)), run]));
const controls = {};
let run = nearest(beginning(), []);

// --- Choices -------------------------------------------------------------------------------

function parameters(choice) {
  return new URLSearchParams(CHOICES.map((name) => [name, choice[name]]));
}
function place(name, value) {
  return options[name].findIndex(([known]) => known === value);
}
function label(name, value) {
  return options[name][place(name, value)]?.[1] ?? value;
}
function phrase(name, value) {
  const text = label(name, value);
  return name === 'seed' || name === 'encoder' ? `${name} ${text}` : text;
}

// The deepest layer and the largest picture show most; the readers' own protocol is `fast`.
function beginning() {
  const first = Object.fromEntries(CHOICES.map((name) => [name, options[name][0][0]]));
  const most = { layer: options.layer.at(-1)[0], size: options.size.at(-1)[0] };
  return { ...first, ...most, protocol: 'fast' };
}

// The run closest to what is wanted; names in `firm` are given up last.
function nearest(wanted, firm) {
  const distance = ({ choice }) => {
    let sum = 0;
    for (const name of CHOICES) {
      if (choice[name] === wanted[name]) continue;
      const optimiser = (of) => label(name, of[name]).split(',')[0];
      const onlyBudget = name === 'protocol' && optimiser(choice) === optimiser(wanted);
      sum += (onlyBudget ? 1 : COST[name]) * (firm.includes(name) ? FIRM : 1);
      sum += Math.abs(place(name, choice[name]) - place(name, wanted[name])) / 1000;
    }
    return sum;
  };
  return runs.reduce((best, other) => (distance(other) < distance(best) ? other : best));
}

// Show the run nearest to `wanted`, and say which of the choices in `asked` it does not meet.
function choose(wanted, firm, asked) {
  run = nearest(wanted, firm);
  const lost = asked.filter((name) => run.choice[name] !== wanted[name]);
  const list = (names, choice) => new Intl.ListFormat('en').format(
    names.map((name) => phrase(name, choice[name])));
  const changed = firm.length === 1 ? firm : [];
  const said = [...new Set([...changed, ...lost])];
  note.textContent = lost.length
    ? `No run with ${list(said, wanted)}: showing ${list(lost, run.choice)}.` : '';
  history.replaceState(null, '', `#${parameters(run.choice)}`);
  show();
}
function change(name, value) {
  choose({ ...run.choice, [name]: value }, [name], CHOICES);
}
function followUrl() {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const names = CHOICES.filter((name) => name in given);
  // Other fragments are places on the page.
  if (names.length) choose({ ...run.choice, ...given }, names, names);
}

// --- Controls ------------------------------------------------------------------------------

function radioGroup(name) {
  const items = options[name].map(([value, text]) => {
    const input = h('input', { type: 'radio', name: `viewer-${name}`, value });
    const picture = name === 'style'
      ? [h('img', { src: runs.find(({ choice }) => choice.style === value).style, alt: '',
        class: 'dark-light' })] : [];
    const item = h('label', {}, input, h('span', {}, ...picture, text), h('small'));
    input.addEventListener('change', () => change(name, value));
    return { value, input, item };
  });
  controls[name] = () => {
    for (const { value, input, item } of items) {
      const exists = byChoice.has(String(parameters({ ...run.choice, [name]: value })));
      input.checked = value === run.choice[name];
      item.classList.toggle('absent', !exists);
      item.lastChild.textContent = exists ? '' : ' (no run)';
    }
  };
  return h('fieldset', { class: `viewer-${name}` }, h('legend', {}, RADIOS[name]),
    h('div', {}, ...items.map(({ item }) => item)));
}

function selectGroup(name) {
  const items = options[name].map(([value]) => h('option', { value }));
  const select = h('select', {}, ...items);
  select.addEventListener('change', () => change(name, select.value));
  controls[name] = () => {
    for (const item of items) {
      const exists = byChoice.has(String(parameters({ ...run.choice, [name]: item.value })));
      item.textContent = label(name, item.value) + (exists ? '' : ' (no run)');
    }
    select.value = run.choice[name];
  };
  return h('label', {}, h('span', {}, SELECTS[name]), select);
}

// --- Style and inversion -------------------------------------------------------------------

const style = h('img', { class: 'dark-light viewer-left' });
const inversion = h('img', { class: 'dark-light' });
const divider = h('input', { type: 'range', min: 0, max: 100, value: 50, step: 'any',
  'aria-label': 'Divider: style on the left, inversion on the right' });
const stage = h('div', { class: 'viewer-stage' }, inversion, style, divider,
  h('div', { class: 'viewer-line' }));
const captions = h('div', { class: 'viewer-captions' }, h('span'), h('span'));
const note = h('p', { class: 'viewer-note', role: 'status' });
const view = h('div', { class: 'viewer-view' }, stage, captions, note);

function divide() {
  stage.style.setProperty('--at', `${divider.value}%`);
  divider.setAttribute('aria-valuetext', `${Math.round(divider.value)} % style`);
}
divider.addEventListener('input', divide);
// Fine steps for the hand, steps that one sees for the keys.
divider.addEventListener('pointerdown', () => { divider.step = 'any'; });
divider.addEventListener('keydown', () => { divider.step = 2; });

// Whole multiples of a pixel as far as there is room; larger images are made smaller, smoothly.
function fit() {
  const room = Math.min(view.clientWidth, STAGE);
  const zoom = Math.floor((room * devicePixelRatio) / run.width);
  stage.style.width = `${zoom ? (zoom * run.width) / devicePixelRatio : room}px`;
  captions.style.width = stage.style.width;
  stage.style.aspectRatio = `${run.width} / ${run.height}`;
  stage.classList.toggle('viewer-smooth', zoom === 0);
}

// --- The loss curve ------------------------------------------------------------------------

const plot = h('div', { class: 'viewer-curve' });

function draw() {
  const starts = run.trace.filter(([, , name], i) => i === 0 || name !== run.trace[i - 1][2]);
  // Each of several stages has a line above the curve for its name.
  const lines = starts.length === 1 ? [] : starts;
  const width = plot.clientWidth, height = 250;
  const box = { left: 46, right: width - 24, top: 24 + 14 * lines.length, bottom: height - 38 };
  const losses = run.trace.map(([, loss]) => loss);
  const levels = run.theta === null ? losses : [...losses, run.theta];
  const signed = Math.min(...losses) <= 0;
  const yAxis = (signed ? linearAxis : logAxis)(Math.min(...levels), Math.max(...levels));
  const xAxis = evaluationsAxis(run.trace.at(-1)[0]);
  const x = (value) => box.left + xAxis.at(value) * (box.right - box.left);
  const y = (value) => box.bottom - yAxis.at(value) * (box.bottom - box.top);
  const line = (attributes) => s('line', attributes);
  const text = (content, attributes) => s('text', attributes, content);

  const grid = yAxis.ticks.flatMap(([value, name]) => [
    line({ class: 'grid', x1: box.left, x2: box.right, y1: y(value), y2: y(value) }),
    text(name, { x: box.left - 6, y: y(value) + 4, 'text-anchor': 'end' }),
  ]);
  const ticks = xAxis.ticks.map(([value, name]) =>
    text(name, { x: x(value), y: box.bottom + 16, 'text-anchor': 'middle' }));
  const stages = lines.flatMap(([evaluation, , name], i) => {
    const at = x(evaluation), level = 30 + 14 * i, late = at > (box.left + box.right) / 2;
    return [
      line({ class: 'stage', x1: at, x2: at, y1: level - 10, y2: box.bottom }),
      text(name, { x: at + (late ? -5 : 5), y: level, 'text-anchor': late ? 'end' : 'start' }),
    ];
  });
  const theta = run.theta === null ? [] : [
    line({ class: 'theta', x1: box.left, x2: box.right, y1: y(run.theta), y2: y(run.theta) }),
    text('θ', { class: 'theta', x: box.left + 4, y: y(run.theta) - 5 }),
  ];
  const points = run.trace.map(([evaluation, loss]) =>
    `${x(evaluation).toFixed(1)},${y(loss).toFixed(1)}`);
  const [lastX, lastY] = points.at(-1).split(',');
  const { 'final loss': final, evaluations } = run.facts;
  const start = Number(losses[0].toPrecision(3));
  plot.replaceChildren(s('svg', { width, height, role: 'img',
    'aria-label': `Loss curve: from ${start} at the start to ${final} after ${evaluations} evaluations` },
  ...grid, ...ticks, ...stages, ...theta,
  text(signed ? 'loss (linear, as it can be negative)' : 'loss', { x: 4, y: 12 }),
  text('evaluations', { x: box.right, y: height - 5, 'text-anchor': 'end' }),
  s('path', { d: `M${points.join('L')}` }), s('circle', { cx: lastX, cy: lastY, r: 3.5 })));
}

// --- The numbers ---------------------------------------------------------------------------

const facts = h('dl');
const command = h('code');
const links = h('p');
const again = h('div', {}, h('p', {}, 'Make it again:'), h('pre', { tabindex: 0 }, command));

function showNumbers() {
  facts.replaceChildren(...Object.entries(run.facts).map(([name, fact]) =>
    h('div', {}, h('dt', {}, name), h('dd', {}, fact))));
  const words = run.command.split(/ (?=--)/);
  command.replaceChildren(...words.flatMap((word) => [h('span', {}, word), ' ']));
  again.hidden = !run.command;
  links.replaceChildren(h('a', { href: run.record }, 'record (JSON)'), ' · ',
    h('a', { href: run.picture }, 'picture (PNG)'));
}

// --- All together --------------------------------------------------------------------------

function show() {
  Object.values(controls).forEach((update) => update());
  const { style: of, layer, loss, seed } = run.choice;
  const names = [label('style', of), `${layer}, ${label('loss', loss)}`];
  style.src = run.style;
  style.alt = `Style image ${names[0]}`;
  inversion.src = run.picture;
  inversion.alt = `Inversion of ${names[0]}: ${names[1]}, seed ${seed}`;
  names.forEach((name, i) => { captions.children[i].textContent = name; });
  showNumbers();
  fit();
  draw();
}

const shown = Object.keys(SELECTS).filter(
  (name) => !OPTIONAL.includes(name) || options[name].length > 1);
app.append(
  radioGroup('style'),
  h('div', { class: 'viewer-columns' }, view,
    h('div', { class: 'viewer-controls' }, radioGroup('layer'), radioGroup('loss'),
      h('div', { class: 'viewer-selects' }, ...shown.map(selectGroup))),
    plot),
  h('div', { class: 'viewer-numbers' }, facts, again, links));
root.querySelector('details').open = false;
app.hidden = false;
divide();
show();
followUrl();
addEventListener('hashchange', followUrl);
new ResizeObserver(() => { fit(); draw(); }).observe(app);
