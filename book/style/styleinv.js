// A box that scrolls can be reached with the keyboard, also one in a fold that has just been opened.
// The theme does this for code, but only when the window changes.
function makeReachable() {
  for (const box of document.querySelectorAll("pre, .scroll, .pst-scrollable-table-container")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

for (const event of ["load", "resize"]) window.addEventListener(event, makeReachable);
document.addEventListener("toggle", makeReachable, true);
