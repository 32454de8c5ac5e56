// The demo on real servers, as a user runs it, on the shared ones: it ends well, it ends badly where a mechanism
// is taken out, and it leaves nothing behind.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import { describe, expect, inject, test } from "vitest";
import { hasKafka, testKafka } from "../fixtures/servers.ts";

const demo = fileURLToPath(new URL("../../examples/demo/demo.ts", import.meta.url));
const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
const timeoutMs = 180_000;
const messages = 240;

function start(...args: string[]) {
  const child = spawn(process.execPath, ["--import", tsx, demo, "--servers", ...args], {
    env: {
      ...process.env,
      DATABASE_URL: inject("databaseUrl"),
      KAFKA_BROKERS: (inject("kafkaBrokers") ?? []).join(","),
    },
    stdio: ["ignore", "pipe", "pipe"],
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

describe.skipIf(!hasKafka())("the demo", () => {
  test("ends with nothing lost and nothing doubled", {
    timeout: timeoutMs,
  }, async () => {
    const { code, output } = await start("--messages", String(messages)).ended;
    const ledger = ledgerOf(output);
    expect(ledger, output).toMatchObject({ applied: messages, lost: 0, doubled: 0 });
    expect(ledger.delivered).toBe(messages + (ledger.duplicates ?? 0));
    expect(ledger.duplicates).toBeGreaterThan(0);
    expect(ledger.published).toBeGreaterThanOrEqual(messages);
    expect(code, output).toBe(0);
  });

  test.each(["fence", "dedupe"])(
    "ends with doubled orders and exit code 1 where %s is broken",
    { timeout: timeoutMs },
    async (broken) => {
      const { code, output } = await start("--messages", String(messages), "--break", broken).ended;
      const ledger = ledgerOf(output);
      expect(ledger.doubled, output).toBeGreaterThan(0);
      expect(ledger.lost, output).toBe(0);
      expect(code, output).toBe(1);
    },
  );

  test("takes everything down when it is interrupted", { timeout: timeoutMs }, async () => {
    const run = start("--messages", String(messages));
    while (!run.output().includes("workers turn them")) {
      expect(run.child.exitCode, run.output()).toBe(null);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    run.child.kill("SIGINT");
    expect(await run.ended).toMatchObject({ code: 130 });
    const admin = testKafka().admin();
    await admin.connect();
    const topics = await admin.listTopics();
    await admin.disconnect();
    expect(topics.filter((topic) => topic.startsWith("orders-placed"))).toEqual([]);
  });
});
