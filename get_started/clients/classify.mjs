// Ask the API for the class of a picture: node classify.mjs MODEL PICTURE. Needs Node.js 18 or newer.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const [model, picture] = process.argv.slice(2);
const { CLASSIFY_URL = "http://127.0.0.1:8080", CLASSIFY_USER, CLASSIFY_PASSWORD } = process.env;
const login = Buffer.from(`${CLASSIFY_USER}:${CLASSIFY_PASSWORD}`).toString("base64");
const headers = { Authorization: `Basic ${login}`, "Content-Type": "application/octet-stream" };
const body = await readFile(picture);
let response;
for (let attempt = 0; attempt < 30; attempt++) {
  response = await fetch(`${CLASSIFY_URL}/predictions/${model}`, { method: "PUT", headers, body });
  if (response.status !== 503) break;
  await sleep(1000 * Number(response.headers.get("Retry-After") ?? 1));
}
const answer = await response.json();
if (response.ok) {
  console.log(["class", "score", "threshold", "cannot_tell"].map((key) => `${key}=${answer[key]}`).join(" "));
} else {
  // 401: wrong user or password; 422: the picture is broken, or not of the model's kind
  console.error(`${response.status}: ${answer.message}`);
  process.exitCode = 1;
}
