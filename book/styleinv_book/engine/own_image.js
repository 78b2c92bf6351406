// A worker that prepares the reader's own image as `styleinv.images.load_style` does: turned as its
// EXIF data says, white where it is transparent, its shorter side resized to `size` (bilinear,
// antialiased, pixel for pixel as Pillow does it), the central square cut out. One message in,
// {file, size}; one out, {pixels, shorter, notes}, or {message} if it cannot be used: the pixels are
// RGBA, `shorter` is the image's shorter side, and the notes say what was done to it.
const LEAST_SIDE = 16;
const MOST_PIXELS = 5e7; // decoded, they take four bytes each
const GLANCE = 64; // pixels of a side, to see whether colours are other ones
const ROUNDING = 2; // levels by which a conversion to the same colours may be off
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

async function decode(file, options) {
  try {
    return await createImageBitmap(file, options);
  } catch {
    throw new Error(`image '${file.name}' is none that this browser can read, such as PNG, JPEG or WebP`);
  }
}

// --- What was done, in the words of `styleinv.images` and `styleinv.colour` --------------------

async function notesOf(file, { width, height }, isTransparent) {
  const cut = Math.abs(width - height) / Math.max(width, height);
  const percent = Math.min(Math.max(Math.round(100 * cut), 1), 99); // neither none of it nor all
  const notes = {
    [`${percent}% of it, ${width > height ? 'left and right' : 'top and bottom'}, is cut off`]: cut > 0,
    'its colours are converted to sRGB': await isConverted(file),
    'its transparent parts are composited on white': isTransparent,
    'only the first of its frames or pages is used': hasFrames(new Uint8Array(await file.arrayBuffer())),
  };
  return Object.keys(notes).filter((note) => notes[note]);
}

// Whether its colours are other ones where they are left as they are in the file.
async function isConverted(file) {
  const small = { resizeWidth: GLANCE, resizeHeight: GLANCE };
  const [shown, left] = await Promise.all(['default', 'none'].map(async (colorSpaceConversion) =>
    contextOf(await decode(file, { ...small, colorSpaceConversion })).getImageData(0, 0, GLANCE, GLANCE).data));
  return shown.some((level, i) => Math.abs(level - left[i]) > ROUNDING);
}

// Whether the file is an animation: a GIF, PNG, WebP or AVIF of several frames.
function hasFrames(bytes) {
  const says = (text, at) => [...text].every((letter, i) => bytes[at + i] === letter.charCodeAt(0));
  if (says('GIF8', 0)) return framesOfGif(bytes) > 1;
  if (says('RIFF', 0) && says('WEBPVP8X', 8)) return Boolean(bytes[20] & 2);
  if (says('PNG', 1)) return framesOfPng(bytes, says) > 1;
  return says('ftypavis', 4);
}

function framesOfGif(bytes) {
  const coloursAfter = (flags) => (flags & 128 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  const [EXTENSION, FRAME] = [0x21, 0x2c];
  let at = 13 + coloursAfter(bytes[10]), frames = 0;
  while (bytes[at] === EXTENSION || bytes[at] === FRAME) {
    if (bytes[at] === FRAME) {
      frames += 1;
      at += 11 + coloursAfter(bytes[at + 9]);
    } else at += 2;
    while (bytes[at]) at += bytes[at] + 1; // blocks, each after its length
    at += 1;
  }
  return frames;
}

function framesOfPng(bytes, says) {
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length && !says('IDAT', at + 4); at += 12 + view.getUint32(at)) {
    if (says('acTL', at + 4)) return view.getUint32(at + 8);
  }
  return 1;
}

// --- One picture -------------------------------------------------------------------------------

function contextOf(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context;
}

async function prepare(file, size) {
  const bitmap = await decode(file);
  const { width, height } = bitmap;
  const measures = `image '${file.name}' has ${width.toLocaleString('en')} x ${height.toLocaleString('en')} pixels`;
  if (Math.min(width, height) < LEAST_SIDE) throw new Error(`${measures}, but each side must have ${LEAST_SIDE} or more`);
  if (width * height > MOST_PIXELS) throw new Error(`${measures}, but at most ${MOST_PIXELS / 1e6} million are allowed`);
  const context = contextOf(bitmap);
  const alphas = opacities(context.getImageData(0, 0, width, height).data);
  if (!alphas.most) throw new Error(`image '${file.name}' is transparent everywhere, so that there is nothing to see`);
  context.globalCompositeOperation = 'destination-over';
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  return {
    pixels: resizedSquare(context.getImageData(0, 0, width, height), size),
    shorter: Math.min(width, height),
    notes: await notesOf(file, { width, height }, alphas.least < 255),
  };
}

function opacities(data) {
  let least = 255, most = 0;
  for (let i = 3; i < data.length; i += 4) {
    least = Math.min(least, data[i]);
    most = Math.max(most, data[i]);
  }
  return { least, most };
}

onmessage = async ({ data: { file, size } }) => {
  try {
    const prepared = await prepare(file, size);
    postMessage(prepared, [prepared.pixels.buffer]);
  } catch (error) {
    postMessage({ message: error.message });
  }
};
