// What the live page keeps and gives away: frames to go back to, a choice as an address, runs as a
// recipe. No DOM, except to encode.
const SHOWS = { one: 'One run', compare: 'Compare two', layers: 'Four layers', moments: 'N = 1 to 4' };
const NAMED = /^(bundled|skimage):/; // styles that everybody has
const FRAMES = 60; // of a run, at most
const FRAME_BYTES = 2 ** 26; // of all runs together

// --- Frames: {evaluations, loss, picture} -----------------------------------------------------

// How many frames each of several runs may keep, if a picture has so many bytes.
function mostFrames(bytes, runs) {
  return Math.max(2, Math.min(FRAMES, Math.floor(FRAME_BYTES / bytes / runs)));
}

// Leave out frames where they are closest in the logarithm of the evaluations; both ends stay.
function thin(frames, most) {
  while (frames.length > most) {
    let closest = 1, least = Infinity;
    for (let i = 1; i < frames.length - 1; i += 1) {
      const gap = Math.log(frames[i + 1].evaluations / frames[i - 1].evaluations);
      if (gap < least) [closest, least] = [i, gap];
    }
    frames.splice(closest, 1);
  }
}

// The last frame at or before so many evaluations, or else the first one.
function frameAt(frames, evaluations) {
  return frames.findLast((frame) => frame.evaluations <= evaluations) ?? frames[0];
}

// --- The address: #name=value&... -------------------------------------------------------------

// Whether MMD is among the runs of a choice.
function hasMmd({ show, loss, other_loss: other }) {
  return show !== 'moments' && loss === 'mmd' || show === 'compare' && other === 'mmd';
}

// The part of a choice that means the same to somebody else: no images or weights of one's own.
function addressOf(choice) {
  const names = Object.entries({
    style: NAMED.test(choice.style),
    show: true,
    layer: true,
    loss: true,
    other_layer: choice.show === 'compare',
    other_loss: choice.show === 'compare',
    pairing: hasMmd(choice),
    alpha: hasMmd(choice),
    protocol: true,
    size: true,
    seed: true,
    encoder: choice.encoder !== 'file',
  }).filter(([, matters]) => matters).map(([name]) => name);
  const text = (name) => encodeURIComponent(choice[name]).replaceAll('%3A', ':');
  return `#${names.map((name) => `${name}=${text(name)}`).join('&')}`;
}

// What an address says that can be used here, and the parts of it that cannot.
function readAddress(hash, options, styles) {
  const ofList = (values) => (text) => values.includes(text) ? text : null;
  const ofOption = (name) => ofList(options[name].map(([value]) => value));
  const ofRange = ({ min, max, step }) => (text) => {
    const value = Number(text);
    return /^\d+$/.test(text) && value >= min && value <= max && (value - min) % step === 0 ? value : null;
  };
  const readers = {
    style: ofList(styles.map(({ value }) => value).filter((value) => NAMED.test(value))),
    show: ofList(Object.keys(SHOWS)),
    layer: ofOption('layer'),
    loss: ofOption('loss'),
    other_layer: ofOption('layer'),
    other_loss: ofOption('loss'),
    pairing: ofOption('pairing'),
    alpha: (text) => Number(text) > 0 && Number(text) < Infinity ? Number(text) : null,
    protocol: ofOption('protocol'),
    size: ofRange(options.size),
    seed: ofRange({ min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 }),
    encoder: (text) => text === 'file' ? null : ofOption('encoder')(text),
    start: ofList(['1']),
  };
  const found = {}, bad = [];
  for (const [name, text] of new URLSearchParams(hash.slice(1))) {
    const value = Object.hasOwn(readers, name) ? readers[name](text) : null;
    if (value === null) bad.push(`${name}=${text}`.slice(0, 60));
    else found[name] = value;
  }
  return { found, bad };
}

// --- The recipe: what `styleinv invert --recipe` needs to make the runs again -----------------

// Of the runs that have ended; `picture` is the prepared style, for one that has no name.
async function recipeOf({ asked, runs }, engine, picture) {
  const style = asked.style ?? { png: await base64(picture) };
  const ended = runs.filter(({ phase }) => phase === 'ended').map(({ layer, loss, alpha, stop, points }) => {
    const [evaluations, reached] = points.at(-1);
    return { layer, loss, alpha, reached: { loss: reached, evaluations, stop } };
  });
  const { name, version } = engine;
  return { format: 1, made_with: { engine: name, version }, ...asked, style, runs: ended };
}

async function base64(bytes) {
  const reader = new FileReader();
  await new Promise((resolve, reject) => {
    reader.onload = resolve;
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(new Blob([bytes]));
  });
  return reader.result.split(',')[1];
}
