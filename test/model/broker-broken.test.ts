// A comparison that cannot fail shows nothing: here the memory broker is wrong on purpose, and
// scripts that the true one passes must turn red. No server is needed: the true model stands for it.

import type { Broker, ConsumerCallbacks } from "@oncebox/core";
import type { MemoryBroker } from "@oncebox/testing";
import { describe, expect, test } from "vitest";
import { chanced } from "./broker-generated.ts";
import { memoryContext } from "./broker-memory.ts";
import { runBroker } from "./broker-run.ts";
import type { BrokerScript } from "./broker-script.ts";
import { groupScripts } from "./broker-scripts-groups.ts";
import { logScripts } from "./broker-scripts-logs.ts";
import { firstDifference } from "./comparison.ts";

const scripts: readonly BrokerScript[] = [...logScripts, ...groupScripts];

interface Break {
  readonly change?: (broker: MemoryBroker) => void;
  readonly wrap?: (broker: Broker) => Broker;
}

/** Changes what a consumer is told, or what it answers. */
function hearing(change: (callbacks: ConsumerCallbacks) => Partial<ConsumerCallbacks>): Break {
  return {
    wrap: (broker) => ({
      ...broker,
      consumer: (options, callbacks) =>
        broker.consumer(options, { ...callbacks, ...change(callbacks) }),
    }),
  };
}

const breaks: Readonly<Record<string, Break>> = {
  "aborted and open records are handed out": {
    change: ({ faults }) => Object.assign(faults, { readUncommitted: true }),
  },
  "whoever commits an offset is believed": {
    change: ({ faults }) => Object.assign(faults, { onCommit: () => "accepted" }),
  },
  "offsets are stored, and said not to be": {
    change: ({ faults }) => Object.assign(faults, { onCommit: () => "reply-lost" }),
  },
  "offsets are said to be stored, and are lost": {
    wrap: (broker) => ({
      ...broker,
      consumer: async (options, callbacks) => {
        const consumer = await broker.consumer(options, callbacks);
        return { ...consumer, commit: async () => true };
      },
    }),
  },
  "nothing that was published is known to be stored": {
    change: ({ faults }) =>
      Object.assign(faults, { onPublish: () => ({ kind: "unknown-stored" }) }),
  },
  "a log is told by its name alone": hearing(({ position }) => ({
    position: (at) => {
      const asked = position(at);
      return asked === null ? null : { ...asked, topicId: null, leaderEpoch: null };
    },
  })),
  "the latest offset is the earliest": {
    wrap: (broker) => ({ ...broker, offsets: (topic) => broker.offsets(topic, "earliest") }),
  },
  "offsets of a group with members are set": {
    wrap: (broker) => ({
      ...broker,
      setGroupOffsets: (id, offsets) => broker.setGroupOffsets(id, offsets).catch(() => undefined),
    }),
  },
};

async function outcomes(script: BrokerScript, { change, wrap }: Break = {}) {
  const { context, close } = memoryContext(change, wrap);
  try {
    return await runBroker(script, context).catch((error: unknown) => [String(error)]);
  } finally {
    await close();
  }
}

/** The true ones do the same every time, and are asked once. */
const truths = new Map<BrokerScript, ReturnType<typeof outcomes>>();

function truthOf(script: BrokerScript): ReturnType<typeof outcomes> {
  const truth = truths.get(script) ?? outcomes(script);
  truths.set(script, truth);
  return truth;
}

async function redOf(made: Break, all: readonly BrokerScript[]): Promise<readonly string[]> {
  const red = await Promise.all(
    all.map(async (script) => {
      const [whole, broken] = [await truthOf(script), await outcomes(script, made)];
      return firstDifference(whole, broken) === null ? [] : [script.name];
    }),
  );
  return red.flat();
}

// Most of a script is waiting.
describe.concurrent("a wrong model", () => {
  test.each(Object.entries(breaks))("%s: turns scripts red", async (_, made) => {
    const red = await redOf(made, scripts);
    expect(red.length).toBeGreaterThan(0);
    // Nor does everything turn red: the difference is what was broken.
    expect(red.length).toBeLessThan(scripts.length);
  });

  test("is found by chance as well", async () => {
    const uncommitted = breaks["aborted and open records are handed out"] as Break;
    const found = await redOf(uncommitted, [1, 2, 3, 4, 5, 6].map(chanced));
    expect(found).not.toEqual([]);
  });

  test("the true one turns none red, in any of two runs", async () => {
    expect(await redOf({}, scripts)).toEqual([]);
  });
});
