// An equation that is wider than its place is set smaller, so that nobody has to scroll it.
(() => {
'use strict';

const sizes = new WeakMap();  // in per cent, as MathJax has set them

async function fit() {
  await window.MathJax?.startup?.promise;
  for (const equation of document.querySelectorAll('div.math mjx-container')) {
    if (!sizes.has(equation)) sizes.set(equation, parseFloat(equation.style.fontSize) || 100);
    const size = sizes.get(equation);
    equation.style.fontSize = `${size}%`;
    const room = equation.clientWidth / equation.scrollWidth;
    if (room < 1) equation.style.fontSize = `${0.98 * room * size}%`;
  }
}

for (const event of ['load', 'resize']) addEventListener(event, fit);
document.addEventListener('toggle', fit, true);
})();
