// An instance of the mesh in JavaScript, written from docs/protocol.md alone: it announces itself and its routes,
// beats, answers requests and drains. No framework, one package: the official NATS client.
import { createHash, randomBytes } from "node:crypto";
import { connect, headers } from "@nats-io/transport-node";

const PREFIX = process.env.MESH_PREFIX || "mesh";
const NAME = "quotes";
const VERSION = "1.0.0";
const ID = randomBytes(12).toString("hex");
const HEARTBEAT_MS = 2000;
const LINGER_MS = 500;

const QUOTES = [
  "Simplicity is prerequisite for reliability.",
  "Make it work, make it right, make it fast.",
  "A distributed system is one in which a machine you never heard of can stop you.",
];

// Endpoints: what is asked for, and how it is answered: [status, value].
const HANDLERS = {
  random: () => [200, { quote: QUOTES[Math.floor(Math.random() * QUOTES.length)], language: "JavaScript", instance: ID }],
  one: ({ params }) => {
    const quote = QUOTES[Number(params.get("number")) - 1];
    return quote ? [200, { quote }] : problem(404, "Not found", `there is no quote ${params.get("number")}`);
  },
};
const subject = (endpoint) => `${PREFIX}.req.${NAME}.${endpoint}`;
const endpoints = Object.keys(HANDLERS).map((name) => ({ name, subject: subject(name), queue_group: "q", metadata: null }));
const routes = [
  { method: "GET", path: "/quotes/random", endpoint: "random", summary: "Any quote" },
  { method: "GET", path: "/quotes/{number}", endpoint: "one", summary: "One quote by its number" },
];
const revision = createHash("sha256").update(JSON.stringify([NAME, VERSION, endpoints, routes])).digest("base64url").slice(0, 22);
const started = new Date().toISOString();
let state = "ready";
let seq = 0;
let inflight = 0;

const nc = await connect({ servers: process.env.NATS_URL || "nats://127.0.0.1:4222", name: `${NAME}.${ID}`, maxReconnectAttempts: -1 });

function announce() {
  const facts = { name: NAME, id: ID, version: VERSION, description: "quotes, in JavaScript", metadata: { language: "JavaScript" } };
  const message = { type: "mesh.v1.announcement", ...facts, endpoints, routes, seq: ++seq, revision, state, started, heartbeat_ms: HEARTBEAT_MS };
  nc.publish(`${PREFIX}.announce.${NAME}.${ID}`, JSON.stringify(message));
}

function beat() {
  const message = { type: "mesh.v1.heartbeat", name: NAME, id: ID, seq: ++seq, revision, state, inflight, capacity: 0, lag_ms: 0 };
  nc.publish(`${PREFIX}.heartbeat.${NAME}.${ID}`, JSON.stringify(message));
}

function problem(status, title, detail) {
  return [status, { type: "about:blank", title, status, detail, origin: "service" }];
}

// A reply goes to an inbox only: any other subject would be published to with this instance's permissions.
const mayReply = (reply) => reply.startsWith(`${PREFIX}.inbox.`) || !(reply.startsWith(`${PREFIX}.`) || reply.startsWith("$"));

function answer(endpoint, message) {
  if (!message.reply || !mayReply(message.reply)) return;
  inflight += 1;
  const params = new URLSearchParams(message.headers?.get("Mesh-Params") ?? "");
  let [status, value] = problem(500, "Internal error", "the service failed");
  try {
    [status, value] = HANDLERS[endpoint] ? HANDLERS[endpoint]({ params }) : problem(404, "Not found", `no endpoint ${endpoint}`);
  } catch (error) {
    console.error(error);
  }
  const reply = headers();
  reply.set("Mesh-Status", String(status));
  if (status >= 400) {
    reply.set("Nats-Service-Error-Code", String(status));
    reply.set("Nats-Service-Error", value.detail);
  }
  reply.set("content-type", status >= 400 ? "application/problem+json" : "application/json");
  message.respond(JSON.stringify(value), { headers: reply });
  inflight -= 1;
}

const last = (name) => name.slice(name.lastIndexOf(".") + 1);
const on = (name, callback, queue) => nc.subscribe(name, { queue, callback: (error, message) => error || callback(message) });

const requests = [
  ...endpoints.map(({ name }) => on(subject(name), (message) => answer(name, message), "q")),
  on(`${PREFIX}.to.${NAME}.${ID}.*`, (message) => answer(last(message.subject), message), ID),
];
for (const asked of [`${PREFIX}.discover`, `${PREFIX}.discover.${NAME}`, `${PREFIX}.discover.${NAME}.${ID}`]) {
  on(asked, (message) => {
    let windowMs = 500;
    try { windowMs = message.json().window_ms ?? windowMs; } catch { /* an empty body counts as the default */ }
    setTimeout(announce, Math.random() * windowMs);
  });
}
for (const control of [`${PREFIX}.ctl.${NAME}.drain`, `${PREFIX}.ctl.${NAME}.${ID}.drain`]) on(control, drain);

await nc.flush(); // whoever hears the announcement may ask at once
announce();
const beating = setInterval(beat, HEARTBEAT_MS * 0.9);
console.log(`${NAME} runs as ${ID}`);

let draining = false;
async function drain() {
  if (draining) return;
  draining = true;
  state = "draining";
  announce();
  await new Promise((resolve) => setTimeout(resolve, LINGER_MS)); // callers move away, and are served meanwhile
  await Promise.all(requests.map((subscription) => subscription.drain()));
  clearInterval(beating);
  state = "stopped";
  announce();
  await nc.drain();
}
process.on("SIGTERM", drain);
process.on("SIGINT", drain);
