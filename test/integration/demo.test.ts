// The demo as a user runs it right after an installation, without any server: it ends well, it ends
// badly where ids are not recorded, and it leaves nothing behind.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";

const root = join(import.meta.dirname, "..", "..");
const messages = 400;
/** Ten seconds are promised; the rest is for a machine on which other tests run as well. */
const enoughMs = 30_000;

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "oncebox-demo-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** By the script that users call, with no server within reach. */
function start(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const child = spawn("npm", ["run", "--silent", "demo", "--", ...args], {
    cwd: root,
    env: { ...process.env, DATABASE_URL: "", KAFKA_BROKERS: "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
    // A group of its own, so that an interruption reaches what npm has started, as on a terminal.
    detached: true,
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (text) => {
      output += text;
    });
  }
  const ended = once(child, "close").then(([code]) => ({ code: code as number, output }));
  return { child, ended, output: () => output };
}

/** The figures of the last line. */
function ledgerOf(output: string): Record<string, number> {
  const last = output.trimEnd().split("\n").at(-1) ?? "";
  expect(last, output).toMatch(
    /^ledger published=\d+ delivered=\d+ duplicates=-?\d+ applied=\d+ lost=\d+ doubled=\d+$/,
  );
  return Object.fromEntries(
    [...last.matchAll(/(\w+)=(-?\d+)/g)].map(([, name, value]) => [name, Number(value)]),
  );
}

test("has its three accidents, and ends with nothing lost and nothing doubled", async () => {
  const folder = temporaryFolder();
  const began = performance.now();
  const { code, output } = await start([], { TMPDIR: folder }).ended;
  expect(performance.now() - began).toBeLessThan(enoughMs);
  const ledger = ledgerOf(output);
  expect(ledger, output).toMatchObject({ applied: 2_000, lost: 0, doubled: 0 });
  expect(ledger.delivered).toBe(2_000 + (ledger.duplicates ?? 0));
  expect(ledger.published).toBeGreaterThan(2_000);
  expect(output).toMatch(/would have handled [1-9]\d* messages again/);
  expect(output).toMatch(/[1-9]\d* invoices were written in it; the database has none/);
  expect(output).toMatch(/has published the same [1-9]\d* ids again/);
  expect(code, output).toBe(0);
  expect(readdirSync(folder).filter((name) => name.startsWith("oncebox-demo-"))).toEqual([]);
});

test("ends with doubled orders and exit code 1 where ids are not recorded", async () => {
  const { code, output } = await start(["--messages", `${messages}`, "--break", "dedupe"]).ended;
  const ledger = ledgerOf(output);
  expect(ledger.doubled, output).toBeGreaterThan(0);
  expect(ledger.applied, output).toBe(messages + (ledger.doubled ?? 0));
  expect(ledger.lost, output).toBe(0);
  expect(code, output).toBe(1);
});

test("takes its files away when it is interrupted", async () => {
  const folder = temporaryFolder();
  const run = start(["--messages", `${messages}`], { TMPDIR: folder });
  const ours = () => readdirSync(folder).find((name) => name.startsWith("oncebox-demo-"));
  while (!run.output().includes("turns them into invoices")) {
    expect(run.child.exitCode, run.output()).toBe(null);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect(ours()).toBeDefined();
  process.kill(-(run.child.pid ?? 0), "SIGINT");
  expect((await run.ended).code).not.toBe(0);
  expect(ours()).toBeUndefined();
});

test("says what to do where better-sqlite3 cannot be loaded", async () => {
  const folder = temporaryFolder();
  const broken = join(folder, "broken.cjs");
  // As where scripts of packages are switched off: the module is there, its compiled part is not.
  writeFileSync(
    broken,
    `const Module = require("node:module");
     const load = Module._load;
     Module._load = (name, ...rest) => {
       if (name === "bindings") throw new Error("Could not locate the bindings file");
       return load(name, ...rest);
     };`,
  );
  const { code, output } = await start([], { NODE_OPTIONS: `--require ${broken}` }).ended;
  expect(existsSync(broken)).toBe(true);
  expect(output).toContain("demo: better-sqlite3 cannot be loaded: Could not locate the bindings");
  expect(output).toContain("npm rebuild better-sqlite3");
  expect(output).toContain("--servers");
  expect(code, output).toBe(1);
});

test.each([
  [["--mesages", "5"], "Unknown option '--mesages'"],
  [["extra"], "Unexpected argument 'extra'"],
  [["--messages", "many"], '--messages must be a whole number from 100 to 1000000, not "many"'],
  [["--break", "everything"], '--break must be fence or dedupe, not "everything"'],
  [["--break", "fence"], "--break fence needs --servers"],
])("refuses %j and says what it knows", async (args, error) => {
  const { code, output } = await start(args).ended;
  expect(output).toContain(`demo: ${error}`);
  expect(output).toContain("usage: npm run demo");
  expect(code).toBe(2);
});
