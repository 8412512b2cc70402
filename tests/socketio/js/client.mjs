// socket.io-client against our server: prints what it saw as JSON. Usage: node client.mjs URL
import { io } from "socket.io-client";

const url = process.argv[2];
const transportsOfRuns = [["polling"], ["websocket"], ["polling", "websocket"]];
const raw = { image: { bytes: Buffer.alloc(1920 * 1080 * 3), dtype: "uint8", shape: [1080, 1920, 3] }, tags: ["é"] };
const jpeg = { image: Buffer.concat([Buffer.from([0xff, 0xd8]), Buffer.alloc(256 * 800, 7)]), camera_id: "front" };

function connected(socket) {
  return new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
  });
}

async function upgraded(socket) {
  // its event may come before that of the connection
  while (socket.io.engine.transport.name !== "websocket") await new Promise((resolve) => setTimeout(resolve, 10));
}

async function run(transports) {
  const socket = io(url, { path: "/ws/socket.io", transports, reconnection: false, extraHeaders: { project: "p" } });
  socket.on("question", (number, blob, ack) => {
    ack({ number: number + 1, blob: Buffer.concat([blob, Buffer.from("!")]) });
  });
  await connected(socket);
  if (transports.length === 2) await upgraded(socket);
  const call = (event, ...args) => socket.timeout(20000).emitWithAck(event, ...args);
  socket.emit("upload", jpeg);
  const asked = await call("ask_me");
  const seen = {
    raw: await call("detect", raw),
    jpeg: await call("detect", jpeg),
    batch: await call("detect", { images: [Buffer.from("1"), { bytes: Buffer.from("22") }], image: Buffer.from("333") }),
    asked: { ...asked, blob: asked.blob.toString() },
    unknown: await call("no such event"),
    nothing: (await call("nothing")) ?? null,
    several: await new Promise((resolve) => socket.emit("several", 1, "two", (...values) => resolve(values))),
    transport: socket.io.engine.transport.name,
  };
  const stranger = socket.io.socket("/admin");
  const refusal = connected(stranger).catch((error) => error);
  stranger.connect();
  seen.refusal = (await refusal).message;
  const reason = new Promise((resolve) => socket.once("disconnect", resolve));
  socket.disconnect();
  stranger.disconnect();
  seen.reason = await reason;
  return seen;
}

const results = [];
for (const transports of transportsOfRuns) results.push(await run(transports));
console.log(JSON.stringify(results));
process.exit(0);
