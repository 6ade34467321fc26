// Shows the OpenAPI document with Swagger UI. The browser adds the user of this page to what is tried out.
const target = document.getElementById("reference");
const spec = await (await fetch(target.dataset.document)).json();
spec.servers = [{ url: target.dataset.root, description: "This server" }];
// A page has one main part, and Swagger UI makes a second one.
new MutationObserver(() => target.querySelector("main")?.setAttribute("role", "group")).observe(target, { childList: true, subtree: true });
SwaggerUIBundle({ spec, domNode: target, deepLinking: true, defaultModelsExpandDepth: -1, validatorUrl: null });
