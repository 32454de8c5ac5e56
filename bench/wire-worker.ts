/**
 * A wire of half a millisecond there and back, in a process of its own: whole milliseconds, which a
 * timer of Node can wait for, are a far network already. Says its port.
 */
import { connect, createServer, type Socket } from "node:net";
import { stepLog } from "../test/fixtures/step-log.ts";

const { TARGET_PORT = "" } = process.env;
const oneWayMs = 0.25;
/** The longest sleep between two looks at what has arrived meanwhile. */
const napMs = 0.05;

interface OnItsWay {
  readonly dueAt: number;
  readonly arrive: () => void;
}

const wire: OnItsWay[] = [];
const still = new Int32Array(new SharedArrayBuffer(4));

function send(arrive: () => void): void {
  wire.push({ dueAt: performance.now() + oneWayMs, arrive });
  if (wire.length === 1) setImmediate(pass);
}

function pass(): void {
  for (let next = wire[0]; next !== undefined; next = wire[0]) {
    const leftMs = next.dueAt - performance.now();
    if (leftMs > 0) {
      Atomics.wait(still, 0, 0, Math.min(leftMs, napMs));
      setImmediate(pass);
      return;
    }
    wire.shift();
    next.arrive();
  }
}

function carry(from: Socket, to: Socket): void {
  from.setNoDelay(true);
  from.on("data", (bytes) => send(() => to.write(bytes)));
  from.on("end", () => send(() => to.end()));
  from.on("error", () => to.destroy());
}

const listener = createServer((client) => {
  const server = connect(Number(TARGET_PORT), "127.0.0.1");
  carry(client, server);
  carry(server, client);
});
listener.listen(0, "127.0.0.1", () => {
  const address = listener.address();
  stepLog()("listening", { port: typeof address === "object" ? address?.port : null });
});
