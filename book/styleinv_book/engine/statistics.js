"use strict";

// The chapter's style losses (`styleinv.losses`), with their gradients in closed form. Each takes
// its target from the style's maps once. `value` computes the loss of other maps, and `gradient`,
// called right after it on the same maps, writes the loss's gradient with respect to them.
//
// Maps are addresses in the kernel's memory: channels x positions. Small matrices are computed here
// in float64, everything that has the size of the maps in the kernel.

const VARIANCE_FLOOR = 1e-5;
const LOSSES = ["gram", "moment-1", "moment-2", "moment-3", "moment-4", "mmd"];

// Equations 1.1 to 1.3: 1/c^2 times the squared distance of the Gram matrices per position.
class GramLoss {
  constructor(kernel, channels, positions, style) {
    Object.assign(this, { kernel, channels, positions });
    this.matrix = kernel.allocate(channels * channels);
    this.scale = 1 / channels ** 2;
    this.target = this.gram(style);
  }

  gram(maps) {
    this.kernel.gram(maps, this.matrix, this.channels, this.positions);
    const products = this.kernel.view(this.matrix, this.channels ** 2);
    return Float64Array.from(products, (product) => product / this.positions);
  }

  value(maps) {
    this.difference = this.gram(maps).map((entry, k) => entry - this.target[k]);
    return this.scale * this.difference.reduce((sum, entry) => sum + entry * entry, 0);
  }

  // The loss's gradient with respect to the Gram matrix, which is symmetric like it.
  matrixGradient() {
    return this.difference.map((entry) => 2 * this.scale * entry);
  }

  // With D the gradient of G = F F^T / n, that of F is (D + D^T) F / n.
  gradient(maps, out) {
    const { channels, positions } = this;
    const matrix = this.matrixGradient().map((entry) => (2 * entry) / positions);
    this.kernel.view(this.matrix, channels ** 2).set(matrix);
    this.kernel.product(this.matrix, maps, out, channels, channels, positions);
  }
}

// `WhitenedGramLoss`: the distance in the eigenvectors of the style's matrix, each entry weighted
// with 1 / ((l_i + l_j) / (2 l_1) + 0.1).
class WhitenedGramLoss extends GramLoss {
  constructor(kernel, channels, positions, style) {
    super(kernel, channels, positions, style);
    const { values, vectors } = eigen(this.target, channels);
    const largest = Math.max(...values);
    this.weights = new Float64Array(channels ** 2);
    for (let i = 0; i < channels; i++) {
      for (let j = 0; j < channels; j++) {
        this.weights[i * channels + j] = 1 / ((values[i] + values[j]) / (2 * largest) + 0.1);
      }
    }
    this.vectors = kernel.keep(vectors);
    this.transposed = kernel.keep(transpose(vectors, channels));
    this.products = [kernel.allocate(channels ** 2), kernel.allocate(channels ** 2)];
  }

  // a M b, for addresses a and b.
  between(a, matrix, b) {
    const { kernel, channels, products: [first, second] } = this;
    kernel.view(this.matrix, channels ** 2).set(matrix);
    kernel.product(a, this.matrix, first, channels, channels, channels);
    kernel.product(first, b, second, channels, channels, channels);
    return Float64Array.from(kernel.view(second, channels ** 2));
  }

  value(maps) {
    super.value(maps);
    this.rotated = this.between(this.transposed, this.difference, this.vectors);
    return this.scale * this.rotated.reduce((sum, d, k) => sum + this.weights[k] * d * d, 0);
  }

  matrixGradient() {
    const weighted = this.rotated.map((d, k) => 2 * this.scale * this.weights[k] * d);
    return this.between(this.vectors, weighted, this.transposed);
  }
}

function transpose(matrix, n) {
  return matrix.map((_, k) => matrix[(k % n) * n + Math.floor(k / n)]);
}

// Eigenvalues and eigenvectors (as columns) of a symmetric matrix (n, n), by Jacobi's rotations
// (Golub and Van Loan 2013, section 8.5), until what is off the diagonal is rounding error.
function eigen(matrix, n) {
  const a = Float64Array.from(matrix);
  const rows = new Float64Array(n * n); // the eigenvectors as rows
  for (let i = 0; i < n; i++) rows[i * n + i] = 1;
  const tiny = 1e-20 * a.reduce((sum, entry) => sum + entry * entry, 0);
  while (offDiagonal(a, n) > tiny) {
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) rotate(a, rows, n, p, q);
    }
  }
  const values = Float64Array.from({ length: n }, (_, i) => a[i * n + i]);
  return { values, vectors: transpose(rows, n) };
}

function offDiagonal(a, n) {
  return a.reduce((sum, entry, k) => (k % (n + 1) === 0 ? sum : sum + entry * entry), 0);
}

// Make entry (p, q) zero.
function rotate(a, rows, n, p, q) {
  const entry = a[p * n + q];
  if (entry === 0) return;
  const ratio = (a[q * n + q] - a[p * n + p]) / (2 * entry);
  const tangent = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.hypot(ratio, 1));
  const cosine = 1 / Math.hypot(tangent, 1);
  const sine = tangent * cosine;
  const turn = (m, one, other) => {
    const [x, y] = [m[one], m[other]];
    m[one] = cosine * x - sine * y;
    m[other] = sine * x + cosine * y;
  };
  for (let k = 0; k < n; k++) turn(a, k * n + p, k * n + q);
  for (let k = 0; k < n; k++) turn(a, p * n + k, q * n + k);
  for (let k = 0; k < n; k++) turn(rows, p * n + k, q * n + k);
}

// Equations 1.4 and 1.5 for the first N moments, `compressed` as in Python.
class MomentLoss {
  constructor(kernel, channels, positions, style, count, compressed = false) {
    Object.assign(this, { kernel, channels, positions, count, compressed });
    this.central = kernel.allocate(4 * channels);
    this.coefficients = kernel.allocate(5 * channels);
    this.target = this.moments(style);
    this.psi = [0, 1, 2, 3].slice(0, count).map((order) => {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += this.target[4 * c + order];
      return Math.min(1, channels / Math.abs(sum));
    });
  }

  // M_1 to M_N of each channel, in rows of four.
  moments(maps) {
    const { kernel, channels, positions, count, compressed } = this;
    kernel.central_moments(maps, this.central, channels, positions);
    const central = kernel.view(this.central, 4 * channels);
    const found = new Float64Array(4 * channels);
    for (let c = 0; c < channels; c++) {
      const at = 4 * c;
      const deviation = Math.sqrt(this.variance(central[at + 1]));
      found[at] = central[at];
      found[at + 1] = deviation;
      for (let order = 3; order <= count; order++) {
        const moment = central[at + order - 1] / deviation ** order;
        found[at + order - 1] = compressed ? Math.asinh(moment) : moment;
      }
    }
    return found;
  }

  variance(second) {
    return second * (this.positions / (this.positions - 1)) + VARIANCE_FLOOR;
  }

  value(maps) {
    this.found = this.moments(maps);
    let sum = 0;
    for (let c = 0; c < this.channels; c++) {
      for (const [order, psi] of this.psi.entries()) {
        sum += psi * (this.found[4 * c + order] - this.target[4 * c + order]) ** 2;
      }
    }
    return sum / this.channels;
  }

  // Per channel a polynomial in F - m_1, see `styleinv.fused.central_moments`.
  gradient(maps, out) {
    const { kernel, channels, positions } = this;
    const central = kernel.view(this.central, 4 * channels);
    const coefficients = kernel.view(this.coefficients, 5 * channels);
    for (let c = 0; c < channels; c++) {
      const own = central.subarray(4 * c, 4 * c + 4);
      const weights = this.centralGradient(c, own).map((g, k) => (g * (k + 1)) / positions);
      const constant = weights[0] - weights[2] * own[1] - weights[3] * own[2];
      coefficients.set([own[0], constant, ...weights.slice(1)], 5 * c);
    }
    kernel.polynomial(maps, this.coefficients, out, channels, positions);
  }

  // The loss's gradient with respect to m_1 to m_4 of a channel.
  centralGradient(c, central) {
    const own = [0, 1, 2, 3].map((order) => {
      const k = 4 * c + order;
      return order < this.count
        ? (2 * this.psi[order] * (this.found[k] - this.target[k])) / this.channels
        : 0;
    });
    if (this.count === 1) return own;
    const variance = this.variance(central[1]);
    const deviation = Math.sqrt(variance);
    let byVariance = own[1] / (2 * deviation);
    for (let order = 3; order <= this.count; order++) {
      const moment = central[order - 1] / deviation ** order;
      if (this.compressed) own[order - 1] /= Math.hypot(moment, 1);
      byVariance -= (own[order - 1] * moment * order) / (2 * variance);
      own[order - 1] /= deviation ** order;
    }
    own[1] = byVariance * (this.positions / (this.positions - 1));
    return own;
  }
}

// Equation 1.6, neighbours paired. The kernel computes the gradient along with the value.
class MMDLoss {
  constructor(kernel, channels, positions, style, alpha) {
    Object.assign(this, { kernel, channels, positions, alpha });
    this.style = kernel.keep(kernel.view(style, channels * positions).slice());
    this.found = kernel.allocate(channels * positions);
  }

  value(maps) {
    const { kernel, channels, positions, alpha } = this;
    return kernel.sum_of_h(this.style, maps, this.found, channels, positions, alpha);
  }

  gradient(maps, out) {
    const count = this.channels * this.positions;
    this.kernel.view(out, count).set(this.kernel.view(this.found, count));
  }
}

// The loss or the stage of this name, with its target taken from the style's maps.
function makeLoss(name, kernel, { channels, positions }, style, alpha) {
  const shape = [kernel, channels, positions, style];
  const [kind, modifier] = name.split(" ");
  if (name === "gram whitened") return new WhitenedGramLoss(...shape);
  if (kind === "gram") return new GramLoss(...shape);
  if (kind === "mmd") return new MMDLoss(...shape, alpha);
  return new MomentLoss(...shape, Number(kind.at(-1)), modifier === "compressed");
}
