// The application on Moleculer, and moleculer-web as its gateway: `moleculer.js service`, `moleculer.js gateway PORT`.
"use strict";

const { Readable } = require("node:stream");
const { ServiceBroker } = require("moleculer");

const ITEM = {
  name: "a thing with a name",
  description: "x".repeat(96),
  price: 12.5,
  tags: ["a", "b", "c"],
  stock: 1234567,
};
const BLOBS = new Map([102400, 921600].map((size) => [size, "b".repeat(size)])); // it sends text as JSON
const SCHEMA = {
  id: "number",
  name: "string",
  description: "string",
  price: "number",
  tags: { type: "array", items: "string" },
  stock: "number",
};

const role = process.argv[2];
const broker = new ServiceBroker({
  nodeID: `${role}-${process.pid}`,
  transporter: process.env.NATS_URL,
  logger: false,
  requestTimeout: 10000,
});

if (role === "service") {
  broker.createService({
    name: "bench",
    actions: {
      item: { params: { id: { type: "number", convert: true } }, handler: (ctx) => ({ id: ctx.params.id, ...ITEM }) },
      echo: { params: SCHEMA, handler: (ctx) => ctx.params },
      down: (ctx) => {
        ctx.meta.$responseType = "application/octet-stream";
        return BLOBS.get(Number(ctx.params.size));
      },
      events: (ctx) => {
        ctx.meta.$responseType = "text/event-stream";
        const stream = new Readable({ read() {} });
        const timer = setInterval(() => stream.push(`data: ${"e".repeat(100)}\n\n`), 50);
        stream.on("close", () => clearInterval(timer));
        return stream;
      },
      up: (ctx) => ctx.params.body.length,
    },
  });
} else {
  broker.createService({
    mixins: [require("moleculer-web")],
    settings: {
      port: Number(process.argv[3]),
      ip: "127.0.0.1",
      routes: [
        {
          path: "/blobs",
          mappingPolicy: "restrict",
          mergeParams: false,
          aliases: { "POST /": "bench.up" },
          bodyParsers: { text: { type: "application/octet-stream", limit: "2mb" } },
        },
        {
          path: "/",
          mappingPolicy: "restrict",
          aliases: {
            "GET items/:id": "bench.item",
            "POST items": "bench.echo",
            "GET blobs/:size": "bench.down",
            "GET events": "bench.events",
          },
          bodyParsers: { json: true },
        },
      ],
    },
  });
}

broker.start().catch((error) => {
  console.error(error);
  process.exit(1);
});
