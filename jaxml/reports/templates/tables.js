// The table of classes, the confusions between them, and all mistakes.
const share = new Intl.NumberFormat("en", { style: "percent" });
const digits = (value) => (value === null ? "–" : value.toFixed(3));

/** A button with the name of a class that shows classes alone on the map. */
function onMap(label, ...others) {
  const go = () => {
    search.value = "";
    showClasses([label, ...others]);
    byId("map-section").scrollIntoView({ block: "start" });
  };
  return button(className(label), go, { class: "link", title: "show on the map" });
}

/**
 * A table that is sorted by its headings and shown in pages. A column has a title, `value` of an entry to sort by,
 * `cell` of an entry (the value itself by default), `text` for a column that is no number, and `down` for one that
 * begins with its largest. Returns a function that takes other entries.
 */
function sortable(host, columns, size) {
  let entries = [];
  let by = columns.find((column) => column.first);
  let sign = by.down ? -1 : 1;
  const body = element("tbody");
  const headings = columns.map((column) => {
    const heading = element("th", { scope: "col", class: column.text ? "text" : "" });
    heading.append(button(column.title, () => {
      sign = by === column ? -sign : (column.down ? -1 : 1);
      by = column;
      update();
    }));
    return heading;
  });
  const head = element("thead", {}, element("tr", {}, ...headings));
  host.append(element("div", { class: "scroll" }, element("table", { class: "entries" }, head, body)));
  const turn = pages(host, size, (shownEntries) => {
    body.replaceChildren(...shownEntries.map((entry) => element("tr", {}, ...columns.map((column) => {
      const cell = element("td", { class: column.text ? "text" : "" });
      const value = column.cell ? column.cell(entry) : whole.format(column.value(entry));
      cell.append(...(Array.isArray(value) ? value : [value]));
      return cell;
    }))));
  });
  function update() {
    const compare = (a, b) => {
      const [x, y] = [by.value(a), by.value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (by.text ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    };
    columns.forEach((column, i) => {
      headings[i].setAttribute("aria-sort", column === by ? (sign > 0 ? "ascending" : "descending") : "none");
    });
    turn([...entries].sort(compare));
  }
  return (others) => { entries = others; update(); };
}

/** Calls `update` now and when the text of a field changes, with a test of whether one of some names holds it. */
function filtered(field, update) {
  const run = () => {
    const text = field.value.trim().toLowerCase();
    update((...names) => names.some((name) => name.toLowerCase().includes(text)));
  };
  field.addEventListener("input", run);
  run();
  return run;
}

const showTable = sortable(byId("classes"), [
  { title: "Class", value: className, cell: (label) => onMap(label), text: true },
  { title: "Images", value: (label) => classes.size[label], down: true },
  { title: "Recall@1", value: (label) => classes.recall[label], cell: (label) => digits(classes.recall[label]), first: true },
  { title: "Purity", value: (label) => classes.purity[label], cell: (label) => digits(classes.purity[label]) },
  {
    title: "Taken for",
    value: (label) => classes.taken[label].reduce((sum, [, times]) => sum + times, 0),
    cell: (label) => classes.taken[label].flatMap(([other, times], i) => [
      i ? ", " : "", onMap(other, label), ` ${whole.format(times)}`]),
    down: true,
  },
], 15);
filtered(byId("classes-search"), (holds) => showTable(classes.name.flatMap((name, label) => (holds(name) ? [label] : []))));

const showPairs = sortable(byId("pairs"), [
  { title: "Class", value: ([label]) => className(label), cell: ([label, other]) => onMap(label, other), text: true },
  { title: "Taken for", value: ([, other]) => className(other), cell: ([label, other]) => onMap(other, label), text: true },
  { title: "Images", value: ([, , times]) => times, down: true, first: true },
  {
    title: "Of the class",
    value: ([label, , times]) => times / classes.size[label],
    cell: ([label, , times]) => share.format(times / classes.size[label]),
    down: true,
  },
], 15);
showPairs(data.pairs);

const kinds = {
  cluster: {
    is: (image) => majorityOf(image) !== images.label[image],
    other: (image) => {
      const [majority, typical, size, central] = data.clusters[images.cluster[image]];
      return [central, `put with ${whole.format(typical)} of ${whole.format(size)}:`, majority];
    },
  },
  nearest: {
    is: (image) => images.nearest_class[image] !== NONE && images.nearest_class[image] !== images.label[image],
    other: (image) => [images.nearest[image], "nearest image:", images.nearest_class[image]],
  },
};
const cards = byId("mistakes-cards");
const showMistakes = pages(byId("mistakes"), 24, (list) => {
  cards.replaceChildren(...list.map((image) => element("div", { class: "card" },
    figure(image, "this is", images.label[image], "wrong"),
    element("span", { class: "arrow", "aria-hidden": "true" }, "→"),
    figure(...kinds[byId("mistakes-kind").value].other(image)))));
});
const byClass = [...EVERY].sort((a, b) => images.label[a] - images.label[b]);
const listMistakes = filtered(byId("mistakes-search"), (holds) => {
  const { is, other } = kinds[byId("mistakes-kind").value];
  showMistakes(byClass.filter((image) => is(image)
    && holds(className(images.label[image]), className(other(image)[2]), images.file[image])));
});
byId("mistakes-kind").addEventListener("change", listMistakes);
