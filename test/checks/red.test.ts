/**
 * Guards the road from a failed test to exit code 1: through vitest, `npm test` and `.ci/run`. A
 * server or a reporter that resets the exit code would make every other test worthless.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { files, read, root } from "./documents.ts";

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
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    env: { ...Object.fromEntries(inherited), KAFKA_BROKERS: "127.0.0.1:1", PATH: path, ...env },
  });
  const lines = stdout.trimEnd().split("\n");
  return { status, last: lines.at(-1), lines, said: stdout + stderr };
}

it("npm test exits with 1 where a test fails", () => {
  const result = run("npm", ["--silent", "test", "--", ...red], { CI: "" });
  expect(result).toMatchObject({ status: 1, last: "0 passed, 1 failed" });
});

it(".ci/run exits with 1 where a test fails", () => {
  const result = run("bash", [".ci/run", ...red], { CI: "" });
  expect(result).toMatchObject({ status: 1, last: "0 passed, 1 failed" });
});

it("a skipped test is a failure where CI=true, and only there", () => {
  const there = run("npm", ["--silent", "test", "--", ...skipping], { CI: "true" });
  expect(there).toMatchObject({ status: 1, last: "1 passed, 1 failed, 1 skipped" });
  const elsewhere = run("npm", ["--silent", "test", "--", ...skipping], { CI: "" });
  expect(elsewhere).toMatchObject({ status: 0, last: "1 passed, 0 failed, 1 skipped" });
});

describe("where Kafka cannot run", () => {
  // A test file with and without Kafka.
  const args = ["--silent", "test", "--", "--project", "servers", "test/fixtures/history.test.ts"];
  // In front of a real one, if there is one: it does what launchers do that only offer to install.
  const java = join(folder, "java");
  writeFileSync(java, "#!/bin/sh\nexit 1\n");
  chmodSync(java, 0o755);
  const env = { KAFKA_BROKERS: "", JAVA_HOME: "" };
  const why = `no Kafka: ${java} does not run, and KAFKA_BROKERS is not set`;

  it("npm test says why, runs what it can, and closes with what it skipped", () => {
    const { status, lines, said } = run("npm", args, { ...env, CI: "" });
    expect(said).toContain(`${why}. KAFKA TESTS ARE SKIPPED.`);
    const closing = ["skipped: test/fixtures/history.test.ts (2)", "4 passed, 0 failed, 2 skipped"];
    expect({ status, closing: lines.slice(-2) }).toEqual({ status: 0, closing });
  });

  it("npm test fails where CI=true, and says why", () => {
    const { status, last, said } = run("npm", args, { ...env, CI: "true" });
    expect({ status, last }).toEqual({ status: 1, last: "0 passed, 1 failed" });
    expect(said).toContain(why);
  });

  it("every test file that uses Kafka skips what needs it", () => {
    const folders = ["fixtures", "conformance", "integration", "chaos"];
    const uses = /\b(?:scene|outboxScene|testKafka|testTopic)\(|inject\("kafkaBrokers"\)/;
    const asks = /skipIf\(!hasKafka\(\)|\b(?:kafkaAvailability|kafkaObstacle)\(\)/;
    const all = files(...folders.map((name) => `test/${name}/*.test.ts`));
    const using = all.filter((path) => uses.test(read(path)));
    expect(using.length).toBeGreaterThan(15);
    expect(using.filter((path) => !asks.test(read(path)))).toEqual([]);
  });
});
