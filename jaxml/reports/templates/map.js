// The map of all embeddings: it zooms, pans, searches, and shows some classes alone.
const canvas = byId("map");
const context = canvas.getContext("2d");
const tip = byId("map-tip");
const search = byId("map-search");
const chooser = byId("map-class");
const LARGEST_ZOOM = 200;
const EVERY = images.label.map((_, image) => image);
const largest = (values) => values.reduce((a, b) => Math.max(a, b), 1);
const extent = { x: largest(images.x), y: largest(images.y) };  // the coordinates begin at 0
const view = { zoom: 1, x: extent.x / 2, y: extent.y / 2 };  // the point of the map in the middle of the canvas
let width = 0;
let height = 0;
let only = null;  // the set of classes that are shown, or null for all
let shown = EVERY;
let matches = null;  // the set of images that the search found, or null without one
let selected = NONE;
let pictured = { key: "", places: [] };

const MARGIN = 64;  // pixels, for pictures whose middles are at the ends of the map
const scale = () => view.zoom * Math.max(Math.min((width - MARGIN) / extent.x, (height - MARGIN) / extent.y), 1e-6);
const screenX = (image) => (images.x[image] - view.x) * scale() + width / 2;
const screenY = (image) => (images.y[image] - view.y) * scale() + height / 2;
const pictureSide = () => Math.min(Math.max(26, 22 * Math.sqrt(view.zoom)), Math.max(48, sprites.side));

/** The images whose pictures are drawn: in their order, each that overlaps none before it. */
function choosePictures() {
  const key = `${scale()} ${only && [...only]} ${search.value}`;
  if (pictured.key === key) return pictured.places;
  const side = pictureSide() + 3;
  const cells = new Map();
  const places = [];
  for (const image of shown) {
    if (!isPictured(image) || (matches && !matches.has(image))) continue;
    const x = images.x[image] * scale();
    const y = images.y[image] * scale();
    const column = Math.floor(x / side);
    const row = Math.floor(y / side);
    let free = true;
    for (let i = column - 1; free && i <= column + 1; i += 1) {
      for (let j = row - 1; free && j <= row + 1; j += 1) {
        const other = cells.get(i * 1e6 + j);
        free = !other || Math.abs(other[0] - x) >= side || Math.abs(other[1] - y) >= side;
      }
    }
    if (free) {
      cells.set(column * 1e6 + row, [x, y]);
      places.push(image);
    }
  }
  pictured = { key, places };
  return places;
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const style = getComputedStyle(document.documentElement);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const visible = (image, margin) => {
    const [x, y] = [screenX(image), screenY(image)];
    return x > -margin && y > -margin && x < width + margin && y < height + margin;
  };
  for (const image of shown) {
    if (!visible(image, 4)) continue;
    context.globalAlpha = matches && !matches.has(image) ? 0.2 : 0.9;
    context.fillStyle = classColour(images.label[image]);
    context.fillRect(screenX(image) - 2.5, screenY(image) - 2.5, 5, 5);
  }
  context.globalAlpha = 1;
  const side = pictureSide();
  const frame = (image, colour, thickness, size) => {
    context.lineWidth = thickness;
    context.strokeStyle = colour;
    context.strokeRect(screenX(image) - size / 2, screenY(image) - size / 2, size, size);
  };
  for (const image of choosePictures()) {
    if (!visible(image, side)) continue;
    drawPicture(context, image, screenX(image) - side / 2, screenY(image) - side / 2, side);
    frame(image, classColour(images.label[image]), 2, side);
  }
  if (selected !== NONE) {
    const large = Math.max(side, 40);
    if (isPictured(selected)) {
      drawPicture(context, selected, screenX(selected) - large / 2, screenY(selected) - large / 2, large);
    }
    frame(selected, style.getPropertyValue("--page"), 7, large + 4);
    frame(selected, style.getPropertyValue("--ink"), 3, large + 4);
  }
  showTip();
  byId("map-state").textContent = [
    count(shown.length, "image"),
    only && `of ${count(only.size, "class", "classes")}`,
    matches && `${whole.format(matches.size)} found`,
    `zoom ${view.zoom.toFixed(1)}×`,
  ].filter(Boolean).join(", ");
}

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

/** Shows what is known of the selected image beside it. */
function showTip() {
  tip.hidden = selected === NONE;
  if (tip.hidden) return;
  if (tip.dataset.image !== String(selected)) {
    tip.dataset.image = selected;
    const majority = majorityOf(selected);
    const near = images.nearest_class[selected];
    const label = images.label[selected];
    const facts = [`Cluster ${images.cluster[selected] + 1}, mostly ${className(majority)}`];
    if (near !== NONE) facts.push(`Nearest image: ${near === label ? "same class" : className(near)}`);
    tip.replaceChildren(
      element("div", { class: "tip-picture" }, picture(selected)),
      element("div", {}, element("b", {}, className(label)), element("span", { class: "file" }, images.file[selected]),
        ...facts.map((fact) => element("span", {}, fact))),
    );
  }
  const [x, y] = [screenX(selected), screenY(selected)];
  const left = Math.min(Math.max(x - tip.offsetWidth / 2, 4), width - tip.offsetWidth - 4);
  const above = y - tip.offsetHeight - 34;
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${above > 4 ? above : Math.min(y + 34, height - tip.offsetHeight - 4)}px`;
}

function select(image) {
  if (image === selected) return;
  selected = image;
  redraw();
}

/** The image at a place of the canvas: a picture there, or the nearest point within a finger's breadth. */
function at(x, y) {
  const half = pictureSide() / 2;
  const hit = choosePictures().find((image) => Math.abs(screenX(image) - x) <= half
    && Math.abs(screenY(image) - y) <= half);
  if (hit !== undefined) return hit;
  let best = NONE;
  let least = 12;
  for (const image of shown) {
    const distance = Math.hypot(screenX(image) - x, screenY(image) - y);
    if (distance < least) [best, least] = [image, distance];
  }
  return best;
}

/** Zooms by a factor; what lies at (x, y) on the canvas stays there. */
function zoom(factor, x = width / 2, y = height / 2) {
  const before = scale();
  view.zoom = Math.min(Math.max(view.zoom * factor, 1), LARGEST_ZOOM);
  const change = 1 / before - 1 / scale();
  pan(-(x - width / 2) * change * scale(), -(y - height / 2) * change * scale());
}

/** Moves the map by so many pixels, but its middle never leaves the canvas. */
function pan(x, y) {
  view.x = Math.min(Math.max(view.x - x / scale(), 0), extent.x);
  view.y = Math.min(Math.max(view.y - y / scale(), 0), extent.y);
  redraw();
}

/** Brings images into view. */
function fit(list) {
  if (!list.length) return;
  const ends = (values) => list.reduce(([low, high], i) => [Math.min(low, values[i]), Math.max(high, values[i])],
    [Infinity, -Infinity]);
  const [[left, right], [top, bottom]] = [ends(images.x), ends(images.y)];
  const room = Math.min(extent.x / Math.max(right - left, 1), extent.y / Math.max(bottom - top, 1));
  Object.assign(view, { zoom: Math.min(Math.max(0.9 * room, 1), 12), x: (left + right) / 2, y: (top + bottom) / 2 });
  redraw();
}

/** Shows some classes alone, or all of them for null. */
function showClasses(labels) {
  only = labels && new Set(labels);
  shown = only ? EVERY.filter((image) => only.has(images.label[image])) : EVERY;
  if (selected !== NONE && only && !only.has(images.label[selected])) selected = NONE;
  chooser.value = only ? [...only].map(className).join(" / ") : "";
  for (const chip of byId("map-legend").children) {
    chip.setAttribute("aria-pressed", String(Boolean(only && only.has(Number(chip.dataset.label)))));
  }
  find();
  if (only) fit(shown); else redraw();
}

/** Marks the images whose file or class holds the text of the search. */
function find() {
  const text = search.value.trim().toLowerCase();
  const holds = (image) => images.file[image].toLowerCase().includes(text)
    || className(images.label[image]).toLowerCase().includes(text);
  matches = text ? new Set(shown.filter(holds)) : null;
  redraw();
}
