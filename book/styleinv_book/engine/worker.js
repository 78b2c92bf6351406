"use strict";

// The loop around the engine in a Web Worker. It looks for messages between two evaluations.
//
// In: { do: "load", wasm, weights }; { do: "start", id, ...what `Engine.invert` takes };
// "pause" (which tells where the run is), "resume", "step" (one evaluation while paused), "stop";
// { do: "measure", size, layer, loss }, while there is no run.
// Out: { do: "ready" }; { do: "measured", seconds } of the fastest of some evaluations; { do: "iterate", id, evaluations, iterations, loss, phase, done, seconds,
// pixels }, at most every tenth of a second; { do: "failed", id, message }.

const EVERY = 100; // milliseconds
// What is measured. The first evaluations are slower, because the browser compiles meanwhile.
const LEAST_EVALUATIONS = 3;
const LEAST_SECONDS = 0.3;
let engine = null;
let run = null; // { id, inversion, paused, told, untold }

let isQueued = false;

const queue = new MessageChannel();
queue.port1.onmessage = () => {
  isQueued = false;
  guarded(goOn);
};

// Call `goOn` after the messages that are here by now.
function later() {
  if (!isQueued) queue.port2.postMessage(null);
  isQueued = true;
}

function guarded(act) {
  try {
    act();
  } catch (error) {
    const id = run?.id;
    run = null;
    postMessage({ do: "failed", id, message: error.message });
  }
}

// One evaluation, and the next one later.
function goOn() {
  if (run === null || run.paused) return;
  evaluate();
  if (run !== null) later();
}

function evaluate() {
  const found = run.inversion.step();
  const isDue = found.done !== null || run.paused || performance.now() - run.told >= EVERY;
  if (isDue) tell(found);
  else run.untold = found;
  if (found.done !== null) run = null;
}

function tell(found) {
  const pixels = run.inversion.pixels();
  run.told = performance.now();
  run.untold = null;
  postMessage({ do: "iterate", id: run.id, ...found, pixels }, [pixels.buffer]);
}

const WISHES = {
  async load({ wasm, weights }) {
    try {
      engine = await createEngine({ wasm, weights });
    } catch (error) {
      postMessage({ do: "failed", message: error.message });
      return;
    }
    postMessage({ do: "ready" });
  },
  start({ id, ...asked }) {
    run = { id, told: -Infinity, paused: false };
    if (engine === null) throw new Error("The engine is not ready yet.");
    run.inversion = engine.invert(asked);
    later();
  },
  pause() {
    if (run === null) return;
    run.paused = true;
    if (run.untold) tell(run.untold);
  },
  resume() {
    if (run === null || !run.paused) return;
    run.paused = false;
    later();
  },
  step() {
    if (run?.paused) evaluate();
  },
  stop() {
    run = null;
  },
  measure({ size, layer, loss }) {
    const style = uniformNoise(1, 3 * size * size);
    const asked = { style, height: size, width: size, layer, loss, protocol: "from-noise" };
    const inversion = engine.invert({ ...asked, theta: null });
    const times = [];
    let before = 0;
    while (times.length < LEAST_EVALUATIONS || before < LEAST_SECONDS) {
      const { seconds } = inversion.step();
      times.push(seconds - before);
      before = seconds;
    }
    postMessage({ do: "measured", seconds: Math.min(...times) });
  },
};

onmessage = ({ data }) => guarded(() => WISHES[data.do](data));
