// The live page: choose, start, watch, go back, compare, share. It shows what `model` has (`state`
// and the pictures) and sends it wishes; what computes is behind the model. `parts.js` and `share.js`
// come before it in the same module.
const STAGE = 512; // a picture has at most so many CSS pixels
const PIECE = 2 ** 23; // bytes of an upload in one message, which may have 10 MB in Jupyter
const RUNNING = ['loading', 'running', 'paused'];
const PATIENCE = 20_000; // milliseconds until an answer that does not come is missed
const SILENT = 'No answer for a while. If there is none at all, reload the page; the memory may be used up.';

// Each frame is answered, even while no view is drawn: a run that nobody answers is stopped.
function initialize({ model }) {
  model.on('change:state', () => model.send({ do: 'seen', tick: model.get('state').tick }));
}

function render({ model, el }) {
  const options = model.get('options');
  const id = `live-${Math.random().toString(36).slice(2)}`;
  const choice = { ...model.get('choice') };
  const updates = [];
  const urls = [];

  // --- What is said --------------------------------------------------------------------------

  const message = h('p', { class: 'viewer-note', role: 'status', 'aria-live': 'polite' });
  // What this page says by itself, until the next wish.
  let own = '', isBad = false;

  function say(text, bad = false) {
    [own, isBad] = [text, bad];
    showMessage();
  }

  function showMessage() {
    const { message: said, bad } = state();
    const text = own && !bad ? own : said;
    if (message.textContent !== text) message.textContent = text;
    message.classList.toggle('live-bad', Boolean(text === said ? bad : isBad));
  }

  // Every wish is answered by a state, and during a run one follows the other.
  let missing;
  function expectState() {
    clearTimeout(missing);
    missing = setTimeout(() => say(SILENT, true), PATIENCE);
  }

  const send = (wish, content = {}, buffers = []) => {
    expectState();
    say('');
    model.send({ do: wish, ...content }, undefined, buffers);
  };
  const state = () => model.get('state');

  // --- Choices -------------------------------------------------------------------------------

  // The choice is the reader's: no answer changes it, except that an own image is chosen as soon as it
  // is offered, unless the reader has chosen a style after it was sent.
  let wantsOwn = false;

  function choose(values) {
    Object.assign(choice, values);
    if ('style' in values) wantsOwn = false;
  }

  function change(name, value) {
    choose({ [name]: value });
    changed();
  }

  function changed() {
    update();
    model.set('choice', { ...choice });
    model.save_changes();
    if (options.address) history.replaceState(null, '', addressOf(choice));
  }

  function radios(name, title, values, picture) {
    const box = h('div');
    const inputs = () => [...box.querySelectorAll('input')];
    const fill = () => {
      const focused = inputs().find((input) => input === document.activeElement)?.value;
      replacePictures(box, ...values().map(([value, text, image]) => {
        const input = h('input', { type: 'radio', name: `${id}-${name}`, value });
        input.checked = choice[name] === value;
        input.addEventListener('change', () => change(name, value));
        return h('label', { title: text }, input, h('span', {}, ...(picture ? [picture(image)] : []), text));
      }));
      inputs().find(({ value }) => value === focused)?.focus();
    };
    updates.push(() => {
      for (const input of inputs()) input.checked = input.value === choice[name];
    });
    fill();
    const hidden = options[name]?.length < 2;
    return { fill, group: h('fieldset', { class: `viewer-${name}`, hidden }, h('legend', {}, title), box) };
  }

  function field(title, control, hidden = false) {
    return h('label', { hidden }, h('span', {}, title), control);
  }

  function select(name, title, values = options[name]) {
    const control = h('select', {}, ...values.map(([value, text]) => h('option', { value }, text)));
    control.addEventListener('change', () => change(name, control.value));
    updates.push(() => { control.value = choice[name]; });
    return field(title, control, values.length < 2);
  }

  function number(name, title, attributes) {
    const control = h('input', { type: 'number', required: true, ...attributes });
    // Start says what is wrong with a number.
    control.addEventListener('input', () => { choice[name] = control.valueAsNumber; });
    control.addEventListener('change', changed);
    updates.push(() => { if (document.activeElement !== control) control.value = choice[name]; });
    return field(title, control);
  }

  const thumbnail = (picture) => h('img', { src: url(picture), alt: '', class: 'dark-light' });
  const styles = radios('style', 'Style', () => model.get('styles').map(({ value, label, picture }) => [value, label, picture]), thumbnail);
  const sources = [['+', 'Your image', {}]];
  // Some phones offer their camera for no other kind of field.
  if (matchMedia('(pointer: coarse)').matches) sources.push(['◉', 'Camera', { capture: 'environment' }]);
  const drops = sources.map(([sign, title, attributes]) => {
    const file = h('input', { type: 'file', accept: 'image/*', ...attributes });
    file.addEventListener('change', () => { upload(file.files[0]); file.value = ''; });
    return h('label', { class: 'live-drop', title: 'Choose, drop or paste an image' }, file,
      h('span', {}, h('b', {}, sign), title));
  });
  styles.group.querySelector('div').before(...drops);
  const layers = radios('layer', 'Layer', () => options.layer).group;
  const losses = radios('loss', 'Loss', () => options.loss).group;
  const show = radios('show', 'Show', () => Object.entries(SHOWS)).group;
  const sizes = h('datalist', { id: `${id}-sizes` });
  const sizeNote = h('p', { class: 'viewer-note live-size', id: `${id}-size` });
  const path = h('input', { type: 'text', placeholder: 'weights.safetensors', spellcheck: false });
  path.addEventListener('input', () => { choice.weights = path.value; });
  const weights = field('Weights file', path);
  const kernel = h('div', { class: 'viewer-selects' },
    number('alpha', 'Kernel width α', { min: 0, step: 'any' }), select('pairing', 'Pairs'));
  const other = h('div', { class: 'viewer-selects' },
    select('other_layer', 'Against layer', options.layer), select('other_loss', 'Against loss', options.loss));
  const protocol = select('protocol', 'Optimiser');
  const selects = h('div', { class: 'viewer-selects' }, protocol,
    number('size', 'Size in pixels', { list: `${id}-sizes`, 'aria-describedby': `${id}-size` }), sizes,
    number('seed', 'Seed', { min: 0, step: 1 }), sizeNote, select('encoder', 'Encoder'), weights);

  // The model may offer fewer sizes later. What an address may say stays what it was.
  function offerSizes() {
    const { min, max, step, offered, note = '' } = model.get('options').size;
    Object.assign(selects.querySelector('[list]'), { min, max, step });
    sizes.replaceChildren(...offered.map((value) => h('option', { value })));
    sizeNote.textContent = note;
    sizeNote.hidden = !note;
  }

  function update() {
    const mmd = hasMmd(choice);
    // Only Adam can use pairs that are drawn anew.
    const adam = mmd && choice.pairing === 'random';
    for (const option of protocol.querySelectorAll('option')) {
      option.disabled = adam && !options.adam.includes(option.value);
    }
    if (adam && !options.adam.includes(choice.protocol)) [choice.protocol] = options.adam;
    kernel.hidden = !mmd;
    other.hidden = choice.show !== 'compare';
    weights.hidden = choice.encoder !== 'file';
    layers.disabled = choice.show === 'layers';
    losses.disabled = choice.show === 'moments';
    updates.forEach((one) => one());
    if (!state().runs.length) preview();
  }

  // --- The reader's own image ----------------------------------------------------------------

  async function upload(chosen) {
    if (!chosen) return;
    wantsOwn = true;
    const { name, size } = chosen;
    const piece = (start, ...content) => send('upload', { name, size, start }, content);
    if (size > options.largest_upload) {
      piece(0);
      return;
    }
    const content = await chosen.arrayBuffer();
    for (let start = 0; start < Math.max(size, 1); start += PIECE) {
      piece(start, content.slice(start, start + PIECE));
    }
  }

  // The newest style is the first. The chosen one may have been dropped for it.
  function offerStyles() {
    styles.fill();
    const offered = model.get('styles').map(({ value }) => value);
    if (!wantsOwn && offered.includes(choice.style)) return;
    [choice.style] = offered;
    changed();
  }

  function paste(happened) {
    const [pasted] = happened.clipboardData.files;
    if (!pasted) return;
    happened.preventDefault();
    upload(pasted);
  }

  // --- Pictures ------------------------------------------------------------------------------

  function url(content, type = 'image/png') {
    const made = URL.createObjectURL(new Blob([content], { type }));
    urls.push(made);
    return made;
  }

  // The memory behind an address is free when nothing shows it any more.
  function release(address) {
    if (!address.startsWith('blob:')) return;
    URL.revokeObjectURL(address);
    urls.splice(urls.indexOf(address), 1);
  }

  function replacePictures(element, ...children) {
    const before = [...element.querySelectorAll('img')];
    element.replaceChildren(...children);
    for (const image of before) {
      const { src } = image;
      if (image.isConnected) continue;
      image.removeAttribute('src'); // it may still be loading
      release(src);
    }
  }

  const stages = h('div', { class: 'live-stages' });
  let shown = [];
  // Whether a link has started runs that are not in sight yet: on a phone, the choices come before.
  let isLed = false;

  function makeStage(run) {
    const style = h('img', { class: 'dark-light viewer-left', alt: 'Style image' });
    const picture = h('img', { class: 'dark-light', alt: `${run.title}: not begun` });
    const divider = h('input', { type: 'range', min: 0, max: 100, step: 'any',
      'aria-label': `Divider: style on the left, ${run.title} on the right` });
    const stage = h('div', { class: 'viewer-stage' }, picture, style, divider, h('div', { class: 'viewer-line' }));
    const caption = h('figcaption', { class: 'viewer-captions' }, h('b', {}, run.title), h('span'));
    divider.addEventListener('input', () => divide(divider.value));
    divider.addEventListener('pointerdown', () => { divider.step = 'any'; });
    divider.addEventListener('keydown', () => { divider.step = 2; });
    picture.hidden = style.hidden = true;
    return { style, picture, divider, stage, caption, frames: [], source: null, frame: null, of: null,
      figure: h('figure', {}, stage, caption) };
  }

  // One divider for all pictures.
  function divide(value) {
    stages.style.setProperty('--at', `${value}%`);
    for (const { divider } of shown) {
      divider.value = value;
      divider.setAttribute('aria-valuetext', `${Math.round(value)} % style`);
    }
  }

  function setPicture(image, source) {
    const before = image.src;
    image.hidden = false;
    image.src = url(source);
    release(before);
  }

  function preview() {
    const { value, label: name, picture } = model.get('styles').find((style) => style.value === choice.style);
    if (shown.length === 1 && shown[0].of === value) return;
    const stage = makeStage({ title: name });
    stage.of = value;
    setPicture(stage.style, picture);
    stage.stage.classList.add('live-alone');
    shown = [stage];
    replacePictures(stages, stage.figure);
    divide(100);
    fit();
    showScrubber();
  }

  function showRuns() {
    const { batch, runs } = state();
    if (shown.length !== runs.length || shown[0].of !== batch) {
      shown = runs.map((run) => Object.assign(makeStage(run), { of: batch }));
      replacePictures(stages, ...shown.map(({ figure }) => figure));
      divide(30);
      at = null;
    }
    runs.forEach((run, i) => {
      const stage = shown[i];
      keepFrame(stage, run, model.get(`picture_${i}`));
      showFrame(stage, run);
      stage.figure.classList.toggle('live-now', RUNNING.includes(run.phase));
      stage.figure.classList.toggle('live-waiting', !stage.source);
    });
    fit();
    showScrubber();
    if (isLed) stages.scrollIntoView({ block: 'nearest' });
    isLed = false;
  }

  // --- Back through the iterates -------------------------------------------------------------

  // After how many evaluations the pictures are; null: the present.
  let at = null;
  const scrub = h('input', { type: 'range', min: 0, step: 1 });
  const where = h('span');
  const scrubber = h('div', { class: 'live-scrub' }, h('label', {}, h('span', {}, 'Iterate'), scrub), where);
  scrub.addEventListener('input', () => {
    const { value, max } = scrub;
    at = value === max ? null : moments()[value];
    showRuns();
    draw();
  });

  function keepFrame(stage, run, source) {
    if (stage.source === source || !source?.byteLength) return;
    if (!stage.source) setPicture(stage.style, model.get('style_picture'));
    stage.source = source;
    const [evaluations, loss] = run.pictured;
    const { frames } = stage;
    if (frames.at(-1)?.evaluations === evaluations) frames.pop();
    frames.push({ evaluations, loss, picture: new Blob([source]) });
    thin(frames, mostFrames(source.byteLength, shown.length));
  }

  function showFrame(stage, run) {
    const frame = at === null ? stage.frames.at(-1) : frameAt(stage.frames, at);
    if (frame && stage.frame !== frame) setPicture(stage.picture, frame.picture);
    stage.frame = frame;
    const status = at !== null && frame ? pointText(frame) : run.status;
    stage.picture.alt = `Inversion of ${run.style}: ${run.title}, ${status}`;
    stage.caption.lastChild.textContent = status;
  }

  const evaluationsText = (count) => `after ${count.toLocaleString('en')} evaluation${count === 1 ? '' : 's'}`;
  const pointText = ({ evaluations, loss }) => `${evaluationsText(evaluations)}, loss ${loss.toPrecision(3)}`;

  // Where the slider can be: after so many evaluations of any run.
  function moments() {
    const all = shown.flatMap(({ frames }) => frames.map(({ evaluations }) => evaluations));
    return [...new Set(all)].sort((a, b) => a - b);
  }

  function showScrubber() {
    const all = moments();
    scrubber.hidden = all.length < 2;
    if (scrubber.hidden) return;
    const last = all.length - 1;
    scrub.max = last;
    scrub.value = at === null ? last : Math.max(0, all.findLastIndex((evaluations) => evaluations <= at));
    const isGoing = RUNNING.includes(state().phase);
    where.textContent = at === null ? (isGoing ? 'live' : 'the end') : evaluationsText(at);
    scrub.setAttribute('aria-valuetext', where.textContent);
  }

  // Whole multiples of a pixel as far as there is room; larger images are made smaller, smoothly.
  function fit() {
    const many = shown.length > 1;
    stages.classList.toggle('live-many', many);
    const gap = parseFloat(getComputedStyle(stages).columnGap) || 0;
    const room = Math.min(many ? (stages.clientWidth - gap) / 2 : stages.clientWidth, STAGE);
    const size = state().asked?.size ?? 128;
    const zoom = Math.floor((room * devicePixelRatio) / size);
    const px = `${zoom ? (zoom * size) / devicePixelRatio : room}px`;
    for (const { stage, figure } of shown) {
      figure.style.width = px;
      stage.classList.toggle('viewer-smooth', zoom === 0);
    }
  }

  // --- Loss curves ---------------------------------------------------------------------------

  const plot = h('div', { class: 'viewer-curve' });

  function draw() {
    const runs = state().runs.filter(({ points }) => points.length);
    const width = plot.clientWidth, height = 280;
    if (!width) return;
    const box = { left: 46, right: width - 60, top: 24, bottom: height - 38 };
    const references = runs.map(({ reference }) => reference).filter((reference) => reference?.points);
    const lines = [...runs, ...references].map(({ points }) => points);
    const thetas = [...new Set(runs.map(({ theta }) => theta))].filter((theta) => theta !== null);
    const losses = lines.flat().map(([, loss]) => loss);
    const levels = losses.length ? [...losses, ...thetas] : [1e-5, 1];
    const signed = Math.min(...levels) <= 0;
    const yAxis = (signed ? linearAxis : logAxis)(Math.min(...levels), Math.max(...levels));
    const xAxis = evaluationsAxis(Math.max(10, ...lines.flat().map(([evaluation]) => evaluation)));
    const x = (value) => box.left + xAxis.at(value) * (box.right - box.left);
    const y = (value) => box.bottom - yAxis.at(value) * (box.bottom - box.top);
    const text = (content, attributes) => s('text', attributes, content);
    const d = (points) => `M${points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join('L')}`;
    const across = (name, level) => s('line', { class: name, x1: box.left, x2: box.right, y1: y(level), y2: y(level) });

    const grid = yAxis.ticks.flatMap(([value, name]) => [across('grid', value),
      text(name, { x: box.left - 6, y: y(value) + 4, 'text-anchor': 'end' })]);
    const ticks = xAxis.ticks.map(([value, name]) =>
      text(name, { x: x(value), y: box.bottom + 16, 'text-anchor': 'middle' }));
    const theta = thetas.flatMap((level) => [across('theta', level),
      text('θ', { class: 'theta', x: box.left + 4, y: y(level) - 5 })]);
    const dashed = references.map(({ points }) => s('path', { class: 'live-reference', d: d(points) }));
    // Each curve has its name at its end; names that would overlap move down.
    const ends = runs.map((run) => ({ run, at: run.points.at(-1) })).sort((a, b) => y(a.at[1]) - y(b.at[1]));
    let free = box.top;
    const curves = ends.flatMap(({ run, at: [evaluation, loss] }) => {
      const level = Math.max(y(loss) + 4, free);
      free = level + 14;
      return [s('path', { d: d(run.points), style: `stroke: ${run.colour}` }),
        s('circle', { cx: x(evaluation), cy: y(loss), r: 3.5, style: `fill: ${run.colour}` }),
        text(run.short, { class: 'live-end', x: x(evaluation) + 7, y: level })];
    });
    const marks = at === null ? [] : [
      s('line', { class: 'live-at', x1: x(at), x2: x(at), y1: box.top, y2: box.bottom }),
      ...runs.map((run) => [run, shown[state().runs.indexOf(run)].frame]).filter(([, frame]) => frame)
        .map(([run, { evaluations, loss }]) => s('circle', { class: 'live-at', cx: x(evaluations), cy: y(loss), r: 5,
          style: `stroke: ${run.colour}` }))];
    const said = runs.map(({ title, points }) => `${title} at ${points.at(-1)[1].toPrecision(3)} after ${points.at(-1)[0]} evaluations`);
    plot.replaceChildren(s('svg', { width, height, role: 'img',
      'aria-label': `Loss curves: ${said.join('; ') || 'nothing yet'}` },
    ...grid, ...ticks, ...theta,
    text(signed ? 'loss (linear, as it can be negative)' : 'loss', { x: 4, y: 12 }),
    text('evaluations', { x: box.right, y: height - 5, 'text-anchor': 'end' }), ...dashed, ...curves, ...marks));
  }

  // --- Numbers -------------------------------------------------------------------------------

  const table = h('table');
  const provenances = h('div', { class: 'live-sources' });

  function showNumbers() {
    const { runs } = state();
    const names = new Set(runs.flatMap(({ numbers }) => Object.keys(numbers)));
    const head = h('tr', {}, h('td'), ...runs.map((run) => h('th', { scope: 'col' },
      h('i', { style: `background: ${run.colour}` }), run.short)));
    const rows = [...names].map((name) => h('tr', {}, h('th', { scope: 'row' }, name),
      ...runs.map(({ numbers }) => h('td', {}, numbers[name] ?? ''))));
    table.replaceChildren(h('thead', {}, head), h('tbody', {}, ...rows));
    table.hidden = !runs.length;
    provenances.replaceChildren(...[...new Set(runs.flatMap(({ reference, provenance }) =>
      [reference?.text, provenance]))].filter(Boolean).map((line) => h('p', { class: 'provenance' }, line)));
  }

  // --- Buttons -------------------------------------------------------------------------------

  const saved = h('p', { class: 'live-saved' });
  const buttons = {};
  function button(name, title, wish) {
    buttons[name] = h('button', { type: 'button', class: `live-${name}` }, title);
    buttons[name].addEventListener('click', wish);
    return buttons[name];
  }
  const bar = h('div', { class: 'live-buttons', role: 'group', 'aria-label': 'Run' },
    button('start', 'Start', () => send('start', { choice })),
    button('pause', 'Pause', () => send(state().phase === 'paused' ? 'resume' : 'pause')),
    button('step', 'Step', () => send('step')),
    button('skip', 'Next', () => send('skip')),
    button('stop', 'Stop', () => send('stop')),
    button('save', 'Save', () => send('save')),
    button('reset', 'Reset', () => send('reset')),
    button('link', 'Copy link', copyLink));
  buttons.link.hidden = !options.address;

  function showButtons() {
    const { phase, runs } = state();
    const going = RUNNING.includes(phase);
    buttons.start.disabled = going;
    buttons.pause.disabled = !['running', 'paused'].includes(phase);
    buttons.step.disabled = buttons.pause.disabled;
    buttons.pause.textContent = phase === 'paused' ? 'Resume' : 'Pause';
    buttons.skip.hidden = runs.length < 2;
    buttons.skip.disabled = !going || runs.at(-1)?.phase !== 'waiting';
    buttons.stop.disabled = !going;
    buttons.save.disabled = going || !runs.some((run) => run.phase === 'ended');
    buttons.reset.disabled = going || !runs.length;
  }

  // The pictures of the runs that have ended, and what makes them again.
  async function showSaved() {
    const { saved: names } = state();
    if (saved.dataset.names === names.join()) return;
    saved.dataset.names = names.join();
    for (const { href } of saved.querySelectorAll('a')) release(href);
    saved.replaceChildren();
    if (!names.length) return;
    const ended = state().runs.flatMap(({ phase }, i) => phase === 'ended' ? [shown[i].source] : []);
    const link = (name, href) => h('a', { href, download: name }, name);
    const links = names.map((name, i) => link(name, url(ended[i])));
    const text = JSON.stringify(await recipeOf(state(), options.engine, model.get('style_picture')), null, 1);
    if (saved.dataset.names !== names.join()) { // another answer came meanwhile
      for (const { href } of links) release(href);
      return;
    }
    links.push(link(names[0].replace(/\.png$/, '.recipe.json'), url(text, 'application/json')));
    saved.replaceChildren('Download: ', ...links.flatMap((one, i) => i ? [', ', one] : [one]),
      '. The last is a recipe: with styleinv in Python, ', h('code', {}, 'styleinv invert --recipe FILE'),
      ` makes ${names.length > 1 ? 'these pictures' : 'this picture'} again${options.engine.name === 'browser' ? ', alike but not bit for bit' : ''}.`);
  }

  // --- The address ---------------------------------------------------------------------------

  async function copyLink() {
    // Without the query, which can have a key to this page.
    const link = location.href.replace(/[?#].*/s, '') + addressOf(choice);
    const without = NAMED.test(choice.style) ? '' : ' Your own image is not in it: Save makes a recipe that has it.';
    try {
      await navigator.clipboard.writeText(link);
      say(`The link is copied.${without}`);
    } catch {
      say(`The browser does not let a page copy here. The link is ${link}${without && `.${without}`}`);
    }
  }

  function readLink() {
    if (!options.address || !location.hash.includes('=')) return;
    const { found: { start, ...found }, bad } = readAddress(location.hash, options, model.get('styles'));
    choose(found);
    update();
    if (bad.length) say(`Ignored in the address, because this page has no such choice: ${bad.join(', ')}.`, true);
    else if (start && !RUNNING.includes(state().phase)) {
      isLed = true;
      send('start', { choice });
    }
  }

  // --- All together --------------------------------------------------------------------------

  function showState() {
    clearTimeout(missing);
    if (own === SILENT) own = '';
    if (RUNNING.includes(state().phase)) expectState();
    if (state().runs.length) showRuns();
    else preview();
    draw();
    showNumbers();
    showButtons();
    showMessage();
    showSaved();
  }

  const part = (tag, name, ...children) => h(tag, { class: `live-${name}` }, ...children);
  const root = part('div', 'root viewer live',
    part('fieldset', 'styles', styles.group),
    part('div', 'columns',
      part('fieldset', 'choices', show, layers, losses, kernel, other, selects),
      part('div', 'view', part('fieldset', 'run', bar), message, saved, stages, scrubber),
      part('div', 'numbers', plot, table, provenances)));
  for (const [event, over] of [['dragover', true], ['dragleave', false], ['drop', false]]) {
    root.addEventListener(event, (happened) => {
      happened.preventDefault();
      root.classList.toggle('live-over', over);
      if (event !== 'drop') return;
      const [dropped] = happened.dataTransfer.files;
      if (dropped) upload(dropped);
      else say('What was dropped is no file; save the picture first, then drop its file.', true);
    });
  }
  el.replaceChildren(root);

  const listeners = {
    'change:state': showState,
    'change:styles': offerStyles,
    'change:options': offerSizes,
  };
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
  const resized = new ResizeObserver(() => { fit(); draw(); });
  resized.observe(root);
  (options.address ? document : root).addEventListener('paste', paste);
  window.addEventListener('hashchange', readLink);
  offerSizes();
  update();
  showState();
  readLink();
  return () => {
    clearTimeout(missing);
    resized.disconnect();
    document.removeEventListener('paste', paste);
    window.removeEventListener('hashchange', readLink);
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
    urls.forEach((made) => URL.revokeObjectURL(made));
  };
}

export default { initialize, render };
