/** Lint, formatting, types, dead code, embedded migrations and package shapes, each as one test. */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const root = join(import.meta.dirname, "..", "..");

/** Output where the tool fails, nothing where it passes: so that a failure shows what it said. */
function complaints(cwd: string, tool: string, ...args: readonly string[]): string {
  const bin = join(root, "node_modules", ".bin", tool);
  const { status, stdout, stderr } = spawnSync(bin, args, { cwd, encoding: "utf8" });
  return status === 0 ? "" : `${tool} exited ${status}\n${stdout}\n${stderr}`;
}

it("lint and formatting (biome)", () => {
  expect(complaints(root, "biome", "ci", "--error-on-warnings", ".")).toBe("");
});

it("types (tsc), the uses that must fail among them", () => {
  expect(complaints(root, "tsc", "--noEmit")).toBe("");
});

it("no dead files, exports or dependencies (knip)", () => {
  expect(complaints(root, "knip")).toBe("");
});

it("embedded migrations are the files in migrations/", () => {
  expect(complaints(root, "tsx", "scripts/embed-migrations.ts", "--check")).toBe("");
});

for (const name of readdirSync(join(root, "packages"))) {
  const folder = join(root, "packages", name);

  it(`package @oncebox/${name} is well formed (publint)`, () => {
    expect(complaints(folder, "publint", "--strict")).toBe("");
  });

  it(`package @oncebox/${name} has right types for ESM and CJS (are the types wrong)`, () => {
    expect(complaints(folder, "attw", "--pack", ".", "--profile", "node16")).toBe("");
  });
}
