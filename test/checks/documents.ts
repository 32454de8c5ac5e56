// Owns where the repository's files are found by the tests of its documents.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const root = join(import.meta.dirname, "..", "..");

export function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

/** Files of the repository, those that are not committed yet included. */
export function files(...patterns: readonly string[]): string[] {
  const args = ["ls-files", "-co", "--exclude-standard", "--", ...patterns];
  const listed = execFileSync("git", args, { cwd: root, encoding: "utf8" }).split("\n");
  return listed.filter((path) => path !== "" && existsSync(join(root, path)));
}

export const documents = files("*.md");
