/** Each claim in docs/guarantees.md names a test: the file is there, and a title in it begins so. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, it } from "vitest";
import { read, root } from "./documents.ts";

const path = "docs/guarantees.md";

it("each claim of docs/guarantees.md is shown by a test that is there", () => {
  const section = read(path).split("## Where it is shown\n")[1] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("| ") && line.includes("]("));
  expect(rows.length).toBeGreaterThan(25);
  const gone = rows.filter((row) => {
    const link = /\]\(([^)]+)\)/.exec(row)?.[1] ?? "";
    const file = join(dirname(path), link);
    const titles = [...(row.split("|").at(-2) ?? "").matchAll(/"([^"]+)"/g)];
    if (titles.length === 0 || !existsSync(join(root, file))) return true;
    const code = read(file);
    return titles.some(([, title]) => !code.includes(`"${title}`));
  });
  expect(gone).toEqual([]);
});
