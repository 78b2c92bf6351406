"use strict";

// The engine of the published page: an inversion as `styleinv.invert` makes it, with the bundled
// encoder, in plain JavaScript and the WASM kernel. Settings of the protocols come from Python, in
// `PROTOCOLS` (see `styleinv_book.engine`).

const SMALLEST_SIDE = 16;
const LARGEST_SIDE = 512;
const METHODS = { "l-bfgs": ProjectedLBFGS, adam: Adam };

// An engine from the bytes of `kernel.wasm` and of the weights that `styleinv_book.engine` writes.
async function createEngine({ wasm, weights }) {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser does not run WebAssembly, which the computation needs.");
  }
  const convolutions = unpackWeights(weights);
  let module;
  try {
    module = await WebAssembly.compile(wasm);
  } catch (error) {
    throw new Error(
      `This browser refuses the computation's WebAssembly with SIMD: ${error.message}`,
    );
  }
  return new Engine(module, convolutions);
}

function oneOf(name, value, allowed) {
  if (!allowed.includes(value)) {
    const given = JSON.stringify(value);
    throw new Error(`${name} is ${given}, but must be one of: ${allowed.join(", ")}.`);
  }
  return value;
}

class Engine {
  constructor(module, convolutions) {
    Object.assign(this, { module, convolutions });
  }

  // An inversion that is about to start; see `Inversion`. Its memory goes when nobody holds it.
  invert(asked) {
    return roomFor(asked, () => new Inversion(this, asked));
  }

  // Loss and image gradient of one image, given like the style, and of the loss or the stage.
  evaluate({ image, ...asked }) {
    return roomFor(asked, () => {
      const problem = new Problem(this, asked, [asked.loss]);
      const { kernel } = problem;
      const x = kernel.keep(planar(image, asked));
      const gradient = kernel.allocate(problem.count);
      const { descended } = problem.evaluate(x, gradient, { name: asked.loss });
      const count = 3 * asked.height * asked.width;
      return { loss: descended, gradient: kernel.view(gradient, count).slice() };
    });
  }
}

function roomFor({ height, width }, make) {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new Error(
      `The browser has too little memory for a run at ${width} x ${height} pixels; ` +
        "choose a smaller size.",
    );
  }
}

// An image as planar float32, (3, height, width) in [0, 1]: it is so already, or bytes in RGBA. Zeros
// follow up to a multiple of 4.
function planar(image, { height, width }) {
  const isWhole = (side) =>
    Number.isInteger(side) && side >= SMALLEST_SIDE && side <= LARGEST_SIDE;
  if (!isWhole(height) || !isWhole(width)) {
    throw new Error(
      `The image has ${width} x ${height} pixels, ` +
        `but each side must have ${SMALLEST_SIDE} to ${LARGEST_SIDE}.`,
    );
  }
  const area = height * width;
  const isPlanar = image instanceof Float32Array;
  if (image.length !== (isPlanar ? 3 : 4) * area) {
    throw new Error(
      `The image has ${image.length} numbers, which do not fit ${width} x ${height} pixels.`,
    );
  }
  const padded = new Float32Array(Math.ceil((3 * area) / 4) * 4);
  if (isPlanar) {
    padded.set(image);
  } else {
    const fromBytes = (k) => image[4 * (k % area) + Math.floor(k / area)] / 255;
    for (let k = 0; k < 3 * area; k++) padded[k] = fromBytes(k);
  }
  return padded;
}

// The losses of images of the style's size, by their names, for the methods of descent.
class Problem {
  constructor(engine, { style, height, width, layer, alpha = 0.1 }, losses) {
    oneOf("layer", layer, LAYERS);
    const pixels = planar(style, { height, width });
    this.kernel = new Kernel(engine.module);
    this.count = pixels.length;
    this.encoder = new Encoder(this.kernel, engine.convolutions, layer, height, width);
    const maps = this.encoder.forward(this.kernel.keep(pixels));
    this.losses = new Map(
      losses.map((name) => [name, makeLoss(name, this.kernel, this.encoder, maps, alpha)]),
    );
    this.exact = this.losses.get(losses.at(-1));
  }

  evaluate(x, gradient, stage) {
    const { encoder, exact } = this;
    const loss = this.losses.get(stage.name);
    const maps = encoder.forward(x);
    const descended = loss.value(maps);
    loss.gradient(maps, encoder.scratch);
    encoder.backward(encoder.scratch, gradient);
    return { descended, exact: loss === exact ? descended : exact.value(maps) };
  }
}

// One inversion: `step` until `done`.
class Inversion {
  // Asked for as in `styleinv.invert`: style, height, width, layer, loss, alpha, protocol, seed;
  // theta and budget replace the protocol's own.
  constructor(engine, asked) {
    const { height, width, layer, loss, protocol = "fast", seed = 0 } = asked;
    oneOf("layer", layer, LAYERS);
    oneOf("loss", loss, LOSSES);
    oneOf("protocol", protocol, Object.keys(PROTOCOLS));
    const settings = limited(PROTOCOLS[protocol][loss][layer], asked);
    const stages = stagesOf(settings, loss);
    const problem = new Problem(engine, asked, stages.map((stage) => stage.name));
    const noise = uniformNoise(seed, 3 * height * width);
    const start = problem.kernel.keep(planar(noise, asked));
    this.seconds = 0;
    this.area = height * width;
    this.kernel = problem.kernel;
    const clock = () => this.seconds + (performance.now() - this.began) / 1000;
    this.monitor = new Monitor(settings, clock);
    this.descent = new METHODS[settings.method](problem, start, stages, settings, this.monitor);
    this.course = this.descent.run();
    this.course.next(); // up to the first evaluation
    this.done = null;
  }

  // One evaluation of loss and gradient, and what follows from it. Seconds are those spent here.
  step() {
    this.began = performance.now();
    if (this.done === null) this.done = this.course.next().value ?? null;
    this.seconds += (performance.now() - this.began) / 1000;
    const { evaluations, iterations, loss, stage } = this.monitor;
    return { evaluations, iterations, loss, phase: stage, done: this.done, seconds: this.seconds };
  }

  // The current iterate as RGBA, rounded like `styleinv.images.to_uint8`: halves to even.
  pixels() {
    const { area } = this;
    const image = this.kernel.view(this.descent.image, 3 * area);
    const pixels = new Uint8ClampedArray(4 * area).fill(255);
    for (let k = 0; k < 3 * area; k++) {
      pixels[4 * (k % area) + Math.floor(k / area)] = Math.fround(image[k] * 255);
    }
    return pixels;
  }
}

// A protocol's settings with the limits that are given, as `Protocol.limited_to` has them.
function limited(settings, { budget, theta }) {
  const own = { ...settings };
  if (budget !== undefined) Object.assign(own, { budget, extra_rounds: 0, seconds: null });
  if (theta !== undefined) own.theta = theta;
  return own;
}

// The stages of a descent, the exact loss last.
function stagesOf({ warmups = [], budget }, loss) {
  const before = warmups.map(({ loss: name, share, enough }) => ({
    name,
    budget: Math.max(1, Math.round(share * budget)),
    enough,
  }));
  return [...before, { name: loss, budget: Infinity, enough: -Infinity }];
}
