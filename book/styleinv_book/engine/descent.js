"use strict";

// Minimise a loss over the pixels of an image, as `styleinv.optim` and `styleinv.adam` do. The
// methods are generators that pause before every evaluation of loss and gradient, and return why
// they ended.
//
// A problem is `{ kernel, count, evaluate(x, gradient, stage) }`, where x and gradient are
// addresses of `count` numbers (a multiple of 4) and evaluate returns `{ descended, exact }`, both
// losses.

// As in `styleinv.optim`.
const SUFFICIENT_DECREASE = 1e-4;
const LEAST_CURVATURE = 1e-10;
const MOST_BACKTRACKS = 25;
// As in `styleinv.protocol`.
const SLOW_AFTER = 200;

// Counts, and decides when a run ends: `styleinv.optim.Monitor`.
class Monitor {
  constructor(settings, clock) {
    Object.assign(this, { settings, clock });
    this.iterations = 0;
    this.evaluations = 0;
    this.loss = NaN;
    this.stage = "";
    this.trace = [];
  }

  // Note an iterate; the reason to stop, or null.
  see(loss) {
    const { theta, weight, seconds } = this.settings;
    this.loss = loss;
    this.note(loss);
    if (theta !== null && weight * loss < theta) return "theta";
    if (this.hasSlowedDown(loss)) return "slow";
    return seconds !== null && this.clock() > seconds ? "time" : null;
  }

  note(loss) {
    const { iterations, evaluations, stage, trace } = this;
    const last = trace.at(-1);
    const spaced = last?.stage === stage ? Math.ceil(1.05 * last.iterations) : 0;
    if (!last || iterations >= Math.max(spaced, last.iterations + 1)) {
      trace.push({ iterations, evaluations, stage, loss });
    }
  }

  hasSlowedDown(loss) {
    const gain = this.settings.least_gain;
    if (gain === undefined) return false;
    const own = this.trace.filter((point) => point.stage === this.stage);
    if (own.length === 0 || this.evaluations - own[0].evaluations < SLOW_AFTER) return false;
    const middle = (own[0].evaluations + this.evaluations) / 2;
    return own.findLast((point) => point.evaluations <= middle).loss < gain * loss;
  }

  checkFirst(loss) {
    if (this.evaluations === 1 && !Number.isFinite(loss)) {
      throw new Error(`The loss of the noise image is ${loss}, so there is nothing to descend.`);
    }
  }
}

// The last `memory` pairs of step and change of gradient: `styleinv.lbfgs.CurvatureHistory`.
class CurvatureHistory {
  constructor(kernel, memory, count) {
    Object.assign(this, { kernel, memory, count });
    this.pairs = kernel.allocate(2 * memory * count); // steps above changes
    this.products = kernel.allocate(2 * memory);
    this.sy = Array.from({ length: memory }, () => new Float64Array(memory));
    this.yy = Array.from({ length: memory }, () => new Float64Array(memory));
    this.slots = []; // oldest first
    this.scale = 1;
  }

  row(number) {
    return this.pairs + 4 * this.count * number;
  }

  // All pairs times a vector.
  times(vector) {
    this.kernel.dots(this.pairs, vector, this.products, 2 * this.memory, this.count);
    return this.kernel.view(this.products, 2 * this.memory);
  }

  add(step, change, curvature, squaredChange) {
    const { kernel, memory, count, slots } = this;
    const slot = slots.length === memory ? slots.shift() : slots.length;
    slots.push(slot);
    kernel.view(this.row(slot), count).set(kernel.view(step, count));
    kernel.view(this.row(memory + slot), count).set(kernel.view(change, count));
    this.scale = curvature / squaredChange;
    const products = this.times(change);
    for (let k = 0; k < memory; k++) {
      this.sy[k][slot] = products[k];
      this.yy[k][slot] = this.yy[slot][k] = products[memory + k];
    }
  }

  // Write -H g to `out`.
  direction(gradient, out) {
    const { kernel, memory, count, slots, scale, sy, yy } = this;
    const from = kernel.view(gradient, count);
    const steepest = slots.length > 0 ? scale : 1;
    kernel.view(out, count).set(from.map((g) => -steepest * g));
    if (slots.length === 0) return;
    const products = this.times(gradient);
    const size = slots.length;
    const a = new Float64Array(size);
    for (let i = size - 1; i >= 0; i--) {
      let right = products[slots[i]];
      for (let j = i + 1; j < size; j++) right -= sy[slots[i]][slots[j]] * a[j];
      a[i] = right / sy[slots[i]][slots[i]];
    }
    const d = new Float64Array(size);
    for (let i = 0; i < size; i++) {
      let right = -scale * products[memory + slots[i]];
      for (let j = 0; j < size; j++) right += scale * yy[slots[i]][slots[j]] * a[j];
      right += sy[slots[i]][slots[i]] * a[i];
      for (let j = 0; j < i; j++) right -= sy[slots[j]][slots[i]] * d[j];
      d[i] = right / sy[slots[i]][slots[i]];
    }
    const weights = products.fill(0);
    slots.forEach((slot, i) => {
      weights[slot] = -d[i];
      weights[memory + slot] = scale * a[i];
    });
    kernel.add_rows(this.pairs, this.products, out, 2 * memory, count);
  }
}

// Projected L-BFGS through all stages: `styleinv.optim.l_bfgs`.
class ProjectedLBFGS {
  constructor(problem, start, stages, settings, monitor) {
    const { kernel, count } = problem;
    Object.assign(this, { problem, kernel, count, stages, settings, monitor });
    this.point = { x: start, gradient: kernel.allocate(count) };
    this.trial = { x: kernel.allocate(count), gradient: kernel.allocate(count) };
    this.free = kernel.allocate(count);
    this.direction = kernel.allocate(count);
    this.moved = kernel.allocate(count);
    this.product = kernel.allocate(4);
    this.history = new CurvatureHistory(kernel, settings.memory, count);
  }

  get image() {
    return this.point.x;
  }

  *run() {
    const { monitor, settings } = this;
    let reason;
    for (const stage of this.stages) {
      this.stage = stage;
      monitor.stage = stage.name;
      const left = settings.budget - monitor.evaluations;
      this.last = monitor.evaluations + Math.min(stage.budget, left);
      this.history.slots = [];
      yield* this.evaluate(this.point);
      monitor.checkFirst(this.point.exact);
      reason = yield* this.descend();
      const goesOn = ["budget", "enough", "stalled", "slow"].includes(reason);
      if (!goesOn || monitor.evaluations >= settings.budget) break;
    }
    return reason;
  }

  *descend() {
    let reason = this.monitor.see(this.point.exact);
    while (reason === null) {
      if (this.monitor.evaluations >= this.last) reason = "budget";
      else if (this.point.descended < this.stage.enough) reason = "enough";
      else reason = yield* this.step();
    }
    return reason;
  }

  // One iteration; the reason to stop, or null.
  *step() {
    const { kernel, count, history, monitor, free, direction } = this;
    const { x, gradient } = this.point;
    kernel.view(free, count).set(kernel.view(gradient, count));
    kernel.hold(x, gradient, free, count);
    history.direction(free, direction);
    kernel.hold(x, gradient, direction, count);
    const slope = this.dot(free, direction);
    const isFound = slope < 0 && (yield* this.search(slope));
    if (!isFound) return this.giveUp(slope);
    const change = direction; // which is not needed any more
    kernel.difference(this.trial.x, x, this.moved, count);
    kernel.difference(this.trial.gradient, gradient, change, count);
    const curvature = this.dot(this.moved, change);
    const squaredChange = this.dot(change, change);
    if (curvature > LEAST_CURVATURE * squaredChange) {
      history.add(this.moved, change, curvature, squaredChange);
    }
    [this.point, this.trial] = [this.trial, this.point];
    monitor.iterations += 1;
    return monitor.see(this.point.exact);
  }

  // Where no step was found: drop the history, which may mislead, or say why the run ends.
  giveUp(slope) {
    const tried = slope < 0 ? this.trial : this.point;
    if (this.monitor.evaluations >= this.last) return "budget";
    if (this.history.slots.length > 0) {
      this.history.slots = [];
      return null;
    }
    const values = [tried.descended, tried.exact, this.dot(tried.gradient, tried.gradient)];
    return values.every(Number.isFinite) ? "stalled" : "not finite";
  }

  // Whether `trial`, on the projected arc, lowers the loss enough.
  *search(slope) {
    const { kernel, count, point, trial } = this;
    let step = this.history.slots.length > 0 ? 1 : 1 / Math.sqrt(-slope);
    for (let tries = 0; tries < MOST_BACKTRACKS; tries++) {
      kernel.arc(point.x, this.direction, step, trial.x, count);
      yield* this.evaluate(trial);
      kernel.difference(trial.x, point.x, this.moved, count);
      const promised = this.dot(point.gradient, this.moved);
      const gained = trial.descended - point.descended;
      const descends = promised < 0 && gained <= SUFFICIENT_DECREASE * promised;
      if (descends && Number.isFinite(trial.exact)) return true;
      if (this.monitor.evaluations >= this.last) return false;
      const excess = gained - promised;
      const isParabola = excess > 0 && excess < Infinity;
      const shrunk = isParabola ? (-promised * step) / (2 * excess) : 0;
      step = Math.min(Math.max(shrunk, 0.1 * step), 0.5 * step);
    }
    return false;
  }

  *evaluate(point) {
    yield;
    Object.assign(point, this.problem.evaluate(point.x, point.gradient, this.stage));
    this.monitor.evaluations += 1;
  }

  dot(a, b) {
    this.kernel.dots(a, b, this.product, 1, this.count);
    return this.kernel.view(this.product, 1)[0];
  }
}

// Adam with the chapter's stopping rule: `styleinv.adam`.
class Adam {
  constructor(problem, start, stages, settings, monitor) {
    const { kernel, count } = problem;
    Object.assign(this, { problem, kernel, count, stage: stages.at(-1), settings, monitor });
    this.x = start;
    this.image = kernel.allocate(count); // the last one with a finite loss
    this.gradient = kernel.allocate(count);
    this.moments = [kernel.allocate(count), kernel.allocate(count)];
  }

  *run() {
    const { monitor } = this;
    monitor.stage = this.stage.name;
    for (;;) {
      yield;
      const { exact } = this.problem.evaluate(this.x, this.gradient, this.stage);
      monitor.evaluations += 1;
      monitor.checkFirst(exact);
      if (!Number.isFinite(exact)) return "not finite";
      this.kernel.view(this.image, this.count).set(this.kernel.view(this.x, this.count));
      const reason = monitor.see(exact) ?? this.budgetReason(exact);
      if (reason !== null) return reason;
      monitor.iterations += 1;
      this.step(monitor.iterations);
    }
  }

  step(number) {
    const { kernel, count, settings } = this;
    const [beta1, beta2] = settings.betas;
    const rate = settings.learning_rate / (1 - beta1 ** number);
    const scale = Math.sqrt(1 - beta2 ** number);
    kernel.adam(this.x, this.gradient, ...this.moments, rate, scale, beta1, beta2, count);
  }

  // After the budget and each round of extra iterations, another round follows if one is left and
  // the loss is too high.
  budgetReason(loss) {
    const { budget, extra_rounds, extra_iterations, extra_above, weight } = this.settings;
    const beyond = this.monitor.iterations - budget;
    if (beyond < 0 || beyond % extra_iterations !== 0) return null;
    const isOver = beyond / extra_iterations >= extra_rounds || weight * loss <= extra_above;
    return isOver ? "budget" : null;
  }
}
