// Shows the OpenAPI document with Swagger UI. The browser adds the user of this page to what is tried out.
const target = document.getElementById("reference");
const spec = await (await fetch(target.dataset.document)).json();
spec.servers = [{ url: target.dataset.root, description: "This server" }];
SwaggerUIBundle({ spec, domNode: target, deepLinking: true, docExpansion: "list", defaultModelsExpandDepth: 0, validatorUrl: null });
