// The list of several pictures: one row each, sorted as asked for, and as CSV.
const THUMBNAIL_PX = 40;
const body = document.querySelector("#list tbody"), head = document.querySelector("#list thead");
const COLUMNS = {
  name: (picture) => picture.name,
  score: ({ json }) => json?.score,
  class: ({ json }) => json?.class,
  threshold: ({ json }) => json?.threshold,
  cannot_tell: ({ json }) => json?.cannot_tell,
  fits: ({ json }) => json?.fit?.fits,
  reasons: ({ json }) => json?.fit?.reasons.join("; "),
  warnings: ({ json }) => json?.warnings?.join("; "),
  error: ({ json }) => json?.message,
  model: ({ json }) => json?.model,
  version: ({ json }) => json?.version,
};
let shown = [];

export function addRows(pictures, show) {
  shown = pictures;
  for (const cell of head.querySelectorAll("[aria-sort]")) cell.ariaSort = "none";
  body.replaceChildren(...pictures.map((picture) => {
    const row = document.createElement("tr"), button = document.createElement("button");
    const thumbnail = Object.assign(document.createElement("canvas"), { width: THUMBNAIL_PX, height: THUMBNAIL_PX });
    thumbnail.setAttribute("aria-hidden", "true"); // the name beside it says the same
    Object.assign(button, { type: "button", textContent: picture.name });
    button.addEventListener("click", () => show(picture));
    for (const content of [thumbnail, button, "", "waits", ""]) row.insertCell().append(content);
    picture.row = row;
    return row;
  }));
}

export async function fillRow({ file, json, row }) {
  row.cells[2].textContent = json.score?.toFixed(3) ?? "";
  row.cells[3].textContent = json.cannot_tell ? `cannot tell (${json.class})` : json.class ?? (json.fit ? "does not fit" : "no answer");
  row.cells[4].textContent = [...(json.fit?.fits === false ? json.fit.reasons : []), ...(json.warnings ?? [])].join("; ") || (json.class ? "" : json.message);
  const picture = await createImageBitmap(file, { resizeHeight: 2 * THUMBNAIL_PX }).catch(() => null);
  if (!picture) return; // a format that the browser does not know
  const scale = THUMBNAIL_PX / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const pen = row.querySelector("canvas").getContext("2d");
  pen.drawImage(picture, (THUMBNAIL_PX - width) / 2, (THUMBNAIL_PX - height) / 2, width, height);
  picture.close();
}

export function writeTable(pictures) {
  // A spreadsheet takes a text that begins so for a formula.
  const inert = (value) => (typeof value === "string" && /^\s*[=+\-@]/.test(value) ? `'${value}` : String(value ?? ""));
  const quote = (value) => (/[",;\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = pictures.map((picture) => Object.values(COLUMNS).map((read) => quote(inert(read(picture)))));
  return [Object.keys(COLUMNS), ...lines].map((line) => line.join(",") + "\r\n").join("");
}

export function listenToRows() {
  head.addEventListener("click", ({ target }) => {
    if (!target.dataset.key) return;
    const cell = target.closest("th"), falls = cell.ariaSort === "ascending", read = COLUMNS[target.dataset.key];
    for (const each of head.querySelectorAll("[aria-sort]")) each.ariaSort = "none";
    cell.ariaSort = falls ? "descending" : "ascending";
    const isNumber = target.dataset.key === "score", key = (picture) => read(picture) ?? (isNumber ? -1 : "");
    const order = (a, b) => (isNumber ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true }));
    body.append(...[...shown].sort((a, b) => (falls ? order(b, a) : order(a, b))).map((picture) => picture.row));
  });
}
