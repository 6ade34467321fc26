// Opens a model's page, drops a picture on it, and prints as JSON the seconds until each thing is there.
//   node first_answer.mjs '{"base": "http://…", "user": …, "password": …, "chromium": …, "modules": …, "picture": …}'
import { createRequire } from "node:module";

const told = JSON.parse(process.argv[2]);
const { chromium } = createRequire(told.modules + "/")("playwright-core");
let last = performance.now();

function lap() {
  const seconds = (performance.now() - last) / 1000;
  last = performance.now();
  return seconds;
}

const browser = await chromium.launch({ executablePath: told.chromium, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const context = await browser.newContext({ httpCredentials: { username: told.user, password: told.password } });
  const page = await context.newPage(), cdp = await context.newCDPSession(page);
  await page.goto(`${told.base}/models/pcam-classification`);
  const seen = { page: lap() };
  const box = await page.locator(".drop").boundingBox();
  const at = { x: box.x + box.width / 2, y: box.y + box.height - 8, data: { items: [], files: [told.picture], dragOperationsMask: 1 } };
  for (const type of ["dragEnter", "dragOver", "drop"]) await cdp.send("Input.dispatchDragEvent", { type, ...at });
  await page.waitForSelector("#answer .verdict");
  seen.answer = lap();
  seen.verdict = await page.textContent("#answer .verdict");
  await page.waitForSelector("#map:not([hidden])");
  seen.map = lap();
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
