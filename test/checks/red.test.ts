/**
 * Guards the road from a failed test to exit code 1: through vitest, `npm test` and `.ci/run`. A
 * server or a reporter that resets the exit code would make every other test worthless.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterAll, expect, it } from "vitest";

const root = join(import.meta.dirname, "..", "..");
const red = ["--config", "test/fixtures/red-suite/vitest.config.ts"];
const skipping = ["--config", "test/fixtures/red-suite/skipping.config.ts"];

/** An npm that does not install (this tree is in use), and does everything else. */
const folder = mkdtempSync(join(tmpdir(), "oncebox-red-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const realNpm = spawnSync("sh", ["-c", "command -v npm"], { encoding: "utf8" }).stdout.trim();
writeFileSync(join(folder, "npm"), `#!/bin/sh\n[ "$1" = ci ] || exec "${realNpm}" "$@"\n`);
chmodSync(join(folder, "npm"), 0o755);

function run(command: string, args: readonly string[], env: Readonly<Record<string, string>>) {
  const path = `${folder}${delimiter}${process.env.PATH}`;
  // Vitest's own variables would make the inner run believe that it is a worker of this one.
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("VITEST"));
  const { status, stdout } = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    env: { ...Object.fromEntries(inherited), KAFKA_BROKERS: "127.0.0.1:1", PATH: path, ...env },
  });
  return { status, last: stdout.trimEnd().split("\n").at(-1) };
}

it("npm test exits with 1 where a test fails", () => {
  const result = run("npm", ["--silent", "test", "--", ...red], { CI: "" });
  expect(result).toEqual({ status: 1, last: "0 passed, 1 failed" });
});

it(".ci/run exits with 1 where a test fails", () => {
  const result = run("bash", [".ci/run", ...red], { CI: "" });
  expect(result).toEqual({ status: 1, last: "0 passed, 1 failed" });
});

it("a skipped test is a failure where CI=true, and only there", () => {
  const there = run("npm", ["--silent", "test", "--", ...skipping], { CI: "true" });
  expect(there).toEqual({ status: 1, last: "1 passed, 1 failed, 1 skipped" });
  const elsewhere = run("npm", ["--silent", "test", "--", ...skipping], { CI: "" });
  expect(elsewhere).toEqual({ status: 0, last: "1 passed, 0 failed, 1 skipped" });
});
