/**
 * Pauses that follow from a seed, before a handler begins and behind each answer it gets: handlers of
 * one transaction meet in other orders than a fast database shows. Changes nothing of what they do.
 */
import { type Handler, systemClock } from "@oncebox/core";
import { seededRandom } from "./manual-clock.ts";
import { standsFor } from "./memory-storage/memory-tx.ts";

/**
 * Longest pauses of a handler, in milliseconds; each draws one of them. Far apart, so that a quick one
 * with many statements also meets a slow one with few.
 */
const pacesMs = [0, 1, 4, 16];

type Pause = () => Promise<void>;
type Call = (...args: unknown[]) => unknown;

/** The same handler with pauses. Those of a message depend on the seed and its offset alone. */
export function stirred<Tx>(handler: Handler<Tx>, seed: number): Handler<Tx> {
  return {
    topic: handler.topic,
    run: async (message, tx, context) => {
      const random = seededRandom(seed + Math.imul(Number(message.offset) + 1, 0x9e37_79b1));
      const paceMs = pacesMs[Math.floor(random() * pacesMs.length)] ?? 0;
      const pause = async () => {
        if (paceMs > 0) await systemClock.sleep(random() * paceMs, context.signal);
      };
      await pause();
      await handler.run(message, slowed(tx, pause), context);
    },
  };
}

/** Whatever the handle's calls answer comes later. It stands for the handle wherever one is taken. */
function slowed<Tx>(tx: Tx, pause: Pause): Tx {
  const isHandle = (typeof tx === "object" && tx !== null) || typeof tx === "function";
  if (!isHandle) return tx;
  const target = tx as Tx & object;
  // knex's handle is a function, and its verbs have properties of their own.
  const called = (verb: Call, on: unknown): Call =>
    new Proxy(verb, { apply: (_, __, args) => answerOf(Reflect.apply(verb, on, args), pause) });
  const slow = new Proxy(target, {
    apply: (verb, _, args) => answerOf(Reflect.apply(verb as Call, undefined, args), pause),
    get: (_, property) => {
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === "function" && property !== "constructor"
        ? called(value as Call, target)
        : value;
    },
  });
  standsFor(slow, target);
  return slow;
}

/** A promise comes later; so does what is sent when somebody waits for it, as knex's builders are. */
function answerOf(answer: unknown, pause: Pause): unknown {
  if (answer instanceof Promise) return later(answer, pause);
  if (typeof answer !== "object" || answer === null) return answer;
  const waited = answer as { then?: unknown };
  const { then } = waited;
  if (typeof then !== "function") return answer;
  // biome-ignore lint/suspicious/noThenProperty: it has one, and its verbs return the builder itself.
  waited.then = (...told: Parameters<Promise<unknown>["then"]>) =>
    later(new Promise((resolve, reject) => then.call(answer, resolve, reject)), pause).then(
      ...told,
    );
  return answer;
}

async function later(answer: Promise<unknown>, pause: Pause): Promise<unknown> {
  try {
    return await answer;
  } finally {
    await pause();
  }
}
