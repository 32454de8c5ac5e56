/**
 * `npm test`: builds, runs every suite, and closes with one line, `N passed, N failed`. Lint, types,
 * formatting and package checks are tests of the project `checks`. Arguments go to vitest.
 * Skipped tests are failures where `CI=true`: a run without servers proves nothing.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly testResults: readonly {
    /** The file, with its whole path. */
    readonly name: string;
    readonly assertionResults: readonly { readonly status: string }[];
  }[];
}

const root = join(import.meta.dirname, "..");

const env = { ...process.env, TURBO_TELEMETRY_DISABLED: "1" };

function run(command: string, ...args: string[]): boolean {
  const bin = join(root, "node_modules", ".bin", command);
  const { status } = spawnSync(bin, args, { cwd: root, stdio: "inherit", env });
  return status === 0;
}

function testReport(folder: string): { green: boolean; report: Report | null } {
  const file = join(folder, "report.json");
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${file}`];
  const green = run("vitest", "run", ...reporters, ...process.argv.slice(2));
  return {
    green,
    report: existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Report) : null,
  };
}

/** What to print and whether to pass. A red run without a failed test (a set-up that threw) counts one. */
function verdict(green: boolean, report: Report | null): { line: string; pass: boolean } {
  const passed = report?.numPassedTests ?? 0;
  const skipped = (report?.numPendingTests ?? 0) + (report?.numTodoTests ?? 0);
  const skipsFail = process.env.CI === "true" && skipped > 0;
  const failed = Math.max(report?.numFailedTests ?? 0, green ? 0 : 1) + (skipsFail ? skipped : 0);
  const nothing = passed + failed === 0;
  return {
    line: `${passed} passed, ${nothing ? 1 : failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`,
    pass: failed === 0 && !nothing,
  };
}

/** One line for each file with skipped tests: what was not proved, where it is read last. */
function skippedFiles(report: Report | null): string[] {
  return (report?.testResults ?? []).flatMap(({ name, assertionResults }) => {
    const run = assertionResults.filter(({ status }) => ["passed", "failed"].includes(status));
    const skipped = assertionResults.length - run.length;
    return skipped > 0 ? [`skipped: ${relative(root, name)} (${skipped})`] : [];
  });
}

const folder = mkdtempSync(join(tmpdir(), "oncebox-test-"));
try {
  const built = run("turbo", "run", "build", "--output-logs=errors-only");
  const { green, report } = built ? testReport(folder) : { green: false, report: null };
  const { line, pass } = verdict(green, report);
  console.log(["", ...skippedFiles(report).sort(), line].join("\n"));
  process.exitCode = pass ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
