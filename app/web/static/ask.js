// "Try it" on a model's page: takes pictures, asks the page's own form for each, and shows the answers.
import { clearMap, showMap } from "./heat_map.js";
import { addRows, fillRow, listenToRows, writeTable } from "./rows.js";

const AT_ONCE = 2, TRIES = 8, BUSY = [429, 503];
const find = (id) => document.getElementById(id);
const section = find("asking"), form = section.querySelector("form"), shown = find("picture");
let pictures = [], current, run = new AbortController();

function say(text) {
  find("status").textContent = text;
}

// Take the place of the pictures that were there; two are asked at a time, in order.
async function take(files) {
  if (!files.length) return;
  run.abort();
  run = new AbortController();
  const mine = run.signal, all = [...files].map((file) => ({ file, name: file.name || "picture" }));
  pictures = all;
  find("list").hidden = all.length < 2;
  if (all.length > 1) addRows(all, show);
  say(all.length > 1 ? `${all.length} pictures are sent.` : "The picture is sent.");
  show(all[0]);
  const waiting = [...all];
  let done = 0;
  async function work() {
    for (let picture; (picture = waiting.shift()) && !mine.aborted; ) {
      await ask(picture, mine);
      if (mine.aborted) return;
      if (all.length > 1) await fillRow(picture);
      if (picture === current) show(picture);
      done += 1;
      find("count").textContent = `${done} of ${all.length} are answered.`;
      if (all.length > 1 && done % 20 === 0) say(find("count").textContent);
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (!mine.aborted && all.length > 1) say(`All ${all.length} pictures are answered. The list can be saved as CSV.`);
}

// Send one picture without its name, and keep the part of the page that answers it.
async function ask(picture, signal, query = "") {
  try {
    for (let tries = 1; ; tries++) {
      const body = new FormData();
      body.append("image", picture.file, "picture");
      const answer = await fetch(location.pathname + query, { method: "POST", body, headers: { Accept: "text/html" }, signal });
      if (BUSY.includes(answer.status) && tries < TRIES) {
        await new Promise((go) => setTimeout(go, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
        continue;
      }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const part = page.querySelector("article.answer");
      if (!part) throw new Error(`The server answered with status ${answer.status}. Try again.`);
      picture.part = document.importNode(part, true);
      picture.json = JSON.parse(part.querySelector(".json").textContent);
      break;
    }
  } catch (error) {
    if (signal.aborted) return;
    picture.json = { type: "NoAnswer", message: error instanceof TypeError ? "The server cannot be reached, or the file cannot be read." : error.message };
    picture.part = make("article", "answer failed", make("p", "verdict", "No answer"), make("p", "say", picture.json.message));
  }
  offerUnfit(picture, signal);
}

function make(tag, className, ...content) {
  const element = Object.assign(document.createElement(tag), { className });
  element.append(...content);
  return element;
}

// A picture of another kind is refused; who wants to see the numbers asks for them.
function offerUnfit(picture, signal) {
  if (picture.json.type !== "UnfitImageException") return;
  const button = make("button", "button", "Show the numbers all the same");
  button.type = "button";
  button.addEventListener("click", async () => {
    picture.query = "?unfit=answer";
    await ask(picture, signal, picture.query);
    if (picture.row) await fillRow(picture);
    show(picture);
    find("answer").focus();
  });
  picture.part.querySelector("details").before(button);
}

// Show a picture with its answer, if it is there already, and then its heat map.
function show(picture) {
  if (picture !== current) {
    URL.revokeObjectURL(shown.src);
    shown.hidden = false;
    shown.src = URL.createObjectURL(picture.file);
    find("caption").textContent = picture.name;
    clearMap();
  }
  current = picture;
  if (!picture.part) {
    find("answer").replaceChildren(make("p", "quiet", "The model looks at the picture."));
    return;
  }
  for (const button of picture.part.querySelectorAll(".copy")) button.hidden = !navigator.clipboard;
  find("answer").replaceChildren(picture.part);
  const words = [...picture.part.querySelectorAll(".verdict, .say")].map((each) => each.textContent);
  if (pictures.length < 2 || pictures.every((each) => each.part)) say(words.join(". "));
  const { width_px, height_px } = picture.json.input ?? {};
  shown.alt = width_px ? `The picture that was sent, ${width_px} x ${height_px} pixels` : "The picture that was sent";
  if (picture.json.class) showMap(section.dataset, picture, shown.src, () => picture === current);
}

shown.addEventListener("error", () => {
  shown.hidden = true;
  if (current) find("caption").textContent = `${current.name}: this browser cannot show it`;
});

form.addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("click", async (event) => {
  const link = event.target.closest(".example");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const name = decodeURIComponent(link.pathname.split("/").pop());
  const picture = await (await fetch(link.href)).blob();
  take([new File([picture], name, { type: picture.type })]);
});
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || form.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("over");
  take([...event.dataTransfer.files]);
});
section.addEventListener("click", async (event) => {
  if (!event.target.matches(".copy")) return;
  await navigator.clipboard.writeText(event.target.previousElementSibling.textContent);
  say("Copied.");
});
find("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([writeTable(pictures)], { type: "text/csv" }));
  link.download = `${section.dataset.model}-${section.dataset.version}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
listenToRows();
