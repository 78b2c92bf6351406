"use strict";

// PyTorch's random numbers on a CPU, bit for bit: a seed means the same noise here as in Python.

const STATE = 624;
const SHIFT = 397;

// The state of MT19937 (Matsumoto and Nishimura 1998) from the seed's lowest 32 bits.
function seededState(seed) {
  const state = new Uint32Array(STATE);
  state[0] = Number(BigInt(seed) & 0xffffffffn);
  for (let i = 1; i < STATE; i++) {
    const before = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, before) + i;
  }
  return state;
}

// Replace all words of the state by the next ones.
function twist(state) {
  for (let i = 0; i < STATE; i++) {
    const word = (state[i] & 0x80000000) | (state[(i + 1) % STATE] & 0x7fffffff);
    state[i] = state[(i + SHIFT) % STATE] ^ (word >>> 1) ^ (word & 1 ? 0x9908b0df : 0);
  }
}

function temper(word) {
  word ^= word >>> 11;
  word ^= (word << 7) & 0x9d2c5680;
  word ^= (word << 15) & 0xefc60000;
  return word ^ (word >>> 18);
}

// `torch.rand(count, generator=torch.Generator().manual_seed(seed))`: the lowest 24 bits of each
// word of MT19937, over 2^24.
function uniformNoise(seed, count) {
  const state = seededState(seed);
  const noise = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    if (i % STATE === 0) twist(state);
    noise[i] = (temper(state[i % STATE]) & 0xffffff) / 0x1000000;
  }
  return noise;
}
