/**
 * docs/getting-started.md, followed by somebody who has an empty folder, PostgreSQL, Kafka and no
 * other text: its commands, its programs, and where it says to look. Nothing is fetched, so npm is
 * given the tarballs that would be released. The program without servers is run by
 * test/checks/packages.test.ts.
 */
import { mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { blocksIn, read, sectionOf } from "../checks/documents.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { type Guard, type GuardedProcess, openGuard } from "../fixtures/guard.ts";
import { environmentIn, type Packed, packAll, run, sourceOf } from "../fixtures/packed.ts";
import { hasKafka, testDatabase, uniqueName } from "../fixtures/servers.ts";

const path = "docs/getting-started.md";
const patienceMs = 60_000;
const databases: TestDatabase[] = [];
let guard: Guard;
let temp: string;
let environment: Readonly<Record<string, string>>;
let packed: readonly Packed[] = [];

/** A newcomer's commands; `npm install` gets each package from here. */
function shell(folder: string, commands = ""): void {
  const here = commands.replace(/^npm install .*$/gm, (line) =>
    line.replace(/(?<= )(?!install\b)[\w@][\w@/-]*/g, (name) => sourceOf(name, temp, packed)),
  );
  run(folder, environment, "sh", "-ec", here);
}

/** Takes the place of what others on these servers may have, too; it must be there once. */
function renamed(code: string, literal: string): string {
  expect(code.split(`"${literal}"`)).toHaveLength(2);
  return code.replace(`"${literal}"`, `"${uniqueName(literal)}"`);
}

/** Starts a program as the document says, with other addresses in the place of its examples. */
function start(folder: string, commands: string, servers: Readonly<Record<string, string>>) {
  const said = new Set<string>();
  const here = commands.replace(/^export (\w+)=.*$/gm, (_, name: string) => {
    said.add(name);
    return `export ${name}='${servers[name]}'`;
  });
  expect([...said].sort()).toEqual(Object.keys(servers).sort());
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  return guard.run({
    command: "env",
    // A shell that Ctrl-C does not end, as the one that somebody types in.
    args: ["-i", ...variables, "sh", "-ec", `trap : INT\n${here}`],
    cwd: folder,
    log: join(folder, "printed.log"),
    stopSignal: "SIGKILL",
  });
}

/** Resolves when the program has printed the pattern so many times; fails where it ends before. */
async function printed(folder: string, program: GuardedProcess, pattern: RegExp, times: number) {
  const log = () => readFileSync(join(folder, "printed.log"), "utf8");
  const found = () => (program.exit() ? log() : [...log().matchAll(pattern)].length);
  await expect.poll(found, { timeout: patienceMs, interval: 100 }).toBe(times);
}

beforeAll(async () => {
  guard = openGuard();
  temp = realpathSync(await guard.makeFolder(join(tmpdir(), "oncebox-newcomer-")));
  // Where the servers are is said in the document, or not at all.
  const { DATABASE_URL: _url, KAFKA_BROKERS: _brokers, ...others } = environmentIn(temp);
  environment = others;
  packed = packAll(temp);
});

afterAll(async () => {
  await guard.close();
  await Promise.all(databases.map((database) => database.drop()));
});

describe.skipIf(!hasKafka())(path, { timeout: 180_000 }, () => {
  it.each(["node-postgres and Kafka", "knex and Kafka"])("%s", async (heading) => {
    const database = await testDatabase();
    databases.push(database);
    const empty = join(temp, heading.replaceAll(" ", "-"));
    const folder = join(empty, "shop");
    mkdirSync(empty);
    const section = sectionOf(path, heading);
    const [install, go = ""] = blocksIn(section, "sh");
    shell(empty, blocksIn(read(path), "sh")[0]);
    shell(folder, install);
    const file = /Save this as `(.*?)`/.exec(section)?.[1] ?? "";
    const [program = ""] = blocksIn(section, "ts");
    writeFileSync(join(folder, file), renamed(renamed(program, "orders.placed"), "billing"));

    const servers = {
      DATABASE_URL: database.url,
      KAFKA_BROKERS: (inject("kafkaBrokers") ?? []).join(","),
    };
    const shop = await start(folder, go, servers);
    await printed(folder, shop, /type: 'inbox\.claimed'/g, 6);
    await printed(folder, shop, /type: 'inbox\.chunk-committed',[^}]*\bapplied: 1,/g, 1);

    const pool = database.pool();
    const looks = sectionOf(path, "How to see that it works").matchAll(/`(SELECT [^`]+)`/g);
    const [invoices, positions] = await Promise.all(
      [...looks].map(([, sql = ""]) => pool.query(sql)),
    );
    const { rows: orders } = await pool.query("SELECT id AS order_id, total FROM orders");
    expect(orders).toHaveLength(1);
    expect(invoices?.rows).toEqual(orders);
    const offsets = positions?.rows.map((row: { next_offset: string }) => row.next_offset);
    expect(offsets?.sort()).toEqual(["0", "0", "0", "0", "0", "1"]);
    const left = () => pool.query("SELECT FROM oncebox.outbox_messages");
    await expect.poll(async () => (await left()).rowCount).toBe(0);

    // Ctrl-C goes to all that the shell has started.
    process.kill(-shop.pid, "SIGINT");
    await shop.waitForExit();
    // The last step of a consumer that stops in order.
    expect(readFileSync(join(folder, "printed.log"), "utf8")).toMatch(
      /'inbox\.offsets-committed'[^}]*ok: true\s+}\s*$/,
    );
  });
});
