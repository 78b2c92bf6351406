// What the viewer and the live page share: how elements and axes are made.
const SUPERSCRIPTS = '⁰¹²³⁴⁵⁶⁷⁸⁹';

function make(namespace, tag, attributes, children) {
  const element = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}
function h(tag, attributes = {}, ...children) {
  return make('http://www.w3.org/1999/xhtml', tag, attributes, children);
}
function s(tag, attributes = {}, ...children) {
  return make('http://www.w3.org/2000/svg', tag, attributes, children);
}

function power(exponent) {
  const digits = [...String(Math.abs(exponent))].map((digit) => SUPERSCRIPTS[digit]);
  return `10${exponent < 0 ? '⁻' : ''}${digits.join('')}`;
}

function short(value) {
  return value !== 0 && Math.abs(value) < 0.001
    ? value.toExponential() : value.toLocaleString('en', { notation: 'compact' });
}

// Ticks are [value, text]; `at` maps a value to 0..1.
function logAxis(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.max(Math.ceil(Math.log10(high)), first + 1);
  const step = Math.ceil((last - first) / 6);
  const ticks = [];
  for (let n = last; n >= first; n -= step) ticks.push([10 ** n, power(n)]);
  return { ticks, at: (value) => (Math.log10(value) - first) / (last - first) };
}
function linearAxis(low, high) {
  const span = high - low || 1;
  const decade = 10 ** Math.floor(Math.log10(span));
  const step = decade * [0.2, 0.5, 1, 2].find((factor) => span / (decade * factor) <= 6);
  const bottom = Math.floor(low / step) * step, top = Math.ceil(high / step) * step || step;
  const ticks = [];
  for (let tick = bottom; tick < top + step / 2; tick += step) {
    ticks.push([tick, short(Number(tick.toPrecision(3)))]);
  }
  return { ticks, at: (value) => (value - bottom) / (top - bottom) };
}
function evaluationsAxis(last) {
  const decades = Math.log10(Math.max(last, 2));
  const ticks = [[last, last.toLocaleString('en')]];
  for (let n = 0; n < decades - 0.3; n += 1) ticks.push([10 ** n, (10 ** n).toLocaleString('en')]);
  return { ticks, at: (value) => Math.log10(value) / decades };
}
