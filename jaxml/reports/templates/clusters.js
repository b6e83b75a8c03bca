// Shows all pictures of a cluster, moves pictures to other clusters, and saves the corrected table.
const PER_PAGE = 96;
const CLUSTER = 1;  // its column in the table
const { rows, layout } = data;
const starts = [];  // of each cluster, its first row in the table
rows.forEach((row, i) => { starts[row[CLUSTER] - 1] ??= i; });
const ends = starts.map((start, i) => starts[i + 1] ?? rows.length);
const chosen = new Set();  // rows
const moves = [];  // each the cluster that rows were moved to, and the rows; the last one can be undone
let saved = true;

/** The cluster of each row that was moved, and not back to where it came from. */
function moved() {
  const to = new Map(moves.flatMap(([cluster, list]) => list.map((row) => [row, cluster])));
  return new Map([...to].filter(([row, cluster]) => cluster !== Number(rows[row][CLUSTER])));
}
const next = () => Math.max(starts.length, ...moves.map(([cluster]) => cluster)) + 1;

/** Gives the element of a picture a box to choose it by. */
function choosable(shown, row) {
  const box = element("input", { type: "checkbox", "aria-label": `choose ${rows[row][0]}` });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(row); else chosen.delete(row);
    update();
  });
  shown.dataset.row = row;
  shown.append(element("label", { class: "choose" }, box), element("span", { class: "moved-to" }));
}

/** A picture cut out of the contact sheet of its cluster. */
function cut(row) {
  const cluster = rows[row][CLUSTER] - 1;
  const place = row - starts[cluster];
  const sheet = Math.floor(place / layout.per_sheet);
  const onSheet = Math.min(ends[cluster] - starts[cluster] - sheet * layout.per_sheet, layout.per_sheet);
  const step = layout.side + layout.gap;
  const width = Math.min(onSheet, layout.columns) * step + layout.gap;
  const height = Math.ceil(onSheet / layout.columns) * step + layout.gap;
  const left = (place % layout.columns) * step + layout.gap;
  const top = Math.floor((place % layout.per_sheet) / layout.columns) * step + layout.gap;
  const span = element("span", { class: "cut", role: "img", "aria-label": rows[row][0] });
  const percent = (part, all) => `${(100 * part) / all}%`;
  span.style.backgroundImage = `url("${data.sheets[cluster][sheet]}")`;
  span.style.backgroundSize = `${percent(width, layout.side)} ${percent(height, layout.side)}`;
  span.style.backgroundPosition = `${percent(left, width - layout.side)} ${percent(top, height - layout.side)}`;
  const shown = element("figure", { class: "picture" }, span, element("figcaption", {}, element("b", {}, rows[row][0])));
  choosable(shown, row);
  return shown;
}

/** Brings boxes, frames and the bar into agreement with what is chosen and moved. */
function update() {
  const to = moved();
  for (const shown of document.querySelectorAll("figure[data-row]")) {
    const row = Number(shown.dataset.row);
    shown.querySelector(".choose input").checked = chosen.has(row);
    shown.classList.toggle("chosen", chosen.has(row));
    shown.classList.toggle("moved", to.has(row));
    shown.querySelector(".moved-to").textContent = to.has(row) ? `→ cluster ${to.get(row)}` : "";
  }
  byId("bar").hidden = !chosen.size && !moves.length;
  byId("chosen").textContent = `${count(chosen.size, "picture")} chosen, ${whole.format(to.size)} moved.`;
  byId("target").max = next();
  byId("target").title = `1 to ${next() - 1}; ${next()} makes a new cluster`;
  byId("target").placeholder = `1 – ${next()}`;
  byId("move").disabled = !chosen.size;
  byId("undo").disabled = !moves.length;
  byId("save").disabled = !moves.length;
}

/** The corrected table as CSV, escaped as clusters.csv is: a picture that was moved comes last in its new cluster. */
function corrected() {
  const to = moved();
  const stay = rows.filter((_, i) => !to.has(i));
  const go = [...to].map(([i, cluster]) => [rows[i][0], String(cluster), "", "", ""]);
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const sorted = [...stay, ...go].sort((a, b) => a[CLUSTER] - b[CLUSTER]);
  return [data.columns, ...sorted].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

byId("move").addEventListener("click", () => {
  const target = byId("target");
  if (!target.value || !target.reportValidity()) return target.focus();
  const cluster = Number(target.value);
  moves.push([cluster, [...chosen]]);
  chosen.clear();
  saved = false;
  return update();
});
byId("undo").addEventListener("click", () => {
  moves.pop();
  saved = !moves.length;
  update();
});
byId("save").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([corrected()], { type: "text/csv" }));
  element("a", { href: address, download: "clusters_corrected.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  saved = true;
});
window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });

for (const cluster of document.querySelectorAll("[data-cluster]")) {
  const number = Number(cluster.dataset.cluster) - 1;
  for (const shown of cluster.querySelectorAll("figure[data-place]")) {
    choosable(shown, starts[number] + Number(shown.dataset.place));
  }
  const details = cluster.querySelector("details");
  details.addEventListener("toggle", () => {
    const strip = details.querySelector(".all");
    if (!details.open || strip.hasChildNodes()) return;
    const all = Array.from({ length: ends[number] - starts[number] }, (_, i) => starts[number] + i);
    pages(details, PER_PAGE, (list) => {
      strip.replaceChildren(...list.map(cut));
      update();
    })(all);
  });
}
