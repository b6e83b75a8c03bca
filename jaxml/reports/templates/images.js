// The images of a report: their names, and their pictures cut out of the sheets.
const { classes, images, sprites } = data;
const NONE = -1;
const sheets = sprites.sheets.map((source) => Object.assign(new Image(), { src: source }));
const sheetsAreReady = Promise.all(sheets.map((sheet) => sheet.decode()));

const className = (label) => classes.name[label];
const isPictured = (image) => image !== NONE && image < sprites.held;
// The golden angle keeps the hues of successive classes far apart.
const classColour = (label) => `hsl(${(label * 137.508) % 360} 65% 50%)`;
const majorityOf = (image) => data.clusters[images.cluster[image]][0];

/** Draws the picture of an image into a square of a canvas. */
function drawPicture(context, image, left, top, side) {
  const perSheet = sprites.columns ** 2;
  const place = image % perSheet;
  const x = (place % sprites.columns) * sprites.side;
  const y = Math.floor(place / sprites.columns) * sprites.side;
  context.drawImage(sheets[Math.floor(image / perSheet)], x, y, sprites.side, sprites.side, left, top, side, side);
}

/** The picture of an image as an element that fills its width, or a dash where the page holds none. */
function picture(image) {
  if (!isPictured(image)) return element("span", { class: "no-picture", title: "not held by this page" }, "–");
  const { side } = sprites;
  const canvas = element("canvas", { width: side, height: side, role: "img", "aria-label": images.file[image] });
  sheetsAreReady.then(() => drawPicture(canvas.getContext("2d"), image, 0, 0, side));
  return canvas;
}

/** A picture with text below: a note, the class and, where the page holds the image, the name of its file. */
function figure(image, note, label, kind = "") {
  const caption = element("figcaption", {}, `${note} `, element("b", {}, className(label)));
  if (image !== NONE) caption.append(element("span", { class: "file" }, images.file[image]));
  return element("figure", { class: `picture ${kind}` }, picture(image), caption);
}
