/** The type tests are compiled, not run: this guards that the check "types" sees them. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { expect, it } from "vitest";

const root = join(import.meta.dirname, "..", "..");

it("tsc compiles every file of test/type-checks", () => {
  const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { fileNames, options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const folder = join(root, "test", "type-checks");
  const files = readdirSync(folder).map((name) => join(folder, name));
  expect(files.length).toBeGreaterThan(0);
  expect(fileNames).toEqual(expect.arrayContaining(files));
  // Without these a directive that covers no error would pass, or a wrong handle would fit.
  expect(options).toMatchObject({ strict: true, noEmit: true });
});
