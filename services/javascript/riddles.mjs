// An ordinary NATS micro service, written with the official packages and without a thought of the mesh, but for the
// metadata of its endpoints: `http.path` makes them HTTP routes.
import { Svcm } from "@nats-io/services";
import { connect, headers } from "@nats-io/transport-node";

const RIDDLES = [
  { riddle: "What has a bed and never sleeps?", answer: "a river" },
  { riddle: "What is full of holes and holds water?", answer: "a sponge" },
];

const nc = await connect({ servers: process.env.NATS_URL || "nats://127.0.0.1:4222", name: "riddles", maxReconnectAttempts: -1 });
const service = await new Svcm(nc).add({ name: "riddles", version: "1.0.0", description: "riddles, in JavaScript" });
const group = service.addGroup("riddles");

const json = (message, value) => message.respond(JSON.stringify(value), { headers: typed() });
function typed() {
  const found = headers();
  found.set("content-type", "application/json");
  return found;
}

group.addEndpoint("random", {
  metadata: { "http.method": "GET", "http.path": "/riddles/random", "http.summary": "Any riddle" },
  handler: (error, message) => error || json(message, RIDDLES[Math.floor(Math.random() * RIDDLES.length)]),
});
group.addEndpoint("one", {
  metadata: { "http.method": "GET", "http.path": "/riddles/{number}", "http.summary": "One riddle by its number" },
  handler: (error, message) => {
    if (error) return;
    const number = new URLSearchParams(message.headers?.get("Mesh-Params") ?? "").get("number");
    const found = RIDDLES[Number(number) - 1];
    if (found) json(message, found);
    else message.respondError(404, `there is no riddle ${number}`);
  },
});

console.log(`riddles runs as ${service.info().id}`);
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => service.stop().then(() => nc.close()));
