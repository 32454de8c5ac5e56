/**
 * The commands in the documents: scripts, workspaces, tests and packages that they name are there.
 * They are not run here; what they start is, by tests of its own. The README's ledger balances.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { documents, files, read, root } from "./documents.ts";

interface Manifest {
  readonly name: string;
  readonly scripts?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

const manifestOf = (folder: string) => JSON.parse(read(join(folder, "package.json"))) as Manifest;
const packages = files("packages/*/package.json").map((path) => manifestOf(join(path, "..")));
/** What a reader may be told to install. */
const installable = new Set([
  ...packages.flatMap(({ name, peerDependencies = {} }) => [
    name,
    ...Object.keys(peerDependencies),
  ]),
  "tsx",
]);

const commands = documents.flatMap((path) => {
  const blocks = [...read(path).matchAll(/^```sh\n(.*?)^```$/gms)];
  const lines = blocks.flatMap(([, block = ""]) => block.split("\n"));
  return lines.flatMap((line) => line.split("&&")).map((line) => ({ path, line: line.trim() }));
});

/** What is wrong with a command; null: nothing that can be seen from here. */
function wrongIn(line: string): string | null {
  const [tool, verb, ...rest] = line.split(/\s+/);
  const folders = [...line.matchAll(/(?:-w|--workspace) (\S+)/g)].map(([, folder = ""]) => folder);
  const missing = folders.find((folder) => !existsSync(join(root, folder, "package.json")));
  if (missing !== undefined) return `no workspace ${missing}`;
  if (tool === "npm" && (verb === "run" || verb === "start" || verb === "test")) {
    const script = verb === "run" ? (rest[0] ?? "") : verb;
    const { scripts = {} } = manifestOf(folders[0] ?? ".");
    return scripts[script] === undefined ? `no script ${script}` : null;
  }
  if (tool === "npm" && verb === "install") {
    const named = rest.filter((word) => !word.startsWith("-") && !word.endsWith(".tgz"));
    const unknown = named.find((word) => !installable.has(word.replace(/(?<=.)@.*$/, "")));
    return unknown === undefined ? null : `${unknown} is no package of ours, and no peer`;
  }
  if (tool === "npx" && verb === "vitest") {
    const paths = rest.filter((word) => word.includes("/"));
    const gone = paths.find((path) => !existsSync(join(root, path)));
    return gone === undefined ? null : `no test ${gone}`;
  }
  return null;
}

it("commands name what is there", () => {
  expect(commands.length).toBeGreaterThan(20);
  const wrong = commands.map(({ path, line }) => [path, line, wrongIn(line)] as const);
  expect(wrong.filter(([, , why]) => why !== null)).toEqual([]);
});

it("archives that are installed are those that packages become", () => {
  const text = read("docs/installing.md");
  const archives = [...text.matchAll(/oncebox-(\w+)-([\d.]+)\.tgz/g)];
  expect(archives.length).toBeGreaterThan(0);
  for (const [archive, name, version] of archives) {
    const manifest = JSON.parse(read(`packages/${name}/package.json`)) as { version: string };
    expect(version, archive).toBe(manifest.version);
  }
});

it("the README's ledger balances, as the demo's does", () => {
  const [ledger = ""] = /^ledger .*$/m.exec(read("README.md")) ?? [];
  const figures = Object.fromEntries(
    [...ledger.matchAll(/(\w+)=(\d+)/g)].map(([, name = "", value]) => [name, Number(value)]),
  );
  const { published = 0, delivered, duplicates = 0, applied = 0, ...rest } = figures;
  expect(rest).toEqual({ lost: 0, doubled: 0 });
  expect(delivered).toBe(applied + duplicates);
  expect(published).toBeGreaterThan(applied);
});
