// What a mouse, fingers, the keyboard and the fields above it do to the map.
const pointers = new Map();
let moved = 0;
const within = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
const spread = () => {
  const [a, b] = [...pointers.values()];
  return { x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2, apart: Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 1) };
};

canvas.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, within(event));
  canvas.setPointerCapture(event.pointerId);
  moved = 0;
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = within(event);
  if (!pointers.has(event.pointerId)) return select(at(x, y));
  const before = pointers.size === 2 && spread();
  const [oldX, oldY] = pointers.get(event.pointerId);
  pointers.set(event.pointerId, [x, y]);
  moved += Math.hypot(x - oldX, y - oldY);
  if (pointers.size === 1) return pan(x - oldX, y - oldY);
  if (!before) return undefined;
  const after = spread();
  pan(after.x - before.x, after.y - before.y);
  return zoom(after.apart / before.apart, after.x, after.y);
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    pointers.delete(event.pointerId);
    if (end === "pointerup" && moved < 6) select(at(...within(event)));
  });
}
canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") select(NONE); });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...within(event));
}, { passive: false });

/** Selects the nearest image in a direction from the selected one, or the one nearest to the middle. */
function step(x, y) {
  const [fromX, fromY] = selected === NONE ? [width / 2, height / 2] : [screenX(selected), screenY(selected)];
  let best = selected;
  let least = Infinity;
  for (const image of matches ? shown.filter((i) => matches.has(i)) : shown) {
    const [dx, dy] = [screenX(image) - fromX, screenY(image) - fromY];
    const along = dx * x + dy * y;
    const across = Math.abs(dx * y - dy * x);
    const cost = selected === NONE ? Math.hypot(dx, dy) : along + 2 * across;
    if (image !== selected && cost < least && (selected === NONE || along > Math.max(across, 1))) {
      [best, least] = [image, cost];
    }
  }
  select(best);
  const margin = (value, size) => Math.max(0, value - size + 60) - Math.max(0, 60 - value);
  if (best !== NONE) pan(-margin(screenX(best), width), -margin(screenY(best), height));
}

function showAll() {
  Object.assign(view, { zoom: 1, x: extent.x / 2, y: extent.y / 2 });
  redraw();
}

const keys = {
  ArrowLeft: () => step(-1, 0),
  ArrowRight: () => step(1, 0),
  ArrowUp: () => step(0, -1),
  ArrowDown: () => step(0, 1),
  "+": () => zoom(1.5),
  "-": () => zoom(1 / 1.5),
  0: showAll,
  Escape: () => select(NONE),
};
canvas.addEventListener("keydown", (event) => {
  if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
});
canvas.addEventListener("focus", () => {
  if (selected === NONE && canvas.matches(":focus-visible")) step(0, 0);
});

byId("map-in").addEventListener("click", () => zoom(1.5));
byId("map-out").addEventListener("click", () => zoom(1 / 1.5));
byId("map-all").addEventListener("click", () => { search.value = ""; showClasses(null); showAll(); });
search.addEventListener("input", find);
search.addEventListener("keydown", (event) => { if (event.key === "Enter" && matches) fit([...matches]); });
byId("map-classes").append(...[...new Set(classes.name)].map((name) => element("option", { value: name })));
chooser.addEventListener("change", () => {
  const asked = chooser.value.trim().toLowerCase();
  const found = classes.name.flatMap((name, label) => (name.toLowerCase() === asked ? [label] : []));
  const near = classes.name.flatMap((name, label) => (name.toLowerCase().includes(asked) ? [label] : []));
  if (!asked) showClasses(null);
  else if (found.length || near.length) showClasses(found.length ? found : near);
  else byId("map-state").textContent = "no class has this name";
});
if (classes.name.length <= 12) {
  const chip = (name, label) => {
    const mark = element("span", { class: "swatch" });
    mark.style.background = classColour(label);
    const made = button("", () => showClasses(only && only.has(label) && only.size === 1 ? null : [label]), {
      class: "chip", "aria-pressed": "false", "data-label": label,
    });
    made.append(mark, name);
    return made;
  };
  byId("map-legend").append(...classes.name.map(chip));
}

new ResizeObserver(() => {
  const ratio = window.devicePixelRatio || 1;
  ({ clientWidth: width, clientHeight: height } = canvas);
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  redraw();
}).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
sheetsAreReady.then(redraw);
