"use strict";

// The kernel's memory, and the encoder (`styleinv.encoder`) on it: VGG-19 to relu_2_2 with borders
// reflected, forward and back to the pixels.

const LAYERS = ["relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2"];
// Channels from and to of each convolution. A max-pool stands before the third.
const CONVOLUTIONS = [[3, 64], [64, 64], [64, 128], [128, 128]];
const POOLED = 2;
const BLOCK = 4; // output channels that the kernel computes at once

// An instance of the kernel with memory of its own, which goes when nobody holds the instance.
class Kernel {
  constructor(module) {
    const { memory, __heap_base: base, ...functions } = new WebAssembly.Instance(module).exports;
    this.memory = memory;
    this.end = base.value;
    Object.assign(this, functions);
  }

  // Room for so many float32; its address. It throws a RangeError if the browser has no more.
  allocate(count) {
    const address = Math.ceil(this.end / 16) * 16;
    this.end = address + 4 * count;
    const missing = this.end + 16 - this.memory.buffer.byteLength; // 16: rows are read in fours
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
    return address;
  }

  // What lies at an address, until memory is allocated again.
  view(address, count) {
    return new Float32Array(this.memory.buffer, address, count);
  }

  // Room for these values; its address.
  keep(values) {
    const address = this.allocate(values.length);
    this.view(address, values.length).set(values);
    return address;
  }
}

// Weights (channelsOut, channelsIn, 3, 3) as the kernel wants them: (channelsOut / 4, channelsIn,
// 3, 3, 4), with output channels of zeros where four do not divide them. `weightAt(o, c, tap)`.
function inBlocks(channelsOut, channelsIn, weightAt) {
  const blocks = Math.ceil(channelsOut / BLOCK);
  const packed = new Float32Array(blocks * BLOCK * channelsIn * 9);
  let at = 0;
  for (let block = 0; block < blocks; block++) {
    for (let c = 0; c < channelsIn; c++) {
      for (let tap = 0; tap < 9; tap++) {
        for (let o = block * BLOCK; o < (block + 1) * BLOCK; o++) {
          packed[at++] = o < channelsOut ? weightAt(o, c, tap) : 0;
        }
      }
    }
  }
  return packed;
}

// The convolutions in the order of the file that `weights.py` writes: each one's kernels
// (channelsOut, channelsIn, 3, 3) and biases. A gradient is convolved with the flipped, transposed
// kernels.
function unpackWeights(buffer) {
  const values = new Float32Array(buffer);
  let at = 0;
  const take = (count) => values.subarray(at, (at += count));
  const convolutions = CONVOLUTIONS.map(([from, to]) => {
    const kernels = take(to * from * 9);
    return {
      from,
      to,
      forward: inBlocks(to, from, (o, c, tap) => kernels[(o * from + c) * 9 + tap]),
      back: inBlocks(from, to, (o, c, tap) => kernels[(c * from + o) * 9 + 8 - tap]),
      bias: take(to),
    };
  });
  if (at !== values.length) {
    throw new Error(`The encoder has ${values.length} weights, but must have ${at}.`);
  }
  return convolutions;
}

// The encoder down to one layer, for images of one size. Images are (3, height, width) in [0, 1];
// maps and gradients are addresses in the kernel's memory.
class Encoder {
  constructor(kernel, convolutions, layer, height, width) {
    this.kernel = kernel;
    this.height = height;
    this.width = width;
    const half = { height: height >> 1, width: width >> 1 };
    this.stages = convolutions.slice(0, LAYERS.indexOf(layer) + 1).map((one, index) => {
      const sides = index < POOLED ? { height, width } : half;
      return {
        ...one,
        ...sides,
        forward: kernel.keep(one.forward),
        back: kernel.keep(one.back),
        bias: kernel.keep(one.bias),
        maps: kernel.allocate(one.to * sides.height * sides.width),
      };
    });
    const last = this.stages.at(-1);
    this.channels = last.to;
    this.positions = last.height * last.width;
    this.zeros = kernel.keep(new Float32Array(Math.max(...this.stages.map((s) => s.from), BLOCK)));
    // Passed on from stage to stage: maps or gradients, by themselves and with borders.
    const room = (count) => kernel.allocate(Math.max(...this.stages.map(count)));
    this.scratch = room((s) => Math.max(s.from, BLOCK, s.to) * s.height * s.width);
    this.bordered = room((s) => Math.max(s.from, BLOCK) * (s.height + 2) * (s.width + 2));
    this.masked = room((s) => s.to * (s.height + 4) * (s.width + 4));
    this.unpooled = this.stages.length > POOLED ? kernel.allocate(64 * height * width) : 0;
  }

  // The maps of the layer, valid until the next call.
  forward(image) {
    const { kernel } = this;
    let maps = image;
    for (const [index, s] of this.stages.entries()) {
      if (index === POOLED) {
        kernel.pool(maps, this.scratch, s.from, this.height, this.width);
        maps = this.scratch;
      }
      kernel.reflect(maps, this.bordered, s.from, s.height, s.width);
      kernel.convolve(
        this.bordered, s.forward, s.bias, s.maps, s.from, s.to, s.height, s.width, 1,
      );
      maps = s.maps;
    }
    return maps;
  }

  // The gradient of the image, given that of the maps which `forward` returned last.
  backward(gradient, imageGradient) {
    const { kernel } = this;
    for (let index = this.stages.length - 1; index >= 0; index--) {
      const s = this.stages[index];
      const rows = s.height + 2;
      const columns = s.width + 2;
      kernel.mask(gradient, s.maps, this.masked, s.to, s.height, s.width);
      kernel.convolve(
        this.masked, s.back, this.zeros, this.bordered, s.to, s.from, rows, columns, 0,
      );
      gradient = index === 0 ? imageGradient : this.scratch;
      kernel.fold(this.bordered, gradient, s.from, s.height, s.width);
      if (index === POOLED) {
        const before = this.stages[index - 1].maps;
        kernel.unpool(gradient, before, this.unpooled, s.from, this.height, this.width);
        gradient = this.unpooled;
      }
    }
  }
}
