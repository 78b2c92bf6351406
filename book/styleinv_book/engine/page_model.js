// The live page's model where there is no Python: it has anywidget's interface, answers the wishes
// of live.js as `widget.py` does, and lets the browser's engine compute, one worker for each run.
// `live_page.py` puts before it `frontEnd`, which is live.js, and `page`, the tables of the module; and
// beside it the files that are loaded when they are wanted. These are scripts, because a page that is
// opened from a folder may load nothing else.
const RUNNING = ['loading', 'running', 'paused'];
const THUMBNAIL = 128;
const POINTS_APART = 1.03; // from one point of a curve to the next, evaluations grow by this factor
const HEARTBEAT = 5000; // milliseconds; live.js misses a state that does not come
const NOTHING = new ArrayBuffer(0);
const EVALUATIONS = 100;
const LONG = 60; // seconds for so many evaluations
const MEASURED = { size: 64, layer: 'relu_2_2', loss: 'gram' }; // the deepest layer takes longest
const AT_ONCE = Math.max(1, (navigator.hardwareConcurrency ?? 2) - 1); // runs; the others wait

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function sentence(text) {
  return text && `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, '')}.`;
}

function joined(sentences) {
  return sentences.filter(Boolean).map(sentence).join(' ');
}

function duration(seconds) {
  const whole = Math.round(seconds), two = (number) => String(number).padStart(2, '0');
  if (whole >= 3600) return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)} h`;
  if (whole >= 60) return `${Math.floor(whole / 60)}:${two(whole % 60)} min`;
  return `${seconds.toFixed(seconds >= 10 ? 0 : 1)} s`;
}

function threeDigits(number) {
  return Math.abs(number) < 1e-4 ? number.toExponential(2) : String(Number(number.toPrecision(3)));
}

async function png(pixels) {
  const size = Math.sqrt(pixels.length / 4);
  const canvas = new OffscreenCanvas(size, size);
  canvas.getContext('2d').putImageData(new ImageData(pixels, size, size), 0, 0);
  return (await canvas.convertToBlob({ type: 'image/png' })).arrayBuffer();
}

// A worker that runs the program. `receive` gets its messages, `fail` the reason why it broke off.
function startWorker(program, receive, fail) {
  const address = URL.createObjectURL(new Blob([program], { type: 'text/javascript' }));
  const worker = new Worker(address);
  URL.revokeObjectURL(address);
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = (event) => {
    event.preventDefault();
    fail(`the computation broke off (${event.message || 'maybe the memory is used up'})`);
  };
  return worker;
}

// The files beside the page's script; each says `styleinvFiles[name] = ...`.
class Files {
  #addresses;
  #folder;
  #loading = new Map();

  // addresses: of the files, by their names, as seen from the folder.
  constructor(addresses, folder) {
    this.#addresses = addresses;
    this.#folder = folder;
    globalThis.styleinvFiles ??= {};
  }

  // The content of a file, which is loaded once; after a failure the next call tries again.
  load(name) {
    if (!this.#loading.has(name)) this.#loading.set(name, this.#load(name));
    return this.#loading.get(name);
  }

  #load(name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement('script');
      script.src = new URL(this.#addresses[name], this.#folder);
      script.onload = () => resolve(globalThis.styleinvFiles[name]);
      script.onerror = () => {
        this.#loading.delete(name);
        script.remove();
        reject(new Error(`the file ${name}.js of this page cannot be loaded; try again when the network is back`));
      };
      document.head.append(script);
    });
  }
}

// One run: what was asked, where it is, and the worker that computes it.
class Run {
  phase = 'waiting';
  points = [];
  iterations = 0;
  seconds = 0;
  message = '';
  stop = null; // why it ended
  style = null; // its pixels
  notes = []; // what was done to the style
  shown = { style: NOTHING, picture: NOTHING, at: null }; // PNG files, and the [evaluations, loss] of the picture
  #latest = null; // {pixels, at}
  #worker = null;
  #isHeld = false;

  // `seen` is called after every change.
  constructor(asked, seen) {
    this.asked = asked;
    this.stage = asked.loss;
    this.seen = seen;
  }

  get isGoing() {
    return RUNNING.includes(this.phase);
  }

  // `load` gives the engine and the style's pixels.
  async begin(load) {
    this.phase = 'loading';
    try {
      const { engine, style, notes } = await load();
      if (!this.isGoing) return; // it was stopped meanwhile
      Object.assign(this, { style, notes });
      this.#worker = startWorker(engine.program, (data) => this.#receive(data), (message) => this.#end({ message }));
      this.#worker.postMessage({ do: 'load', wasm: engine.wasm, weights: engine.weights });
    } catch (error) {
      this.#end({ message: error.message });
    }
  }

  // pause, resume, step or stop
  tell(wish) {
    this.#isHeld = wish === 'pause' || wish === 'step';
    if (wish === 'stop') this.#end({ stop: this.points.length ? 'stopped' : null });
    else if (this.phase !== 'loading') {
      if (wish === 'step') this.#worker.postMessage({ do: 'pause' });
      this.#worker.postMessage({ do: wish });
      this.phase = this.#isHeld ? 'paused' : 'running';
    }
  }

  // End without a result, as if the run had not begun.
  drop() {
    this.#end();
  }

  // Make the files of what has changed.
  async draw() {
    const { style, shown } = this, latest = this.#latest;
    this.#latest = null;
    try {
      if (style && !shown.style.byteLength) shown.style = await png(style);
      if (latest) Object.assign(shown, { picture: await png(latest.pixels), at: latest.at });
    } catch (error) { // there is no memory
      this.#end({ message: `the picture cannot be shown: ${error.message}` });
    }
  }

  #receive(data) {
    if (data.do === 'ready') this.#start();
    if (data.do === 'failed') this.#end({ message: data.message });
    if (data.do === 'iterate') this.#note(data);
  }

  #start() {
    const { size, layer, loss, alpha, protocol, seed } = this.asked;
    const asked = { layer, loss, alpha, protocol, seed, height: size, width: size, style: this.style };
    this.#worker.postMessage({ do: 'start', ...asked });
    this.phase = 'running';
    if (this.#isHeld) this.tell('pause');
    this.seen();
  }

  #note({ evaluations, iterations, loss, phase, seconds, pixels, done }) {
    Object.assign(this, { iterations, seconds, stage: phase });
    const at = [evaluations, loss], [before, last] = this.points.slice(-2);
    if (last && last[0] < POINTS_APART * before[0]) this.points.pop();
    this.points.push(at);
    if (pixels) this.#latest = { pixels, at };
    if (done) this.#end({ stop: done });
    else this.seen();
  }

  #end({ stop = null, message = '' } = {}) {
    this.#worker?.terminate();
    this.#worker = null;
    Object.assign(this, { stop, message, phase: message ? 'failed' : stop ? 'ended' : 'waiting' });
    this.seen();
  }
}

class PageModel {
  #listeners = {};
  #values;
  #page;
  #files;
  #own = new Map(); // the files of the reader's images, and of those of this build, by their style
  #received = []; // pieces of an upload
  #uploads = 0;
  #runs = [];
  #reply = {};
  #batch = 0;
  #tick = 0;
  #isStopped = false;
  #isShowing = false;
  #isStale = false;
  #isMeasured = false;

  // page: what `live_page.py` knows; given: the choice and the styles of this build; folder: of the files.
  constructor(page, given, folder) {
    this.#page = page;
    this.#files = new Files(page.addresses, folder);
    for (const { value, content } of given.styles) this.#own.set(value, new File([bytesOf(content)], value));
    const styles = [...given.styles, ...page.styles].map(({ value, label, picture }) =>
      ({ value, label, picture: bytesOf(picture) }));
    this.#values = { options: page.options, styles, choice: { ...page.choice, ...given.choice } };
    this.#showPictures();
    this.#values.state = this.#state();
    setInterval(() => this.#isGoing && this.#show(), HEARTBEAT);
  }

  // --- anywidget's interface -----------------------------------------------------------------

  get(name) {
    return this.#values[name];
  }

  set(name, value) {
    this.#values[name] = value;
    for (const listener of this.#listeners[`change:${name}`] ?? []) listener();
  }

  save_changes() {}

  on(event, listener) {
    (this.#listeners[event] ??= new Set()).add(listener);
  }

  off(event, listener) {
    this.#listeners[event]?.delete(listener);
  }

  async send({ do: wish, ...content }, _, buffers = []) {
    if (wish === 'seen') return;
    this.#reply = {};
    try {
      await this.#carryOut(wish, content, buffers);
    } catch (error) {
      this.#reply = { message: sentence(error.message), bad: true };
    }
    this.#show();
  }

  // --- Wishes --------------------------------------------------------------------------------

  #carryOut(wish, content, buffers) {
    switch (wish) {
      case 'start': return this.#start(content.choice);
      case 'upload': return this.#upload(content, ...buffers);
      case 'save': return this.#save();
      case 'reset': return this.#clear();
      case 'skip': return this.#skip();
      default: return this.#tell(wish);
    }
  }

  #start(choice) {
    if (this.#isGoing) throw new Error('a run is still going on; stop it before the next one');
    const asked = this.#runsOf(choice);
    this.#clear();
    this.#batch += 1;
    this.#isStopped = false;
    this.#runs = asked.map((one) => new Run(one, () => this.#see()));
    this.#see();
  }

  // The runs that a choice stands for, as `choices.runs_of` has them.
  #runsOf(choice) {
    const { options, largest_seed: largest, budgets, thetas } = this.#page;
    const { style, size, seed, protocol, layer, loss, alpha } = choice;
    const number = (value) => (Number.isFinite(value) ? value : 'no number');
    const { offered } = options.size;
    if (!offered.includes(size)) throw new Error(`size is ${number(size)}, but must be one of ${offered.join(', ')}`);
    if (!Number.isInteger(seed) || seed < 0 || seed > largest) {
      throw new Error(`seed is ${number(seed)}, but must be a whole number from 0 to ${largest}`);
    }
    const cells = {
      one: [[layer, loss]],
      compare: [[layer, loss], [choice.other_layer, choice.other_loss]],
      layers: options.layer.map(([one]) => [one, loss]),
      moments: [1, 2, 3, 4].map((n) => [layer, `moment-${n}`]),
    };
    return cells[choice.show].map(([of, what]) => {
      const asked = { source: style, layer: of, loss: what, protocol, size, seed,
        budget: budgets[protocol][what][of], theta: thetas[protocol][what] };
      if (what !== 'mmd') return asked;
      if (!(alpha > 0)) throw new Error(`alpha is ${number(alpha)}, but must be greater than 0`);
      return { ...asked, alpha };
    });
  }

  async #upload({ name, size, start }, piece) {
    const largest = this.#page.options.largest_upload;
    if (size > largest) {
      throw new Error(`file '${name}' has ${Math.ceil(size / 2 ** 20)} MB, but must have at most ${largest / 2 ** 20}`);
    }
    this.#received = start ? [...this.#received, piece] : [piece];
    if (start + piece.byteLength < size) return;
    const file = new File(this.#received, name);
    this.#received = [];
    const { pixels, notes } = await this.#prepare(file, THUMBNAIL);
    const picture = await png(pixels);
    const value = `upload:${this.#uploads += 1}`;
    this.#own.set(value, file);
    if (!this.#isGoing) this.#clear();
    const label = name.replace(/(.)\.[^.]*$/, '$1').replaceAll('_', ' ');
    this.set('styles', this.#withoutOldest([{ value, label, picture }, ...this.get('styles')]));
    this.#reply = { message: joined(notes) };
  }

  // A reader who tries one image after the other must not fill the memory: the oldest go, unless a run needs them.
  #withoutOldest(styles) {
    const needed = new Set(this.#runs.map(({ asked }) => asked.source));
    const uploaded = styles.map(({ value }) => value).filter((value) => value.startsWith('upload:'));
    const dropped = new Set(uploaded.slice(this.#page.options.most_uploads).filter((value) => !needed.has(value)));
    for (const value of dropped) this.#own.delete(value);
    return styles.filter(({ value }) => !dropped.has(value));
  }

  #save() {
    const ended = this.#runs.filter(({ phase }) => phase === 'ended');
    if (!ended.length) throw new Error('there is no picture to save until a run has ended');
    const names = ended.map(({ asked: { source, layer, loss, size, seed } }) =>
      `${this.#labelOf(source).replace(/[^\p{L}\p{N}]+/gu, '_')}-${layer}-${loss}-${size}-seed${seed}.png`);
    this.#reply = { saved: names };
  }

  #clear() {
    const runs = this.#runs;
    this.#runs = [];
    for (const run of runs) run.drop();
  }

  // The first run that has a picture ends, and the next one begins.
  #skip() {
    this.#tell('resume');
    this.#runs.find(({ isGoing, points }) => isGoing && points.length)?.tell('stop');
  }

  #tell(wish) {
    if (wish === 'stop') this.#isStopped = true;
    for (const run of this.#runs) if (run.isGoing) run.tell(wish);
  }

  // --- What runs need ------------------------------------------------------------------------

  get #isGoing() {
    return this.#runs.some(({ isGoing }) => isGoing);
  }

  // After every change of a run: begin those for which there is room.
  #see() {
    const room = AT_ONCE - this.#runs.filter(({ isGoing }) => isGoing).length;
    const waiting = this.#isStopped ? [] : this.#runs.filter(({ phase }) => phase === 'waiting');
    for (const run of waiting.slice(0, Math.max(room, 0))) run.begin(() => this.#load(run.asked));
    this.#show();
  }

  async #load({ source, size }) {
    const [engine, { pixels, notes }] = await Promise.all([this.#engine(), this.#styleOf(source, size)]);
    return { engine, style: pixels, notes };
  }

  async #engine() {
    const { program, wasm, weights } = await this.#files.load('engine');
    return { program, wasm: bytesOf(wasm).buffer, weights: bytesOf(weights).buffer };
  }

  // The style's pixels (RGBA): painted by Python at this size, or prepared from a file, with notes.
  async #styleOf(source, size) {
    if (this.#own.has(source)) {
      const { name } = this.#own.get(source);
      const { pixels, shorter, notes } = await this.#prepare(this.#own.get(source), size);
      if (shorter < size) notes.push(`${name}: its shorter side of ${shorter} pixels is enlarged to ${size}`);
      return { pixels, notes };
    }
    const rgb = bytesOf(await this.#files.load(`${source.replace('bundled:', '')}-${size}`));
    const pixels = new Uint8ClampedArray(4 * size * size).fill(255);
    for (let i = 0; i < size * size; i += 1) pixels.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
    return { pixels, notes: [] };
  }

  async #prepare(file, size) {
    const { ownImage } = await this.#files.load('engine');
    return new Promise((resolve, reject) => {
      const worker = startWorker(ownImage, ({ message, notes, ...prepared }) => {
        worker.terminate();
        if (message) reject(new Error(message));
        else resolve({ ...prepared, notes: notes.map((note) => `${file.name}: ${note}`) });
      }, (message) => reject(new Error(message)));
      worker.postMessage({ file, size });
    });
  }

  // --- How fast this device is ---------------------------------------------------------------

  // Offer the sizes that this device inverts within a minute: measured once, when the reader first
  // does something, but not beside a run. Larger ones are made as well for those who ask for them.
  async measure() {
    if (this.#isMeasured || this.#isGoing) return;
    this.#isMeasured = true;
    try {
      this.#offer(await this.#pace());
    } catch {
      this.#isMeasured = false; // what is wrong here, a run will say
    }
  }

  // Seconds for an evaluation of `MEASURED`.
  async #pace() {
    const { program, ...engine } = await this.#engine();
    return new Promise((resolve, reject) => {
      let worker;
      const fail = (message) => {
        worker.terminate();
        reject(new Error(message));
      };
      worker = startWorker(program, (data) => {
        if (data.do === 'failed') fail(data.message);
        if (data.do === 'ready') worker.postMessage({ do: 'measure', ...MEASURED });
        if (data.do !== 'measured') return;
        worker.terminate();
        resolve(data.seconds);
      }, fail);
      worker.postMessage({ do: 'load', ...engine });
    });
  }

  // The time that a run takes grows with the number of pixels.
  #offer(seconds) {
    const { options } = this.#page;
    const all = options.size.offered;
    const taken = (size) => EVALUATIONS * seconds * (size / MEASURED.size) ** 2;
    const offered = all.filter((size, i) => i === 0 || taken(size) <= LONG);
    const most = offered.at(-1), what = `${EVALUATIONS} evaluations at ${MEASURED.layer} take this device`;
    const limit = most === all.at(-1)
      ? `Up to ${most} pixels, where ${what} about ${duration(taken(most))}.`
      : `Up to ${most} pixels, because ${what} more than a minute at larger sizes; those up to ${all.at(-1)} run if you type them.`;
    const note = `${limit} ${options.size.allowed}`;
    this.set('options', { ...options, size: { ...options.size, max: most, offered, note } });
  }

  // --- What is shown -------------------------------------------------------------------------

  // What changes while pictures are made is shown after them.
  async #show() {
    this.#isStale = true;
    if (this.#isShowing) return;
    this.#isShowing = true;
    while (this.#isStale) {
      this.#isStale = false;
      await Promise.all(this.#runs.map((run) => run.draw()));
      this.#showPictures();
      this.set('state', this.#state());
    }
    this.#isShowing = false;
  }

  #showPictures() {
    const shown = this.#runs.map((run) => run.shown);
    this.set('style_picture', shown.find(({ style }) => style.byteLength)?.style ?? NOTHING);
    for (let i = 0; i < 4; i += 1) this.set(`picture_${i}`, shown[i]?.picture ?? NOTHING);
  }

  // The same as `view.py` makes of a session.
  #state() {
    const runs = this.#runs, [first] = runs;
    const failed = runs.find(({ phase }) => phase === 'failed')?.message ?? '';
    return { batch: this.#batch, phase: this.#phase(), runs: runs.map((run) => this.#stateOf(run)),
      asked: first ? this.#asked(first.asked) : null,
      message: sentence(failed) || joined([...new Set(runs.flatMap(({ notes }) => notes)), this.#slowness()]),
      bad: Boolean(failed), saved: [], tick: this.#tick += 1, ...this.#reply };
  }

  // What to say of runs that take long here.
  #slowness() {
    const { min } = this.#page.options.size;
    const pace = Math.max(0, ...this.#runs.filter(({ isGoing, asked }) => isGoing && asked.size > min)
      .map(({ points, seconds }) => (points.length > 2 ? (EVALUATIONS * seconds) / points.at(-1)[0] : 0)));
    return pace > LONG ? `${EVALUATIONS} evaluations take about ${duration(pace)} on this device; a smaller size is faster` : '';
  }

  #phase() {
    const phases = this.#runs.map(({ phase }) => phase);
    if (!this.#isGoing) return phases.length ? 'ended' : 'idle';
    return phases.find((phase) => phase === 'running' || phase === 'paused') ?? 'loading';
  }

  #asked({ source, protocol, size, seed }) {
    const style = this.#own.has(source) ? null : source;
    return { style, protocol, size, seed, encoder: this.#page.encoder.name };
  }

  #stateOf(run) {
    const { asked: { source, layer, loss, alpha, theta, protocol, size, seed }, phase, points, stop } = run;
    const { shades, encoder } = this.#page;
    const name = this.#labelOf(source), title = this.#titleOf(loss);
    const severalLayers = new Set(this.#runs.map(({ asked }) => asked.layer)).size > 1;
    const onlyLayers = severalLayers && new Set(this.#runs.map(({ asked }) => asked.loss)).size === 1;
    return { layer, loss, phase, theta, stop, reference: null, points: [...points], style: name,
      ...(alpha && { alpha }),
      title: `${layer}, ${title}`,
      short: [...(severalLayers ? [layer] : []), ...(onlyLayers ? [] : [title])].join(', '),
      status: this.#statusOf(run),
      colour: this.#colourOf(loss, onlyLayers ? shades[layer] : 100),
      pictured: run.shown.at,
      numbers: this.#numbersOf(run),
      provenance: `${name} · encoder ${encoder.name} (${encoder.sha256}) · ${size} x ${size} pixels · protocol ${protocol} · seed ${seed} · this browser` };
  }

  #statusOf({ phase, stop, stage, asked: { loss } }) {
    if (phase === 'ended') return `ended: ${stop}`;
    return phase === 'running' && stage !== loss ? `stage: ${this.#titleOf(stage)}` : phase;
  }

  #numbersOf({ points, iterations, seconds, phase, asked: { budget, protocol } }) {
    if (!points.length) return {};
    const [evaluations, loss] = points.at(-1);
    const done = this.#page.options.adam.includes(protocol) ? iterations : evaluations;
    const hasTimeLeft = phase !== 'ended' && done > 0 && done <= budget;
    return { loss: threeDigits(loss), iterations: iterations.toLocaleString('en'),
      evaluations: evaluations.toLocaleString('en'), time: duration(seconds),
      'time left': hasTimeLeft ? `≤ ${duration((seconds * (budget - done)) / done)}` : '' };
  }

  // The name of a loss, or of a stage that is named after one.
  #titleOf(stage) {
    const [loss, ...more] = stage.split(' ');
    return [this.#page.titles[loss] ?? loss, ...more].join(' ');
  }

  #colourOf(loss, percent) {
    const own = this.#page.colours[loss];
    return percent === 100 ? own : `color-mix(in srgb, ${own} ${percent}%, var(--paper))`;
  }

  #labelOf(source) {
    return this.get('styles').find(({ value }) => value === source).label;
  }
}

// The fragment of `live_page.py` says where the page is, and what it begins with. A browser that is too
// old keeps what is shown there without JavaScript.
if ('OffscreenCanvas' in globalThis) {
  const given = JSON.parse(document.querySelector('.live-given').textContent);
  const model = new PageModel(page, given, document.currentScript.src);
  const el = document.querySelector('.live-page');
  frontEnd.initialize({ model });
  frontEnd.render({ model, el });
  for (const act of ['click', 'input']) el.addEventListener(act, () => model.measure());
}
