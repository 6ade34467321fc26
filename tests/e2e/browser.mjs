// Drives the pages in a real browser, and prints as JSON what it saw; test_browser.py says what must be so.
//   node browser.mjs '{"base": "http://…", "user": …, "password": …, "chromium": …, "modules": …, "folder": …, "pictures": {…}}'
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const told = JSON.parse(process.argv[2]);
const require = createRequire(told.modules + "/");
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf-8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const LOOKS = ["light", "dark"].flatMap((colorScheme) => [390, 1280].map((width) => ({ colorScheme, width })));
const TWO_LOOKS = [LOOKS[0], LOOKS[3]]; // each theme and each width once
const MODEL = "/models/pcam-classification", INPUT = "input[type=file][multiple]";
const seen = { failures: [], hosts: [], console: [], errors: {} };

const browser = await chromium.launch({
  executablePath: told.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"],
});

async function open(options = {}) {
  const credentials = { username: told.user, password: told.password };
  const context = await browser.newContext({ httpCredentials: credentials, reducedMotion: "reduce", bypassCSP: false, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (!["blob:", "data:"].includes(protocol) && origin !== told.base) seen.hosts.push(request.url());
  });
  page.on("pageerror", (error) => seen.console.push(error.message));
  page.on("console", (message) => {
    if (message.type() !== "log" && !message.text().startsWith("Failed to load resource")) seen.console.push(message.text());
  });
  return page;
}

// Look at a page as it stands in both themes and widths: what axe says of it, and whether it is wider than the window.
// `known` are findings that stay, each as "RULE SELECTOR"; axe looks at what is `within` an element alone.
async function inspect(page, name, { looks = LOOKS, known = [], within = "html" } = {}) {
  for (const { colorScheme, width } of looks) {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    const found = await page.evaluate(async ([source, rules, within]) => {
      if (!globalThis.axe) Function(source).call(globalThis);
      return (await globalThis.axe.run(within, { runOnly: rules, resultTypes: ["violations"] })).violations;
    }, [axe, RULES, within]).catch((error) => [{ id: error.message, nodes: [] }]);
    const isKnown = ({ id, nodes }) => nodes.length && nodes.every(({ target }) => known.includes(`${id} ${target}`));
    for (const { id, nodes } of found.filter((each) => !isKnown(each))) seen.failures.push(`${name}, ${colorScheme}, ${width}: ${id}: ${nodes.slice(0, 2).map((node) => node.html)}`);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (over > 0) seen.failures.push(`${name}, ${width}: ${over} pixels wider than the window`);
    await page.screenshot({ path: `${told.folder}/${name}-${colorScheme}-${width}.png`, fullPage: true });
  }
}

async function ask(page, ...files) {
  await page.setInputFiles(INPUT, files);
  await page.waitForSelector("#answer article");
}

// Another caller, who asks one prediction after the other until something has happened; the milliseconds of each.
async function askUntil(event) {
  const body = readFileSync(told.pictures.sure), statuses = {}, waits = [];
  const headers = { Authorization: `Basic ${btoa(`${told.user}:${told.password}`)}` };
  let is_over = false;
  event.finally(() => (is_over = true)).catch(() => {});
  while (!is_over) {
    const start = performance.now();
    const answer = await fetch(`${told.base}/predictions/pcam-classification`, { method: "POST", body, headers });
    await answer.arrayBuffer();
    waits.push(performance.now() - start);
    statuses[answer.status] = (statuses[answer.status] ?? 0) + 1;
  }
  await event;
  return { statuses, longest_ms: Math.max(...waits), count: waits.length };
}

const scenarios = {
  async pages() {
    const page = await open();
    for (const [name, path] of Object.entries({ home: "/", model: MODEL, guides: "/guides", guide: "/guides/evaluate", absent: "/nope", programs: "/predictions/pcam-classification" })) {
      await page.goto(told.base + path);
      await inspect(page, name);
    }
  },

  async answers() {
    const page = await open();
    seen.verdicts = {};
    for (const [name, file] of Object.entries(told.pictures)) {
      await page.goto(told.base + MODEL);
      await ask(page, file);
      if (["sure", "unsure"].includes(name)) await page.waitForSelector("#map:not([hidden])");
      seen.verdicts[name] = await page.textContent(".verdict");
      await inspect(page, `answer-${name}`, { looks: name === "sure" ? LOOKS : TWO_LOOKS });
    }
    await ask(page, told.pictures.unfit);
    await page.click("text=Show the numbers all the same");
    await page.waitForSelector("#answer .scale");
    await inspect(page, "answer-all-the-same", { looks: TWO_LOOKS });
    await page.setInputFiles(INPUT, Object.values(told.pictures));
    await page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("All "));
    await inspect(page, "several");
  },

  async keyboard() {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    await page.goto(told.base + MODEL);
    const focused = (selector) => page.evaluate((wanted) => document.activeElement.matches(wanted), selector);
    const reach = async (selector) => {
      for (let presses = 0; presses < 80; presses++) {
        await page.keyboard.press("Tab");
        if (await focused(selector)) return;
      }
      throw new Error(`${selector} cannot be reached by keyboard`);
    };
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter"); // "Skip to the content"
    await reach(INPUT);
    await reach(".example");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#map:not([hidden])");
    await reach("summary");
    await page.keyboard.press("Enter");
    await reach(".copy");
    await page.keyboard.press("Enter");
    await reach("#opacity");
    await page.keyboard.press("Home");
    seen.keyboard = await page.evaluate(async () => ({
      copied: JSON.parse(await navigator.clipboard.readText()).class,
      shown: document.querySelector("#answer .verdict").textContent,
      opacity: document.querySelector("#map").style.opacity,
      map: document.querySelector("#map").getAttribute("aria-label"),
      said: document.querySelector("#status").textContent,
    }));
  },

  async plain() {
    const page = await open({ javaScriptEnabled: false });
    seen.plain = {};
    for (const [name, file] of Object.entries(told.pictures)) {
      await page.goto(told.base + MODEL);
      await page.setInputFiles(INPUT, file);
      await page.click("text=Classify");
      seen.plain[name] = await page.textContent(".verdict");
    }
  },

  async many() {
    const page = await open(), asked = [], cdp = await page.context().newCDPSession(page);
    let open_ = 0, most = 0;
    await cdp.send("Performance.enable");
    const weigh = async () => {
      await cdp.send("HeapProfiler.collectGarbage");
      const { metrics } = await cdp.send("Performance.getMetrics");
      return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
    };
    await page.addInitScript(() => {
      const { createObjectURL: make, revokeObjectURL: revoke } = URL;
      globalThis.held = new Set();
      URL.createObjectURL = (blob) => held.add(make.call(URL, blob)) && [...held].at(-1);
      URL.revokeObjectURL = (url) => held.delete(url) && revoke.call(URL, url);
    });
    page.on("request", (request) => request.method() === "POST" && request.url().endsWith(MODEL) && (asked.push(request), (most = Math.max(most, ++open_))));
    for (const end of ["requestfinished", "requestfailed"]) page.on(end, (request) => asked.includes(request) && open_--);
    await page.goto(told.base + MODEL);
    const before = await weigh();
    const files = ["sure", "unsure", "unfit"].map((name) => readFileSync(told.pictures[name]).toString("base64"));
    await page.evaluate(([files, count]) => {
      const all = new DataTransfer();
      for (let number = 0; number < count; number++) {
        const bytes = Uint8Array.from(atob(files[number % files.length]), (letter) => letter.charCodeAt(0));
        all.items.add(new File([bytes], `picture ${String(number).padStart(3, "0")}, "${number}".png`));
      }
      document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: all, bubbles: true, cancelable: true }));
    }, [files, told.many]);
    seen.other = await askUntil(page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("All "), null, { timeout: 90_000 }));
    const after = await weigh(), held = await page.evaluate(() => globalThis.held.size);
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
    await download.saveAs(`${told.folder}/many.csv`);
    await page.click("[data-key=score]");
    seen.many = await page.evaluate(() => ({
      scores: [...document.querySelectorAll("#list tbody tr")].map((row) => row.cells[2].textContent),
      drawn: [...document.querySelectorAll("#list canvas")].every((each) => each.getContext("2d").getImageData(20, 20, 1, 1).data[3] > 0),
      pixels: [...document.querySelectorAll("#list canvas")].reduce((sum, each) => sum + each.width * each.height, 0),
    }));
    const more = (name) => after[name] - before[name];
    Object.assign(seen.many, { held, heap_bytes: more("JSHeapUsedSize"), nodes: more("Nodes"), documents: more("Documents") });
    Object.assign(seen.many, { most, sentNames: asked.some((request) => request.postData()?.includes("picture 0")) });
  },

  async weight() {
    const page = await open(), cdp = await page.context().newCDPSession(page), sizes = {};
    await cdp.send("Network.enable");
    const kinds = {};
    cdp.on("Network.responseReceived", ({ requestId, type }) => (kinds[requestId] = type));
    cdp.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => (sizes[requestId] = encodedDataLength));
    await page.addInitScript(() => {
      globalThis.shifts = [];
      new PerformanceObserver((list) => globalThis.shifts.push(...list.getEntries().map((each) => each.value))).observe({ type: "layout-shift", buffered: true });
    });
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(told.base + MODEL, { waitUntil: "networkidle" });
    seen.weight = { bytes: Object.entries(sizes).reduce((sum, [id, size]) => sum + (kinds[id] === "Image" ? 0 : size), 0), shifts: {} };
    await page.reload({ waitUntil: "networkidle" });
    seen.weight.paint_ms = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
    for (const width of [1280, 390]) {
      await page.setViewportSize({ width, height: 900 });
      await page.goto(told.base + MODEL, { waitUntil: "networkidle" });
      for (const file of [told.pictures.sure, told.pictures.unfit]) {
        await ask(page, file);
        await page.waitForTimeout(300);
      }
      seen.weight.shifts[width] = await page.evaluate(() => globalThis.shifts.reduce((sum, value) => sum + value, 0));
    }
  },

  // The picture in the README; test_browser.py takes it only where it is told where to write it.
  async portrait() {
    if (!told.portrait) return;
    const page = await open({ colorScheme: "light" });
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(told.base + MODEL);
    await page.click(".example[href$='/metastatic.jpg']");
    await page.waitForSelector("#map:not([hidden])");
    const height = await page.evaluate(() => Math.ceil(document.querySelector("#asking").getBoundingClientRect().bottom + scrollY));
    await page.setViewportSize({ width: 1280, height });
    await page.mouse.move(0, 0);
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: told.portrait });
  },

  async reference() {
    const page = await open();
    await page.goto(told.base + "/docs");
    // Swagger UI writes a main part into ours. Made a group it is no second one, but a main element may not be a group.
    const known = ["aria-allowed-role #operations"];
    const row = page.locator("#operations-Models-listModels");
    await row.locator(".opblock-summary-control").click();
    await row.locator("text=Try it out").click();
    await row.locator(".execute").click();
    const status = row.locator(".live-responses-table tbody .response-col_status").first();
    seen.reference = { status: (await status.textContent()).trim().slice(0, 3) };
    seen.reference.is_listed = (await row.locator(".live-responses-table").textContent()).includes("pcam-classification");
    const upload = page.locator("#operations-Predictions-postPrediction");
    await upload.locator(".opblock-summary-control").click();
    await upload.locator("text=Try it out").click();
    for (const more of await page.locator(".opblock-tag:not([data-tag=Predictions], [data-tag=Models], [data-tag=Management])").all()) await more.click();
    await inspect(page, "reference", { looks: TWO_LOOKS, known });
    await page.click(".btn.authorize");
    await inspect(page, "reference-user", { looks: [LOOKS[0]], within: ".modal-ux" });
  },
};

for (const name of told.scenarios ?? Object.keys(scenarios)) {
  const start = Date.now();
  await scenarios[name]().catch((error) => (seen.errors[name] = error.stack));
  seen.seconds = { ...seen.seconds, [name]: (Date.now() - start) / 1000 };
}
await browser.close();
console.log(JSON.stringify(seen));
