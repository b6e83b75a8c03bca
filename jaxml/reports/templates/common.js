// What the scripts of a page share: the data, elements with text, and pages of a long list.
const data = JSON.parse(document.getElementById("data").textContent);
const whole = new Intl.NumberFormat("en");
const byId = (id) => document.getElementById(id);

/** An element with attributes and children; texts become text, whatever they hold. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A button that calls `act`. */
function button(text, act, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
}

/** "1 image", "2 images". */
function count(number, one, many = `${one}s`) {
  return `${whole.format(number)} ${number === 1 ? one : many}`;
}

/**
 * Shows a list in pages of `size` below `host`; `show` gets the entries of a page. Returns a function that takes another
 * list and begins at its first page.
 */
function pages(host, size, show) {
  let list = [];
  let first = 0;
  const place = element("span", { "aria-live": "polite" });
  const turn = (by) => () => { first += by * size; draw(); };
  const back = button("Previous", turn(-1));
  const on = button("Next", turn(1));
  const bar = element("div", { class: "pager" }, back, place, on);
  host.append(bar);
  function draw() {
    const last = Math.min(first + size, list.length);
    place.textContent = list.length ? `${whole.format(first + 1)}–${whole.format(last)} of ${whole.format(list.length)}`
      : "none";
    back.disabled = first === 0;
    on.disabled = last === list.length;
    bar.hidden = list.length > 0 && list.length <= size;
    show(list.slice(first, last));
  }
  return (other) => { list = other; first = 0; draw(); };
}
