// Shows the OpenAPI document with Swagger UI. The browser adds the user of this page to what is tried out.
const target = document.getElementById("reference");
const spec = await (await fetch(target.dataset.document)).json();
spec.servers = [{ url: target.dataset.root, description: "This server" }];

// What Swagger UI leaves out for those who listen to the page, or use it by keyboard.
const ATTRIBUTES = [
  ["main", "role", () => "group"], // the page has a main part
  ["h1", "aria-level", () => "2"],
  ["select", "aria-label", ({ id }) => (id === "servers" ? "Server" : "Choice of example")],
  ["input[type=file]", "aria-label", () => "File"],
  [".close-modal", "aria-label", () => "Close"],
  [".modal-ux input", "autocomplete", ({ type }) => (type === "password" ? "current-password" : "username")],
  ["pre", "tabindex", () => "0"], // it scrolls
  [".responses-table[role]", "aria-label", (table) => `Responses: ${table.closest(".opblock").querySelector(".opblock-summary-control").innerText}`],
];

function mend() {
  for (const [selector, name, find] of ATTRIBUTES) {
    for (const each of target.querySelectorAll(`${selector}:not([${name}])`)) each.setAttribute(name, find(each));
  }
  // Each of these buttons says "Authorize": one for the password, one for the token.
  for (const each of target.querySelectorAll("[aria-label='Apply credentials']")) each.removeAttribute("aria-label");
}
new MutationObserver(mend).observe(target, { childList: true, subtree: true });
// Links within the buttons that open a request, and the colours of examples, could not be used or read by everybody.
SwaggerUIBundle({ spec, domNode: target, deepLinking: false, syntaxHighlight: false, defaultModelsExpandDepth: -1, validatorUrl: null });
