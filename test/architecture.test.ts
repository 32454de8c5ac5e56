/**
 * The cut between packages, as ARCHITECTURE.md draws it, held against manifests and imports. Arrows
 * point at core only; the core knows no SQL, no Kafka client, no Node, and no time of its own.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import ts from "typescript";
import { describe, expect, it } from "vitest";

const root = join(import.meta.dirname, "..");

/** What each package may import besides its own files; `node:` stands for all of Node's modules. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  core: ["@noble/hashes"],
  postgres: ["@oncebox/core", "pg", "knex", "node:"],
  sqlite: ["@oncebox/core", "better-sqlite3", "knex", "node:"],
  kafkajs: ["@oncebox/core", "kafkajs", "node:"],
  testing: ["@oncebox/core"],
};

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly scripts?: Readonly<Record<string, string>>;
}

interface SourceFile {
  readonly path: string;
  readonly text: string;
  readonly imports: readonly string[];
}

// New files count before they are committed.
const tracked = execFileSync("git", ["ls-files", "-co", "--exclude-standard"], { cwd: root })
  .toString()
  .split("\n")
  .filter((path) => path.endsWith(".ts") && !path.includes("/red-suite/"));

const files: readonly SourceFile[] = tracked.map((path) => {
  const text = readFileSync(join(root, path), "utf8");
  const imports = ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName);
  return { path, text, imports };
});

const sources = (name: string) =>
  files.filter(({ path }) => path.startsWith(`packages/${name}/src/`) && !isTest(path));

function isTest(path: string): boolean {
  return path.endsWith(".test.ts");
}

function manifest(name: string): Manifest {
  return JSON.parse(readFileSync(join(root, "packages", name, "package.json"), "utf8"));
}

/** Imports of a file that its package may not have. */
function wrongImports(name: string, file: SourceFile): string[] {
  const home = join("packages", name, "src");
  return file.imports.filter((target) => {
    if (target.startsWith(".")) {
      return relative(home, resolve("/", dirname(file.path), target).slice(1)).startsWith("..");
    }
    return !(allowed[name] ?? []).some(
      (start) => target === start || target.startsWith(start.endsWith(":") ? start : `${start}/`),
    );
  });
}

it("knows every package", () => {
  const found = new Set(files.map(({ path }) => /^packages\/([^/]+)\//.exec(path)?.[1]));
  found.delete(undefined);
  expect([...found].sort()).toEqual(Object.keys(allowed).sort());
});

describe.each(Object.keys(allowed))("@oncebox/%s", (name) => {
  it("imports only what it may", () => {
    expect(sources(name).length).toBeGreaterThan(0);
    const wrong = sources(name).flatMap((file) =>
      wrongImports(name, file).map((target) => `${file.path} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  it("has a manifest that says the same, and runs nothing when it is installed", () => {
    const { dependencies = {}, peerDependencies = {}, scripts = {} } = manifest(name);
    expect(Object.keys(dependencies)).toEqual(name === "core" ? [] : ["@oncebox/core"]);
    for (const peer of Object.keys(peerDependencies)) expect(allowed[name]).toContain(peer);
    for (const hook of ["preinstall", "install", "postinstall", "prepare"]) {
      expect(scripts).not.toHaveProperty(hook);
    }
  });
});

it("keeps time and chance of the core behind the clock port", () => {
  const own =
    /\b(Date\.now|new Date\(\)|Math\.random|performance\.now|set(?:Timeout|Interval|Immediate)|queueMicrotask)\b/;
  const wrong = [...sources("core"), ...sources("testing")]
    .filter(({ path, text }) => !path.endsWith("/ports/clock.ts") && own.test(text))
    .map(({ path }) => path);
  expect(wrong).toEqual([]);
});

it("keeps SQL and lock modes out of the core", () => {
  const sql = /\b(FOR (NO KEY )?UPDATE|ON CONFLICT|INSERT INTO|pg_[a-z_]+\()/;
  const wrong = sources("core").filter(({ text }) => sql.test(text));
  expect(wrong.map(({ path }) => path)).toEqual([]);
});

it("has no file that is long, and no drawer", () => {
  const long = files
    .filter(({ path }) => !path.includes("generated"))
    .map(({ path, text }) => ({ path, lines: text.split("\n").length - 1 }))
    .filter(({ lines }) => lines > 400);
  expect(long).toEqual([]);
  const drawers = files.filter(({ path }) =>
    /^(utils?|helpers?|common|misc|lib|types)\.ts$/.test(basename(path)),
  );
  expect(drawers.map(({ path }) => path)).toEqual([]);
});

it("lets nothing of a package import tests, examples or benchmarks", () => {
  const wrong = files
    .filter(({ path }) => path.startsWith("packages/"))
    .filter(({ imports }) =>
      imports.some((target) => /(^|\/)(test|examples|bench)\//.test(target)),
    );
  expect(wrong.map(({ path }) => path)).toEqual([]);
});
