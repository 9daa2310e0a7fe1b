// Discovers a service with the services client, calls its endpoints, and prints what it saw as JSON.
//
//     node check.mjs <server> <service> <instance> <request>...
//
// where a request is a subject, a blank and a payload.

import { ServiceError, Svcm } from "@nats-io/services";
import { connect } from "@nats-io/transport-node";

const [server, service, instance, ...requests] = process.argv.slice(2);
const connection = await connect({ servers: server, reconnect: false });
const client = new Svcm(connection).client();

async function all(responses) {
  const seen = [];
  for await (const response of await responses) seen.push(response);
  return seen;
}

async function call(request) {
  const [subject, payload] = request.split(/ (.*)/s);
  const reply = await connection.request(subject, payload, { timeout: 5000 });
  const error = ServiceError.toServiceError(reply);
  return {
    data: reply.string(),
    error: error === null ? null : { code: error.code, message: error.message },
  };
}

const seen = {
  everybody: await all(client.ping()),
  ping: await all(client.ping(service)),
  info: await all(client.info(service, instance)),
  calls: [],
};
for (const request of requests) seen.calls.push(await call(request));
seen.stats = await all(client.stats(service, instance));
seen.nobody = await all(client.ping(service, "nobody")).catch((error) => error.constructor.name);

await connection.close();
console.log(JSON.stringify(seen));
