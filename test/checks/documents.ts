// Owns where the repository's files are found by the tests of its documents, and a document's blocks.

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

/** The text below a heading, up to the next of its level. */
export function sectionOf(path: string, heading: string): string {
  const section = read(path).split(`\n## ${heading}\n`)[1]?.split(/^## /m)[0];
  if (section === undefined) throw new Error(`${path}: no section ${heading}`);
  return section;
}

/** The blocks of a language in a text of Markdown, in order. */
export function blocksIn(text: string, language: string): string[] {
  const block = new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms");
  return Array.from(text.matchAll(block), ([, code = ""]) => code);
}

/** The first block of a language below a heading. */
export function blockOf(path: string, heading: string, language: string): string {
  const block = blocksIn(sectionOf(path, heading), language)[0];
  if (block === undefined) throw new Error(`${path}: no ${language} under ${heading}`);
  return block;
}
