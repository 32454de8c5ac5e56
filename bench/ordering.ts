/**
 * Handlers of two statements: those of different keys at once in a chunk, or all in one call of
 * set-based SQL ÷ the same statements one after another without an inbox; next to the server, and with
 * a wire in between. And a topic of which some keys are parked ÷ one of which none is.
 */
import { createConsumer, defineTopic, text } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { knexStorage } from "@oncebox/postgres/knex";
import createKnex from "knex";
import type { Pool } from "pg";
import { spawnWorker } from "../test/fixtures/child.ts";
import { createDatabase } from "../test/fixtures/databases.ts";
import type { Servers } from "./bench.ts";
import { compare, median, rate } from "./figures.ts";
import { drainRate, numberedRecords } from "./memory-feed.ts";
import { accounts, createAccounts, updateText } from "./raw-twin.ts";

const usualChunk = 100;
const largeChunk = 250;
const topic = defineTopic({ name: "bench", value: text() });
const bookText = "INSERT INTO bookings (account, amount) VALUES ($1, 1)";

/** One transaction per chunk, each message two awaited statements: at least once. */
async function rawTwo(pool: Pool, messages: number, chunk: number): Promise<void> {
  for (let from = 0; from < messages; from += chunk) {
    const client = await pool.connect();
    try {
      await client.query("BEGIN");
      for (let i = from; i < from + chunk; i += 1) {
        await client.query({ name: "raw_update", text: updateText, values: [i % accounts] });
        await client.query({ name: "raw_book", text: bookText, values: [i % accounts] });
      }
      await client.query("COMMIT");
    } finally {
      client.release();
    }
  }
}

async function placed<R>(
  { databaseUrl }: Servers,
  far: boolean,
  work: (at: { readonly pool: Pool; readonly url: string }) => Promise<R>,
): Promise<R> {
  const database = await createDatabase(databaseUrl);
  const near = database.pool({ max: 2 });
  await migrate(near);
  await createAccounts(near);
  await near.query("CREATE TABLE bookings (account int NOT NULL, amount int NOT NULL)");
  const own = new URL(database.url);
  const wire = far
    ? spawnWorker(new URL("wire-worker.ts", import.meta.url), { env: { TARGET_PORT: own.port } })
    : null;
  try {
    if (wire !== null) {
      const { data } = await wire.waitFor("listening");
      Object.assign(own, { hostname: "127.0.0.1", port: String(data?.port) });
    }
    const pool = database.pool({ pipeline: true, connectionString: own.href } as object);
    return await work({ pool, url: own.href });
  } finally {
    await database.drop();
    wire?.kill();
    await wire?.exited;
  }
}

export const byKey = (servers: Servers) => pgByKey(servers, false, 10_000);
export const byKeyLarge = (servers: Servers) => pgByKey(servers, false, 10_000, largeChunk);
export const byKeyFar = (servers: Servers) => pgByKey(servers, true, 5_000);

async function pgByKey(
  servers: Servers,
  far: boolean,
  messages: number,
  chunk = usualChunk,
): Promise<string> {
  return placed(servers, far, async ({ pool }) => {
    const storage = postgresStorage({ pool });
    const records = numberedRecords(messages, accounts);
    const ours = () =>
      drainRate(records, (feed) =>
        createConsumer({ ...feed, storage, chunkSizeMax: chunk }).handle(
          topic,
          async ({ value }, tx) => {
            await tx.query({ name: "raw_update", text: updateText, values: [Number(value)] });
            await tx.query({ name: "raw_book", text: bookText, values: [Number(value)] });
          },
          { ordering: "key" },
        ),
      );
    return told(
      `pg, chunks of ${chunk}`,
      far,
      await pingMs(pool),
      await twins(ours, pool, messages, chunk),
    );
  });
}

export const byKeyKnex = (servers: Servers) => knexByKey(servers, false, 10_000);
export const byKeyKnexLarge = (servers: Servers) => knexByKey(servers, false, 10_000, largeChunk);
export const byKeyKnexFar = (servers: Servers) => knexByKey(servers, true, 5_000);

async function knexByKey(
  servers: Servers,
  far: boolean,
  messages: number,
  chunk = usualChunk,
): Promise<string> {
  return placed(servers, far, async ({ pool, url }) => {
    const connection = { connectionString: url, pipeline: true };
    const knex = createKnex({ client: "pg", connection, pool: { min: 0, max: 10 } });
    try {
      const storage = knexStorage(knex);
      const records = numberedRecords(messages, accounts);
      const ours = () =>
        drainRate(records, (feed) =>
          createConsumer({ ...feed, storage, chunkSizeMax: chunk }).handle(
            topic,
            async ({ value }, trx) => {
              await trx.raw(updateText.replace("$1", "?"), [Number(value)]);
              await trx.raw(bookText.replace("$1", "?"), [Number(value)]);
            },
            { ordering: "key" },
          ),
        );
      return told(
        `knex, chunks of ${chunk}`,
        far,
        await pingMs(pool),
        await twins(ours, pool, messages, chunk),
      );
    } finally {
      await knex.destroy();
    }
  });
}

export async function batches(servers: Servers): Promise<string> {
  const messages = 10_000;
  return placed(servers, false, async ({ pool }) => {
    const storage = postgresStorage({ pool });
    const records = numberedRecords(messages, accounts);
    const ours = () =>
      drainRate(records, (feed) =>
        createConsumer({ ...feed, storage, chunkSizeMax: usualChunk }).handleBatch(
          topic,
          async (all, tx) => {
            const ids = all.map(({ value }) => Number(value));
            await tx.query(
              "UPDATE accounts a SET total = total + n FROM (SELECT id, count(*) AS n FROM unnest($1::int[]) AS u (id) GROUP BY id) g WHERE a.id = g.id",
              [ids],
            );
            await tx.query(
              "INSERT INTO bookings (account, amount) SELECT id, 1 FROM unnest($1::int[]) AS u (id)",
              [ids],
            );
          },
        ),
      );
    return told(
      `batch, chunks of ${usualChunk}`,
      false,
      await pingMs(pool),
      await twins(ours, pool, messages, usualChunk),
    );
  });
}

/** Keys of which a message is dead, so that all that follows of them is parked behind it. */
const parkedKeys = 100;

export async function parkedAgainstNone(servers: Servers): Promise<string> {
  const messages = 10_000;
  return placed(servers, false, async ({ pool }) => {
    const storage = postgresStorage({ pool });
    const records = numberedRecords(messages, accounts);
    const side = (parked: number) => () => {
      // The first ones fail for good. In what is measured, one in a hundred is of such a key.
      const first = numberedRecords(parkedKeys, parkedKeys).map((record) => ({
        ...record,
        key: Buffer.from(`bad ${record.offset}`),
        value: Buffer.from(record.offset < BigInt(parked) ? "-1" : "0"),
      }));
      const rest = records.map((record, i) => ({
        ...record,
        offset: record.offset + BigInt(parkedKeys),
        key: i % 100 === 0 ? Buffer.from(`bad ${(i / 100) % parkedKeys}`) : record.key,
      }));
      return drainRate(
        [...first, ...rest],
        (feed) =>
          createConsumer({ ...feed, storage, chunkSizeMax: usualChunk }).handle(
            topic,
            async ({ value }, tx) => {
              if (value === "-1") throw new TypeError("bad");
              await tx.query({ name: "raw_update", text: updateText, values: [Number(value)] });
            },
            { retry: { localAttemptsMax: 1, attemptsMax: 1 } },
          ),
        parkedKeys,
      );
    };
    const { ours, theirs, ratio } = await compare(5, side(parkedKeys), side(0));
    return `${parkedKeys} keys parked before ${ours.toFixed(0)}/s ÷ none ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)}`;
  });
}

const twins = (ours: () => Promise<number>, pool: Pool, messages: number, chunk: number) =>
  compare(5, ours, () => rate(messages, () => rawTwo(pool, messages, chunk)));

async function pingMs(pool: Pool): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < 50; i += 1) {
    const began = performance.now();
    await pool.query("SELECT 1");
    times.push(performance.now() - began);
  }
  return median(times);
}

function told(
  what: string,
  far: boolean,
  roundTripMs: number,
  {
    ours,
    theirs,
    ratio,
  }: { readonly ours: number; readonly theirs: number; readonly ratio: number },
): string {
  const where = `${far ? "over a wire" : "loopback"}, round trip ${roundTripMs.toFixed(2)} ms`;
  return `${what} ${ours.toFixed(0)}/s ÷ raw one after another ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)} (two statements, ids; ${where})`;
}
