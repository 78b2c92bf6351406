(() => {
'use strict';

// A box that scrolls can be reached with the keyboard, also one in a fold that has just been opened.
// The theme does this for code, but only when the window changes.
function makeReachable() {
  for (const box of document.querySelectorAll('pre, .scroll, .pst-scrollable-table-container')) {
    const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute('tabindex');
  }
}

// What a reader has chosen in one figure, all figures show that have it: on this page, and on the
// next ones where the browser lets pages remember something.
const TABS = 'styleinv-tabs', MOST_TITLES = 20;

function remembered() {
  try {
    const titles = JSON.parse(localStorage.getItem(TABS));
    return Array.isArray(titles) ? titles : [];
  } catch {
    return [];
  }
}

function remember(titles) {
  try {
    localStorage.setItem(TABS, JSON.stringify(titles));
  } catch {
    // It is remembered until the reader leaves the page.
  }
}

// By their title.
function tabsOf(figure) {
  const inputs = [...figure.querySelectorAll('.tabs > input')];
  return new Map(inputs.map((input) => [input.labels[0].textContent, input]));
}

function setUpTabs() {
  const figures = [...document.querySelectorAll('figure.runs')].map(tabsOf);
  let chosen = remembered();  // the latest first

  function show(tabs) {
    const title = chosen.find((one) => tabs.has(one));
    if (title !== undefined) tabs.get(title).checked = true;
  }
  figures.forEach(show);
  for (const tabs of figures) {
    for (const [title, input] of tabs) {
      input.addEventListener('change', () => {
        const before = input.labels[0].getBoundingClientRect().top;
        chosen = [title, ...chosen.filter((one) => one !== title)].slice(0, MOST_TITLES);
        remember(chosen);
        figures.forEach(show);
        // Other figures above may be higher now; this one stays where the reader has it.
        scrollBy({ top: input.labels[0].getBoundingClientRect().top - before, behavior: 'instant' });
      });
    }
  }
}

// The theme gives no name to the arrow beside a page that has pages of its own.
function nameArrows() {
  for (const arrow of document.querySelectorAll('summary:has(> .toctree-toggle)')) {
    arrow.ariaLabel = `Pages of ${arrow.closest('li').querySelector('a').textContent.trim()}`;
  }
}

setUpTabs();
nameArrows();
// The theme follows the reader in a page's contents. On a page without them, it would follow every link, and fail.
if (!document.querySelector('.bd-toc-nav')) document.body.removeAttribute('data-bs-spy');
for (const event of ['load', 'resize']) addEventListener(event, makeReachable);
document.addEventListener('toggle', makeReachable, true);
document.addEventListener('change', makeReachable);
})();
