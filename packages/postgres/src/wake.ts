/**
 * The relay's door bell. Relays of this process are told at once; those of others by NOTIFY, sent
 * outside any transaction of the business, one at a time: what comes meanwhile is one more. Whatever
 * goes wrong here is swallowed, since it costs latency only: relays poll beneath.
 *
 * Uses plain timers: the storage has no clock, and nothing is decided by these.
 */
import { randomUUID } from "node:crypto";
import type { Wake } from "@oncebox/core";
import type { Connection, Connections } from "./connections.ts";
import { notifyScript } from "./outbox-queries.ts";
import { quoted } from "./queries.ts";

type Kind = "send" | "expect";
type Listener = Parameters<Wake["listen"]>[0];

/** Shortest time between two messages: under load relays look by themselves. */
const notifyEveryMs = 20;
/** A relay that was told to expect rows looks often for longer than this. */
const expectEveryMs = 500;
const reconnectMs = { first: 100, most: 5_000 };

export interface WakeOptions {
  readonly connections: Connections;
  readonly channel: string;
  /** How often the connection that listens is asked whether it still is one, in milliseconds. */
  readonly askEveryMs: number;
}

export function createWake(options: WakeOptions): Wake & { readonly close: () => Promise<void> } {
  const listeners = new Set<Listener>();
  // Messages of our own come back to us: our listeners were told already.
  const instance = randomUUID();
  const tell = (kind: Kind) => {
    for (const listener of listeners) {
      if (kind === "send") listener.woken();
      else listener.expected();
    }
  };
  const notifier = createNotifier(options, instance);
  const ear = createEar(options, (payload) => {
    const [kind, from] = payload.split(":");
    if (from !== instance && (kind === "send" || kind === "expect")) tell(kind);
  });
  return {
    send: () => {
      tell("send");
      notifier.notify("send");
    },
    expect: () => {
      tell("expect");
      notifier.notify("expect");
    },
    listen: async (listener) => {
      // An object of its own for each call: the same listener may be given twice.
      const entry = { ...listener };
      listeners.add(entry);
      await ear.open();
      return async () => {
        listeners.delete(entry);
        if (listeners.size === 0) await ear.close();
      };
    },
    close: async () => {
      listeners.clear();
      notifier.close();
      await ear.close();
    },
  };
}

function createNotifier({ connections, channel }: WakeOptions, instance: string) {
  let wanted: Kind | null = null;
  let running = false;
  let closed = false;
  let expectedAt = Number.NEGATIVE_INFINITY;
  const run = async () => {
    running = true;
    while (wanted !== null && !closed) {
      const kind = wanted;
      wanted = null;
      try {
        await connections.with("wake-up of relays", (connection) =>
          connection.script(notifyScript(channel, `${kind}:${instance}`)),
        );
      } catch {
        // Lost; the poll finds the rows.
      }
      await pause(notifyEveryMs);
    }
    running = false;
  };
  return {
    notify: (kind: Kind) => {
      if (kind === "expect") {
        const now = performance.now();
        if (now - expectedAt < expectEveryMs) return;
        expectedAt = now;
      }
      if (wanted !== "send") wanted = kind;
      if (!running && !closed) void run();
    },
    close: () => {
      closed = true;
    },
  };
}

/** One connection that listens, for all listeners of this process; made anew when it is lost. */
function createEar(options: WakeOptions, heard: (payload: string) => void) {
  const { connections, channel, askEveryMs } = options;
  let stop: (() => void) | null = null;
  let running: Promise<void> = Promise.resolve();
  let ready: Promise<void> = Promise.resolve();

  const listenOnce = async (stopped: Promise<void>, onReady: () => void) => {
    let connection: Connection | undefined;
    let asking: NodeJS.Timeout | undefined;
    const onMessage = (message: { channel: string; payload?: string | undefined }) => {
      if (message.channel === channel) heard(message.payload ?? "");
    };
    let onEnd = () => {};
    const ended = new Promise<void>((resolve) => {
      onEnd = resolve;
    });
    try {
      connection = await connections.acquire();
      const { client } = connection;
      client.on("error", onEnd).on("end", onEnd).on("notification", onMessage);
      await connection.script(`LISTEN ${quoted(channel)}`);
      onReady();
      // What was sent while nobody listened.
      heard("send:");
      // Who only listens never hears that nobody is there any more. The connection's end tells.
      const ask = () => void connection?.script("SELECT 1").catch(() => {});
      asking = setInterval(ask, askEveryMs).unref();
      await Promise.race([ended, stopped]);
      clearInterval(asking);
      if (!connection.lost()) await connection.script(`UNLISTEN ${quoted(channel)}`);
      client.removeListener("notification", onMessage);
      client.removeListener("error", onEnd).removeListener("end", onEnd);
      connection.release();
    } catch {
      connection?.destroy();
    } finally {
      clearInterval(asking);
    }
  };

  const run = async (stopped: Promise<void>, isStopped: () => boolean, onReady: () => void) => {
    let wait = reconnectMs.first;
    while (!isStopped()) {
      await listenOnce(stopped, () => {
        wait = reconnectMs.first;
        onReady();
      });
      // The first attempt may have failed: whoever asked goes on without an ear.
      onReady();
      if (isStopped()) return;
      await Promise.race([pause(wait), stopped]);
      wait = Math.min(wait * 2, reconnectMs.most);
    }
  };

  return {
    /** Resolves when it listens, or when the first attempt failed. */
    open: () => {
      if (stop !== null) return ready;
      let over = false;
      let resolve = () => {};
      const stopped = new Promise<void>((done) => {
        resolve = done;
      });
      stop = () => {
        over = true;
        resolve();
      };
      const previous = running;
      ready = new Promise((onReady) => {
        running = previous.then(() => run(stopped, () => over, onReady));
      });
      return ready;
    },
    close: async () => {
      stop?.();
      stop = null;
      await running;
    },
  };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}
