// A worker that prepares the reader's own image as `styleinv.images.load_style` does: turned as its
// EXIF data says, white where it is transparent, its shorter side resized to `size` (bilinear,
// antialiased, pixel for pixel as Pillow does it), the central square cut out. One message in,
// {file, size}; one out, {pixels} (RGBA), or {message} if it cannot be used.
const LEAST_SIDE = 16;
const MOST_PIXELS = 5e7; // decoded, they take four bytes each
const BITS = 22; // of Pillow's weights after the point

// For each of the outputs `from`..`from + count`: the first input that counts, and the inputs' weights.
function weightsOf(input, output, from, count) {
  const scale = input / output, reach = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = (from + i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), input);
    const raw = Array.from({ length: last - first }, (_, x) =>
      Math.max(1 - Math.abs((first + x - centre + 0.5) / reach), 0));
    const sum = raw.reduce((a, b) => a + b);
    return { first, weights: raw.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** BITS)) };
  });
}

// Weighted sums along one axis: `step` values from one input to the next, `offset` before the first.
function weigh(source, { first, weights }, offset, step) {
  let sum = 2 ** (BITS - 1);
  for (let i = 0; i < weights.length; i += 1) sum += source[offset + (first + i) * step] * weights[i];
  return sum >> BITS;
}

// Half of an even or odd number; a half is rounded to an even number, as Python does.
function half(number) {
  return number % 2 ? 2 * Math.round(number / 4) : number / 2;
}

function resizedSquare({ data, width, height }, size) {
  const shorter = Math.min(width, height);
  const [wide, high] = [width, height].map((side) => Math.floor((size * side) / shorter));
  const columns = weightsOf(width, wide, half(wide - size), size);
  const rows = weightsOf(height, high, half(high - size), size);
  const top = rows[0].first, bottom = rows.at(-1).first + rows.at(-1).weights.length;
  const narrow = new Uint8Array(4 * size * height);
  for (let y = top; y < bottom; y += 1) {
    columns.forEach((column, x) => {
      for (let c = 0; c < 3; c += 1) narrow[4 * (y * size + x) + c] = weigh(data, column, 4 * y * width + c, 4);
    });
  }
  const pixels = new Uint8ClampedArray(4 * size * size).fill(255);
  rows.forEach((row, y) => {
    for (let x = 0; x < size; x += 1) {
      for (let c = 0; c < 3; c += 1) pixels[4 * (y * size + x) + c] = weigh(narrow, row, 4 * x + c, 4 * size);
    }
  });
  return pixels;
}

async function decode(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`image '${file.name}' is none that this browser can read, such as PNG, JPEG or WebP`);
  }
}

async function prepare(file, size) {
  const bitmap = await decode(file);
  const { width, height } = bitmap;
  const measures = `image '${file.name}' has ${width.toLocaleString('en')} x ${height.toLocaleString('en')} pixels`;
  if (Math.min(width, height) < LEAST_SIDE) throw new Error(`${measures}, but each side must have ${LEAST_SIDE} or more`);
  if (width * height > MOST_PIXELS) throw new Error(`${measures}, but at most ${MOST_PIXELS / 1e6} million are allowed`);
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return resizedSquare(context.getImageData(0, 0, width, height), size);
}

onmessage = async ({ data: { file, size } }) => {
  try {
    const pixels = await prepare(file, size);
    postMessage({ pixels }, [pixels.buffer]);
  } catch (error) {
    postMessage({ message: error.message });
  }
};
