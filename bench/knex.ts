/**
 * What knex costs: a chunk of 100 awaited handlers through it ÷ the same statements through pg; and
 * what a row of the outbox costs a transaction that exists anyway, through each.
 */
import { createConsumer, createOutbox, defineTopic, text } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { knexStorage } from "@oncebox/postgres/knex";
import createKnex, { type Knex } from "knex";
import type { ClientBase, Pool } from "pg";
import { createDatabase } from "../test/fixtures/databases.ts";
import type { Servers } from "./bench.ts";
import { compare, rate } from "./figures.ts";
import { drainRate, numberedRecords } from "./memory-feed.ts";
import { accounts, createAccounts, updateText } from "./raw-twin.ts";

const messages = 10_000;
const chunk = 100;
const transactions = 2_000;

interface Sides {
  readonly pool: Pool;
  readonly knex: Knex;
}

async function between(
  { databaseUrl }: Servers,
  work: (sides: Sides) => Promise<string>,
): Promise<string> {
  const database = await createDatabase(databaseUrl);
  const pool = database.pool({ pipeline: true });
  const connection = { connectionString: database.url, pipeline: true };
  const knex = createKnex({ client: "pg", connection, pool: { min: 0, max: 10 } });
  try {
    await migrate(pool);
    await createAccounts(pool);
    return await work({ pool, knex });
  } finally {
    await knex.destroy();
    await database.drop();
  }
}

const topic = defineTopic({ name: "bench", value: text() });
const update = (account: number) => ({
  name: "raw_update",
  text: updateText,
  values: [account],
});

export function knexAgainstPg(servers: Servers): Promise<string> {
  return between(servers, async ({ pool, knex }) => {
    const records = numberedRecords(messages, accounts);
    const { ours, theirs, ratio } = await compare(
      7,
      () =>
        drainRate(records, (feed) =>
          createConsumer({ ...feed, storage: knexStorage(knex), chunkSizeMax: chunk }).handle(
            topic,
            async ({ value }, trx) => {
              await trx.raw(updateText.replace("$1", "?"), [Number(value)]);
            },
          ),
        ),
      () =>
        drainRate(records, (feed) =>
          createConsumer({
            ...feed,
            storage: postgresStorage({ pool }),
            chunkSizeMax: chunk,
          }).handle(topic, async ({ value }, tx) => {
            // Not prepared, as knex sends it.
            await tx.query(updateText, [Number(value)]);
          }),
        ),
    );
    return `knex ${ours.toFixed(0)}/s ÷ pg ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)} (chunks of ${chunk}, awaited, ids)`;
  });
}

export function outboxRow(servers: Servers): Promise<string> {
  return between(servers, async ({ pool, knex }) => {
    const message = topic.message({ key: "key", value: "x".repeat(300) });
    const many = async (one: (i: number) => Promise<void>) =>
      rate(transactions, async () => {
        for (let i = 0; i < transactions; i += 1) await one(i % accounts);
      });
    const throughPg = (enqueue: (tx: ClientBase) => Promise<unknown>) => () =>
      many(async (account) => {
        const client = await pool.connect();
        await client.query("BEGIN");
        await client.query(update(account));
        await enqueue(client);
        await client.query("COMMIT");
        client.release();
      });
    const throughKnex = (enqueue: (trx: Knex.Transaction) => Promise<unknown>) => () =>
      many((account) =>
        knex.transaction(async (trx) => {
          await trx.raw(updateText.replace("$1", "?"), [account]);
          await enqueue(trx);
        }),
      );
    const nothing = async () => {};
    const pgOutbox = createOutbox({ storage: postgresStorage({ pool }) });
    const knexOutbox = createOutbox({ storage: knexStorage(knex) });
    const pg = await compare(
      5,
      throughPg((tx) => pgOutbox.enqueue(tx, message)),
      throughPg(nothing),
    );
    const trx = await compare(
      5,
      throughKnex((tx) => knexOutbox.enqueue(tx, message)),
      throughKnex(nothing),
    );
    return `with a row of the outbox ÷ bare transaction: pg ${pg.ours.toFixed(0)}/s ÷ ${pg.theirs.toFixed(0)}/s = ${pg.ratio.toFixed(2)}, knex ${trx.ours.toFixed(0)}/s ÷ ${trx.theirs.toFixed(0)}/s = ${trx.ratio.toFixed(2)}`;
  });
}
