// The heat map of an answer, over the picture: which parts speak for a class, and which against it.
const find = (id) => document.getElementById(id);
const canvas = find("map"), under = find("under"), opacity = find("opacity");
const parts = () => document.querySelectorAll(".legend, .opacity");

export function clearMap() {
  canvas.hidden = under.hidden = true;
  for (const part of parts()) part.hidden = true;
  find("meaning").textContent = "What the answer rests on";
}

export async function showMap(model, picture, source, isWanted) {
  if (!picture.map) {
    find("meaning").textContent = "The heat map is being made.";
    const body = new FormData();
    body.append("image", picture.file, "picture");
    const headers = { Accept: "application/json" };
    const answer = await fetch(model.explain + (picture.query ?? ""), { method: "POST", body, headers }).catch(() => null);
    const json = answer?.ok ? await answer.json() : null;
    picture.map = json?.heat_map;
  }
  if (!isWanted()) return;
  if (!picture.map) {
    find("meaning").textContent = "There is no heat map of this picture now. Choose it again to try once more.";
    return;
  }
  const { values, legend } = picture.map, limit = legend.at(-1).value || 1;
  canvas.width = values[0].length;
  canvas.height = values.length;
  const pen = canvas.getContext("2d");
  values.forEach((row, y) => row.forEach((value, x) => {
    pen.fillStyle = value > 0 ? legend.at(-1).colour : legend[0].colour;
    pen.globalAlpha = Math.min(1, Math.abs(value) / limit);
    pen.fillRect(x, y, 1, 1);
  }));
  under.src = source;
  canvas.hidden = under.hidden = false;
  place(model, picture.json.input);
  canvas.setAttribute("aria-label", describe(picture.map));
  find("meaning").textContent = describe(picture.map);
  for (const part of parts()) part.hidden = false;
}

// The map covers what the model sees: all of the picture, or what is cut out of its middle. Both lie in a square box.
function place(model, { width_px: width, height_px: height }) {
  const long = Math.max(width, height), scale = model.cut ? model.cut / Math.min(width, height) : 0;
  const seen = scale ? [model.width / scale, model.height / scale] : [width, height];
  canvas.style.width = `${(100 * seen[0]) / long}%`;
  canvas.style.height = `${(100 * seen[1]) / long}%`;
}

// The text alternative of a map: where the cell lies that speaks most for the class.
function describe({ class: name, values }) {
  const cells = values.flat(), most = Math.max(...cells), at = cells.indexOf(most), columns = values[0].length;
  if (most <= 0) return `No part of the picture speaks for ${name}.`;
  const third = (place, count, words) => words[Math.min(2, Math.floor((3 * place) / count))];
  const row = third(Math.floor(at / columns), values.length, ["upper", "middle", "lower"]);
  const column = third(at % columns, columns, ["left", "centre", "right"]);
  return `The ${row} ${column} speaks most for ${name}: covered, it lowers the score by ${most.toFixed(3)}.`;
}

opacity.addEventListener("input", () => (canvas.style.opacity = opacity.value / 100));
canvas.style.opacity = opacity.value / 100;
