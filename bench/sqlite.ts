/**
 * On SQLite: a chunk of 100 synchronous handlers through the inbox ÷ the same statements in raw
 * transactions; and what a row of the outbox costs a transaction that exists anyway, native and knex.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createConsumer, createOutbox, defineTopic, text } from "@oncebox/core";
import { migrate, sqliteStorage } from "@oncebox/sqlite";
import { knexStorage } from "@oncebox/sqlite/knex";
import SqliteDatabase, { type Database } from "better-sqlite3";
import createKnex, { type Knex } from "knex";
import { compare, rate } from "./figures.ts";
import { drainRate, numberedRecords } from "./memory-feed.ts";
import { accounts } from "./raw-twin.ts";

const messages = 20_000;
const chunk = 100;
const transactions = 2_000;
const updateText = "UPDATE accounts SET total = total + 1 WHERE id = ?";
const topic = defineTopic({ name: "bench", value: text() });

async function withFile(work: (file: string, db: Database) => Promise<string>): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "oncebox-bench-"));
  const file = join(folder, "bench.db");
  const db = new SqliteDatabase(file);
  try {
    db.pragma("journal_mode = WAL");
    db.pragma("synchronous = FULL");
    await migrate(db);
    db.exec("CREATE TABLE accounts (id INTEGER PRIMARY KEY, total INTEGER NOT NULL DEFAULT 0)");
    const insert = db.prepare("INSERT INTO accounts (id) VALUES (?)");
    db.transaction(() => {
      for (let id = 0; id < accounts; id += 1) insert.run(id);
    })();
    return await work(file, db);
  } finally {
    db.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

export function sqliteChunk(): Promise<string> {
  return withFile(async (_, db) => {
    const update = db.prepare(updateText);
    const storage = sqliteStorage({ database: db });
    const inbox = () =>
      drainRate(numberedRecords(messages, accounts), (feed) =>
        createConsumer({ ...feed, storage, chunkSizeMax: chunk }).handle(topic, ({ value }) => {
          update.run(Number(value));
        }),
      );
    const raw = () =>
      rate(messages, async () => {
        for (let from = 0; from < messages; from += chunk) {
          db.exec("BEGIN IMMEDIATE");
          for (let i = from; i < from + chunk; i += 1) update.run(i % accounts);
          db.exec("COMMIT");
        }
      });
    const { ours, theirs, ratio } = await compare(7, inbox, raw);
    return `inbox ${ours.toFixed(0)}/s ÷ raw ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)} (chunks of ${chunk}, ids; raw is at least once)`;
  });
}

export function sqliteOutboxRow(): Promise<string> {
  return withFile(async (file, db) => {
    const message = topic.message({ key: "key", value: "x".repeat(300) });
    const update = db.prepare(updateText);
    const native = createOutbox({ storage: sqliteStorage({ database: db }) });
    const through = (enqueue: () => unknown) => () =>
      rate(transactions, async () => {
        for (let i = 0; i < transactions; i += 1) {
          db.exec("BEGIN IMMEDIATE");
          update.run(i % accounts);
          enqueue();
          db.exec("COMMIT");
        }
      });
    const own = await compare(
      5,
      through(() => native.enqueue(db, message)),
      through(() => undefined),
    );
    const connection = { filename: file };
    const knex = createKnex({ client: "better-sqlite3", connection, useNullAsDefault: true });
    try {
      const outbox = createOutbox({ storage: knexStorage(knex) });
      const throughKnex = (enqueue: (trx: Knex.Transaction) => Promise<unknown>) => () =>
        rate(transactions, async () => {
          for (let i = 0; i < transactions; i += 1) {
            await knex.transaction(async (trx) => {
              await trx.raw(updateText, [i % accounts]);
              await enqueue(trx);
            });
          }
        });
      const trx = await compare(
        5,
        throughKnex((tx) => outbox.enqueue(tx, message)),
        throughKnex(async () => {}),
      );
      return `with a row of the outbox ÷ bare transaction: native ${own.ours.toFixed(0)}/s ÷ ${own.theirs.toFixed(0)}/s = ${own.ratio.toFixed(2)}, knex ${trx.ours.toFixed(0)}/s ÷ ${trx.theirs.toFixed(0)}/s = ${trx.ratio.toFixed(2)}`;
    } finally {
      await knex.destroy();
    }
  });
}
