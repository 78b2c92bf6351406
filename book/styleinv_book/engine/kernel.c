// What the engine spends its time on, for one thread of WASM with SIMD.
//
// Feature maps are planar: channels x height x width, float32, without gaps. Every function writes
// all of its output and keeps nothing; memory is the caller's. Sides are at least 8, so that a row
// holds one tile of the convolution.

#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT __attribute__((visibility("default")))

enum { TILE = 8, BLOCK = 4, GROUP = 4, MOST_CHANNELS = 128, CHUNK = 256, PACKED = 64 };

static inline v128_t load(const float *from) { return wasm_v128_load(from); }
static inline void store(float *to, v128_t value) { wasm_v128_store(to, value); }
static inline v128_t splat(const float *from) { return wasm_v128_load32_splat(from); }
static inline v128_t add(v128_t a, v128_t b) { return wasm_f32x4_add(a, b); }
static inline v128_t subtract(v128_t a, v128_t b) { return wasm_f32x4_sub(a, b); }
static inline v128_t multiply(v128_t a, v128_t b) { return wasm_f32x4_mul(a, b); }

static inline float sum_of(v128_t v) {
  return (wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1)) +
         (wasm_f32x4_extract_lane(v, 2) + wasm_f32x4_extract_lane(v, 3));
}

// Convolution ------------------------------------------------------------------------------------

// One tile: 8 neighbours of a row in 4 output channels, whose sums stay in registers. They are
// summed up in groups of input channels: small sums lose less to rounding.
static inline void convolve_tile(const float *in, const float *kernels, const float *bias,
                                 float *out, int channels_in, int plane_in, int wide, int plane_out,
                                 int rectify) {
  v128_t sums[BLOCK][2];
  for (int k = 0; k < BLOCK; k++) sums[k][0] = sums[k][1] = splat(bias + k);
  for (int group = 0; group < channels_in; group += GROUP) {
    const int last = group + GROUP < channels_in ? group + GROUP : channels_in;
    v128_t own[BLOCK][2] = {0};
    for (int c = group; c < last; c++, in += plane_in)
      for (int dy = 0; dy < 3; dy++)
        for (int dx = 0; dx < 3; dx++, kernels += BLOCK) {
          const v128_t left = load(in + dy * wide + dx), right = load(in + dy * wide + dx + 4);
          for (int k = 0; k < BLOCK; k++) {
            const v128_t weight = splat(kernels + k);
            own[k][0] = add(own[k][0], multiply(left, weight));
            own[k][1] = add(own[k][1], multiply(right, weight));
          }
        }
    for (int k = 0; k < BLOCK; k++) {
      sums[k][0] = add(sums[k][0], own[k][0]);
      sums[k][1] = add(sums[k][1], own[k][1]);
    }
  }
  const v128_t floor = wasm_f32x4_splat(rectify ? 0 : -__builtin_inff());
  for (int k = 0; k < BLOCK; k++, out += plane_out) {
    store(out, wasm_f32x4_max(sums[k][0], floor));
    store(out + 4, wasm_f32x4_max(sums[k][1], floor));
  }
}

// 3x3 convolution of maps that are padded already: (channels_in, height + 2, width + 2) ->
// (channels_out, height, width), through a ReLU if asked for. Kernels are ordered as
// (channels_out / 4, channels_in, 3, 3, 4). The last tile of a row overlaps the one before it.
EXPORT void convolve(const float *in, const float *kernels, const float *bias, float *out,
                     int channels_in, int channels_out, int height, int width, int rectify) {
  const int wide = width + 2, plane_in = (height + 2) * wide, plane_out = height * width;
  for (int y = 0; y < height; y++)
    for (int o = 0; o < channels_out; o += BLOCK)
      for (int tile = 0; tile < width; tile += TILE) {
        const int x = tile + TILE <= width ? tile : width - TILE;
        convolve_tile(in + y * wide + x, kernels + o * channels_in * 9, bias + o,
                      out + o * plane_out + y * width + x, channels_in, plane_in, wide, plane_out,
                      rectify);
      }
}

// Surround every map by a border of one pixel, as reflected there: side n becomes n + 2.
EXPORT void reflect(const float *in, float *out, int channels, int height, int width) {
  const int wide = width + 2;
  for (int c = 0; c < channels; c++, in += height * width)
    for (int y = -1; y <= height; y++, out += wide) {
      const float *row = in + width * (y < 0 ? 1 : y == height ? height - 2 : y);
      __builtin_memcpy(out + 1, row, width * sizeof(float));
      out[0] = row[1];
      out[width + 1] = row[width - 2];
    }
}

// The gradient of `reflect`: side n + 2 becomes n. It changes `padded`.
EXPORT void fold(float *padded, float *out, int channels, int height, int width) {
  const int wide = width + 2;
  for (int c = 0; c < channels; c++, padded += (height + 2) * wide) {
    for (int x = 0; x < wide; x++) {
      padded[2 * wide + x] += padded[x];
      padded[(height - 1) * wide + x] += padded[(height + 1) * wide + x];
    }
    for (int y = 1; y <= height; y++, out += width) {
      float *row = padded + y * wide;
      row[2] += row[0];
      row[width - 1] += row[width + 1];
      __builtin_memcpy(out, row + 1, width * sizeof(float));
    }
  }
}

// The gradient of a ReLU, with two pixels of zeros around it: side n becomes n + 4.
EXPORT void mask(const float *gradient, const float *rectified, float *out, int channels,
                 int height, int width) {
  const int wide = width + 4;
  for (int c = 0; c < channels; c++, out += (height + 4) * wide) {
    __builtin_memset(out, 0, (height + 4) * wide * sizeof(float));
    for (int y = 0; y < height; y++, gradient += width, rectified += width)
      for (int x = 0; x < width; x++)
        out[(y + 2) * wide + x + 2] = rectified[x] > 0 ? gradient[x] : 0;
  }
}

// 2x2 max-pool; an odd last row or column is left out.
EXPORT void pool(const float *in, float *out, int channels, int height, int width) {
  for (int c = 0; c < channels; c++, in += height * width)
    for (int y = 0; y + 1 < height; y += 2)
      for (int x = 0; x + 1 < width; x += 2) {
        const float *at = in + y * width + x;
        const float above = at[1] > at[0] ? at[1] : at[0];
        const float below = at[width + 1] > at[width] ? at[width + 1] : at[width];
        *out++ = below > above ? below : above;
      }
}

// The gradient of `pool`: all of it goes to the first pixel with the largest value.
EXPORT void unpool(const float *gradient, const float *in, float *out, int channels, int height,
                   int width) {
  __builtin_memset(out, 0, channels * height * width * sizeof(float));
  for (int c = 0; c < channels; c++, in += height * width, out += height * width)
    for (int y = 0; y + 1 < height; y += 2)
      for (int x = 0; x + 1 < width; x += 2) {
        const int corners[4] = {y * width + x, y * width + x + 1, (y + 1) * width + x,
                                (y + 1) * width + x + 1};
        int largest = corners[0];
        for (int k = 1; k < 4; k++)
          if (in[corners[k]] > in[largest]) largest = corners[k];
        out[largest] = *gradient++;
      }
}

// Matrices ---------------------------------------------------------------------------------------

// The Gram matrix times n: (channels, n) -> (channels, channels). Positions are taken in chunks, so
// that the rows stay in the cache.
EXPORT void gram(const float *maps, float *out, int channels, int n) {
  __builtin_memset(out, 0, channels * channels * sizeof(float));
  for (int from = 0; from < n; from += CHUNK) {
    const int to = from + CHUNK < n ? from + CHUNK : n, even = from + (to - from) / 4 * 4;
    for (int i = 0; i < channels; i += 4)
      for (int j = 0; j < i + 4; j += 2) {
        const float *a = maps + i * n, *b = maps + j * n;
        v128_t sums[4][2] = {0};
        for (int p = from; p < even; p += 4) {
          const v128_t left = load(b + p), right = load(b + n + p);
          for (int k = 0; k < 4; k++) {
            const v128_t row = load(a + k * n + p);
            sums[k][0] = add(sums[k][0], multiply(row, left));
            sums[k][1] = add(sums[k][1], multiply(row, right));
          }
        }
        for (int k = 0; k < 4; k++)
          for (int l = 0; l < 2; l++) {
            float sum = sum_of(sums[k][l]);
            for (int p = even; p < to; p++) sum += a[k * n + p] * b[l * n + p];
            out[(i + k) * channels + j + l] += sum;
          }
      }
  }
  for (int i = 0; i < channels; i++)
    for (int j = 0; j < i; j++) out[j * channels + i] = out[i * channels + j];
}

// The product of a matrix and the maps: (rows, inner) x (inner, n) -> (rows, n). n is at least 64.
// The maps are copied piece by piece: their rows may lie a power of two apart, which is slow.
EXPORT void product(const float *matrix, const float *maps, float *out, int rows, int inner,
                    int n) {
  static float packed[MOST_CHANNELS * PACKED];
  for (int piece = 0; piece < n; piece += PACKED) {
    const int from = piece + PACKED <= n ? piece : n - PACKED;
    for (int c = 0; c < inner; c++)
      __builtin_memcpy(packed + c * PACKED, maps + c * n + from, PACKED * sizeof(float));
    for (int i = 0; i < rows; i += BLOCK)
      for (int x = 0; x < PACKED; x += TILE) {
        v128_t sums[BLOCK][2] = {0};
        for (int c = 0; c < inner; c++) {
          const v128_t left = load(packed + c * PACKED + x);
          const v128_t right = load(packed + c * PACKED + x + 4);
          for (int k = 0; k < BLOCK; k++) {
            const v128_t weight = splat(matrix + (i + k) * inner + c);
            sums[k][0] = add(sums[k][0], multiply(left, weight));
            sums[k][1] = add(sums[k][1], multiply(right, weight));
          }
        }
        for (int k = 0; k < BLOCK; k++) {
          store(out + (i + k) * n + from + x, sums[k][0]);
          store(out + (i + k) * n + from + x + 4, sums[k][1]);
        }
      }
  }
}

// Moments ----------------------------------------------------------------------------------------

// Mean and central moments m_2 to m_4 of each map: (channels, n) -> (channels, 4).
EXPORT void central_moments(const float *maps, float *out, int channels, int n) {
  for (int c = 0; c < channels; c++, maps += n, out += 4) {
    double sum = 0, second = 0, third = 0, fourth = 0;
    for (int p = 0; p < n; p++) sum += maps[p];
    const double mean = sum / n;
    for (int p = 0; p < n; p++) {
      const double d = maps[p] - mean, square = d * d;
      second += square;
      third += square * d;
      fourth += square * square;
    }
    out[0] = mean;
    out[1] = second / n;
    out[2] = third / n;
    out[3] = fourth / n;
  }
}

// A polynomial of degree 3 per map, around its mean: a + b d + c d^2 + e d^3 with d = F - mean.
// Coefficients: (channels, 5), the mean first.
EXPORT void polynomial(const float *maps, const float *coefficients, float *out, int channels,
                       int n) {
  for (int c = 0; c < channels; c++, maps += n, out += n, coefficients += 5) {
    const float mean = coefficients[0], a = coefficients[1], b = coefficients[2];
    const float square = coefficients[3], cube = coefficients[4];
    for (int p = 0; p < n; p++) {
      const float d = maps[p] - mean;
      out[p] = a + d * (b + d * (square + d * cube));
    }
  }
}

// MMD --------------------------------------------------------------------------------------------

// exp of four numbers of at most 0: 2^k e^r with |r| <= log(2) / 2, e^r by its series. Below e^-60
// it is 0: a smaller gradient could lead to denormal numbers, with which processors are slow.
static inline v128_t exponential(v128_t given) {
  const v128_t is_tiny = wasm_f32x4_lt(given, wasm_f32x4_const_splat(-60));
  const v128_t x = wasm_f32x4_max(given, wasm_f32x4_const_splat(-60));
  const v128_t k = wasm_f32x4_nearest(multiply(x, wasm_f32x4_const_splat(1.44269504f)));
  v128_t r = subtract(x, multiply(k, wasm_f32x4_const_splat(0.693359375f)));
  r = add(r, multiply(k, wasm_f32x4_const_splat(2.12194440e-4f)));
  v128_t series = wasm_f32x4_const_splat(1 / 5040.0f);
  const float factorials[7] = {720, 120, 24, 6, 2, 1, 1};
  for (int i = 0; i < 7; i++)
    series = add(multiply(series, r), wasm_f32x4_splat(1 / factorials[i]));
  const v128_t whole = wasm_i32x4_trunc_sat_f32x4(k);
  const v128_t exponent = wasm_i32x4_add(whole, wasm_i32x4_const_splat(127));
  return wasm_v128_andnot(multiply(series, wasm_i32x4_shl(exponent, 23)), is_tiny);
}

typedef struct {
  v128_t even, odd;
} Pairs;

static inline Pairs pairs_of(const float *at) {
  const v128_t a = load(at), b = load(at + 4);
  return (Pairs){wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7)};
}

static inline v128_t kernel(v128_t difference, v128_t minus_alpha) {
  return exponential(multiply(minus_alpha, multiply(difference, difference)));
}

// The sum of h over four pairs, and its gradient with respect to the noise's.
static inline float sum_of_four(const float *style, const float *noise, float *gradient,
                                float alpha) {
  const v128_t minus_alpha = wasm_f32x4_splat(-alpha), twice = wasm_f32x4_splat(2 * alpha);
  const Pairs s = pairs_of(style), y = pairs_of(noise);
  const v128_t own = subtract(y.even, y.odd), own_kernel = kernel(own, minus_alpha);
  const v128_t to_odd = subtract(y.even, s.odd), even_kernel = kernel(to_odd, minus_alpha);
  const v128_t to_even = subtract(y.odd, s.even), odd_kernel = kernel(to_even, minus_alpha);
  const v128_t styles = kernel(subtract(s.even, s.odd), minus_alpha);
  const v128_t pull = multiply(own_kernel, own);
  const v128_t even = multiply(twice, subtract(multiply(even_kernel, to_odd), pull));
  const v128_t odd = multiply(twice, add(multiply(odd_kernel, to_even), pull));
  store(gradient, wasm_i32x4_shuffle(even, odd, 0, 4, 1, 5));
  store(gradient + 4, wasm_i32x4_shuffle(even, odd, 2, 6, 3, 7));
  return sum_of(add(subtract(subtract(own_kernel, even_kernel), odd_kernel), styles));
}

// Equation 1.6 for maps of the style and the noise, and its gradient with respect to the noise's.
// Pairs are neighbours in row-major order; an odd last position is left out. What eights leave over
// is computed in a copy, where missing pairs are equal, so that their h is 0.
EXPORT double sum_of_h(const float *style, const float *noise, float *gradient, int channels, int n,
                       float alpha) {
  const int even = n / 8 * 8, rest = (n - even) / 2 * 2 * sizeof(float);
  double total = 0;
  for (int c = 0; c < channels; c++, style += n, noise += n, gradient += n) {
    for (int p = 0; p < even; p += 8)
      total += sum_of_four(style + p, noise + p, gradient + p, alpha);
    float s[8] = {0}, y[8] = {0}, g[8];
    __builtin_memcpy(s, style + even, rest);
    __builtin_memcpy(y, noise + even, rest);
    total += sum_of_four(s, y, g, alpha);
    if (n % 2) gradient[n - 1] = 0;
    __builtin_memcpy(gradient + even, g, rest);
  }
  return total;
}

// Vectors ----------------------------------------------------------------------------------------

// The product of a matrix (rows, n) and a vector. n is a multiple of 4 here and below.
EXPORT void dots(const float *matrix, const float *vector, float *out, int rows, int n) {
  for (int row = 0; row < rows; row++, matrix += n) {
    v128_t sums[4] = {0};
    int p = 0;
    for (; p + 16 <= n; p += 16)
      for (int k = 0; k < 4; k++)
        sums[k] = add(sums[k], multiply(load(matrix + p + 4 * k), load(vector + p + 4 * k)));
    for (; p < n; p += 4) sums[0] = add(sums[0], multiply(load(matrix + p), load(vector + p)));
    out[row] = sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  }
}

// Add the rows of a matrix (rows, n), each times its weight, to a vector.
EXPORT void add_rows(const float *matrix, const float *weights, float *vector, int rows, int n) {
  for (int from = 0; from < n; from += 1024) {
    const int to = from + 1024 < n ? from + 1024 : n;
    for (int row = 0; row < rows; row++)
      for (int p = from; p < to; p += 4)
        store(vector + p, add(load(vector + p), multiply(splat(weights + row),
                                                         load(matrix + row * n + p))));
  }
}

// a - b.
EXPORT void difference(const float *a, const float *b, float *out, int n) {
  for (int p = 0; p < n; p++) out[p] = a[p] - b[p];
}

// Set to 0 what cannot move down the gradient: pixels without one, and those that it pushes out of
// [0, 1].
EXPORT void hold(const float *x, const float *gradient, float *vector, int n) {
  for (int p = 0; p < n; p++)
    if (gradient[p] > 0 ? x[p] <= 0 : gradient[p] < 0 ? x[p] >= 1 : gradient[p] == 0) vector[p] = 0;
}

// clamp(x + step d) to [0, 1].
EXPORT void arc(const float *x, const float *direction, float step, float *out, int n) {
  const v128_t factor = wasm_f32x4_splat(step);
  for (int p = 0; p < n; p += 4) {
    const v128_t moved = add(load(x + p), multiply(factor, load(direction + p)));
    store(out + p, wasm_f32x4_min(wasm_f32x4_max(moved, wasm_f32x4_const_splat(0)),
                                  wasm_f32x4_const_splat(1)));
  }
}

// One step of Adam (Kingma and Ba 2015), and the clamp to [0, 1]. `rate` is the learning rate over
// 1 - beta1^t, `scale` the root of 1 - beta2^t.
EXPORT void adam(float *x, const float *gradient, float *first, float *second, float rate,
                 float scale, float beta1, float beta2, int n) {
  for (int p = 0; p < n; p++) {
    first[p] += (gradient[p] - first[p]) * (1 - beta1);
    second[p] = second[p] * beta2 + gradient[p] * gradient[p] * (1 - beta2);
    const float moved = x[p] - rate * first[p] / (__builtin_sqrtf(second[p]) / scale + 1e-8f);
    x[p] = moved < 0 ? 0 : moved > 1 ? 1 : moved;
  }
}
