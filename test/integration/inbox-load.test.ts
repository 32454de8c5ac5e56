/**
 * Good and bad messages by the thousand, and a database that goes away under them. WHOLE_SUITES=1 runs
 * 100,000 messages and an outage of 30 s.
 */

import { setTimeout as delay } from "node:timers/promises";
import { createOperator } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { startPostgres } from "../fixtures/postgres.ts";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const whole = process.env.WHOLE_SUITES === "1";
const messages = whole ? 100_000 : 10_000;
const outageMs = whole ? 30_000 : 8_000;
const partitions = 4;
/** Few of them stand behind one that fails. */
const keys = messages / 5;

interface Numbered {
  readonly key: string;
  readonly value: string;
}

/** Message n is the next one of key n modulo keys; all of a key lie in one partition. */
const numbered = (n: number): Numbered => ({ key: `k${n % keys}`, value: String(n) });

async function produceAll(s: Scene): Promise<void> {
  const batch = 5_000;
  for (let from = 0; from < messages; from += batch) {
    for (let partition = 0; partition < partitions; partition += 1) {
      const list: Numbered[] = [];
      for (let n = from; n < from + batch; n += 1) {
        if ((n % keys) % partitions === partition) list.push(numbered(n));
      }
      await s.produce(partition, ...list);
    }
  }
}

async function effectsBecome(s: Scene, count: number): Promise<readonly number[]> {
  for (;;) {
    const { rows } = await s.pool.query<{ n: number }>("SELECT count(*)::int AS n FROM effects");
    if ((rows[0]?.n ?? 0) >= count) return (await s.effects()).map(Number);
    await delay(100);
  }
}

/** The messages of each key as they took effect. */
function byKey(effects: readonly number[]): ReadonlyMap<number, readonly number[]> {
  const found = new Map<number, number[]>();
  for (const n of effects) found.set(n % keys, [...(found.get(n % keys) ?? []), n]);
  return found;
}

describe.skipIf(!hasKafka())("under load", () => {
  it(`${messages} messages, 1 % fail for a while, 0.1 % for ever: all others flow, in order`, {
    timeout: whole ? 600_000 : 120_000,
  }, async () => {
    // Guards: a partition that waits for its bad messages; a message handled behind one of its key.
    await using s = await scene({ partitions });
    const forAWhile = (n: number) => n % 100 === 7;
    const forEver = (n: number) => n % 1_000 === 13;
    const consumer = s.bareConsumer({ redriveIntervalMs: 20, partitionsAtOnceMax: 4 }).handle(
      textTopic(s.topic),
      async ({ value }, tx, { attempt }) => {
        const n = Number(value);
        if (forEver(n) || (forAWhile(n) && attempt < 4)) throw new Error("not now");
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
      },
      {
        ordering: "key",
        retry: {
          ...{ localAttemptsMax: 2, localBackoffMs: 1, attemptsMax: 5 },
          ...{ redriveBackoffMs: 1, redriveBackoffMaxMs: 10 },
        },
      },
    );
    await produceAll(s);
    const all = Array.from({ length: messages }, (_, n) => n);
    const stuck = new Set(all.filter(forEver).map((n) => n % keys));
    const firstBad = (n: number) =>
      all.slice(0, n + 1).find((m) => m % keys === n % keys && forEver(m));
    const applied = new Set(all.filter((n) => !stuck.has(n % keys) || firstBad(n) === undefined));
    await consumer.start();
    const effects = await effectsBecome(s, applied.size);
    expect(new Set(effects)).toEqual(applied);
    expect(effects).toHaveLength(applied.size);
    for (const list of byKey(effects).values()) {
      expect(list).toEqual([...list].sort((a, b) => a - b));
    }
    await s.ear.waitFor("inbox.redrive-failed", ({ state }) => state === "dead");
    const operator = createOperator({ storage: s.storage, broker: s.broker, actor: "a test" });
    const left = await operator.parked({ consumer: s.name, limit: 1_000 });
    expect(left.length).toBe(Math.min(1_000, messages - applied.size));
  });

  it(`B5: PostgreSQL is away for ${outageMs / 1_000} s under load: no attempt is spent, it goes on unaided`, {
    timeout: 180_000,
  }, async () => {
    // Guards: mass parking in an outage, and a consumer that a person has to start again.
    const server = await startPostgres();
    try {
      await using s = await scene({ server: server.url, partitions });
      const consumer = s.consumer({ partitionsAtOnceMax: 4 });
      await produceAll(s);
      await consumer.start();
      await effectsBecome(s, messages / 20);
      await server.stopAbruptly();
      await s.ear.waitFor("inbox.chunk-rerun", ({ rerun }) => rerun >= 3);
      expect(consumer.health()).toMatchObject({ ready: false, live: true });
      await delay(outageMs);
      await server.restart();
      const effects = await effectsBecome(s, messages);
      expect([...effects].sort((a, b) => a - b)).toEqual(
        Array.from({ length: messages }, (_, n) => n),
      );
      for (const list of byKey(effects).values()) {
        expect(list).toEqual([...list].sort((a, b) => a - b));
      }
      const { rows } = await s.pool.query("SELECT DISTINCT attempt FROM effects");
      expect(rows).toEqual([{ attempt: 1 }]);
      const types = new Set(s.ear.heard.map(({ type }) => type));
      expect(types.has("inbox.blocked") || types.has("inbox.parked")).toBe(false);
    } finally {
      await server.stop();
    }
  });
});
