/**
 * What users get: each package packed as for a release, installed into a project of ESM and into one
 * of CommonJS, and used there. Nothing is fetched: peers are linked from the repository.
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { read, root } from "./documents.ts";

/** Most kilobytes of each package's tarball: about a quarter above what it was when last set. */
const tarballKbMax: Readonly<Record<string, number>> = {
  core: 430,
  kafkajs: 210,
  postgres: 270,
  sqlite: 120,
  testing: 500,
};

/** Every name that can be imported, and one thing it must have. */
const entries: Readonly<Record<string, string>> = {
  "@oncebox/core": "createConsumer",
  "@oncebox/postgres": "postgresStorage",
  "@oncebox/postgres/knex": "knexStorage",
  "@oncebox/sqlite": "sqliteStorage",
  "@oncebox/sqlite/knex": "knexStorage",
  "@oncebox/kafkajs": "kafkajsBroker",
  "@oncebox/testing": "memoryBroker",
};

const peers = ["better-sqlite3", "kafkajs", "knex", "pg"];

interface Packed {
  readonly name: string;
  readonly filename: string;
  readonly size: number;
  readonly files: readonly { readonly path: string }[];
}

interface Manifest {
  readonly name: string;
  readonly exports: Readonly<Record<string, unknown>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

const names = readdirSync(join(root, "packages"));
// Resolved, because paths are compared with what Node resolves.
const temp = realpathSync(mkdtempSync(join(tmpdir(), "oncebox-packages-")));
const projects = { esm: join(temp, "esm"), cjs: join(temp, "cjs") };
let packed: readonly Packed[] = [];

function manifestOf(name: string): Manifest {
  return JSON.parse(read(`packages/${name}/package.json`)) as Manifest;
}

/** Standard output; an error with everything that was said where the command fails. */
function run(cwd: string, command: string, ...args: readonly string[]): string {
  // Settings of the npm that runs these tests would make another folder the project.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([key]) => !/^npm_/i.test(key)),
  );
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    env: { ...env, NODE_ENV: "production", NO_COLOR: "1" },
    timeout: 60_000,
  });
  if (status !== 0) {
    throw new Error(`${command} exited ${status}\n${stdout}\n${stderr}`, { cause: error });
  }
  return stdout;
}

/** With a cache that is empty, and offline: whatever is not linked or packed is an error. */
function npm(cwd: string, ...args: readonly string[]): string {
  const quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
  const alone = ["--offline", "--ignore-scripts", `--cache=${join(temp, "cache")}`];
  return run(cwd, "npm", ...args, ...quiet, ...alone);
}

/** Files of a build that no entry leads to. Builds do not clean up, so earlier ones leave chunks. */
function leftovers(name: string): ReadonlySet<string> {
  const folder = join(root, "packages", name, "dist");
  const all = readdirSync(folder);
  const stemOf = (file: string) => file.split(".", 1)[0] ?? "";
  const reached = new Set<string>();
  const waiting = [...JSON.stringify(manifestOf(name).exports).matchAll(/dist\/([\w-]+)\./g)];
  for (let found = waiting.pop(); found !== undefined; found = waiting.pop()) {
    const stem = found[1] ?? "";
    if (reached.has(stem)) continue;
    reached.add(stem);
    for (const file of all.filter((file) => stemOf(file) === stem && !file.endsWith(".map"))) {
      const code = read(`packages/${name}/dist/${file}`);
      waiting.push(...code.matchAll(/["']\.\/([\w-]+)\.c?js["']/g));
    }
  }
  return new Set(all.filter((file) => !reached.has(stemOf(file))).map((f) => join(folder, f)));
}

/** As a clean checkout would have it, with all that is not to be published beside it. */
function pack(): readonly Packed[] {
  const staged = names.map((name) => {
    const gone = leftovers(name);
    const folder = join(temp, "staged", name);
    cpSync(join(root, "packages", name), folder, {
      recursive: true,
      filter: (path) => !gone.has(path) && !/^(?:node_modules|\.turbo)$/.test(basename(path)),
    });
    return folder;
  });
  // A list, or an object by name: that depends on the version of npm.
  const said: unknown = JSON.parse(npm(temp, "pack", ...staged, "--json"));
  return Object.values(said as Record<string, Packed>);
}

/** Plain dependencies, so npm holds the linked peers against the ranges that the packages ask for. */
function install(folder: string, type: "module" | "commonjs"): void {
  const linked = peers.map((peer) => [peer, `file:${join(root, "node_modules", peer)}`] as const);
  const tarballs = packed.map(
    ({ name, filename }) => [name, `file:${join(temp, filename)}`] as const,
  );
  const dependencies = Object.fromEntries([...tarballs, ...linked]);
  mkdirSync(folder);
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: "shop", version: "1.0.0", private: true, type, dependencies }),
  );
  npm(folder, "install");
}

/** Runs as a file of the project, because that is what its imports are resolved from. */
function runIn(folder: string, file: string, code: string): string {
  writeFileSync(join(folder, file), code);
  return run(folder, process.execPath, file);
}

/** The first block of a language below a heading. */
function blockOf(path: string, heading: string, language: string): string {
  const section = read(path).split(`## ${heading}\n`)[1]?.split(/^## /m)[0] ?? "";
  const block = new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "ms").exec(section)?.[1];
  if (block === undefined) throw new Error(`${path}: no ${language} under ${heading}`);
  return block;
}

function javascript(code: string, module: ts.ModuleKind): string {
  const target = ts.ScriptTarget.ES2022;
  const compilerOptions = { module, target, esModuleInterop: true };
  return ts.transpileModule(code, { compilerOptions }).outputText;
}

/** Both copies of the core, whatever the project is, and an adapter in the other form than ours. */
const acrossCopies = `
  const checks = [];
  for (const [from, to] of [[esm, cjs], [cjs, esm]]) {
    const error = new from.StorageError("storage-failed", "no");
    checks.push(from.StorageError !== to.StorageError);
    checks.push(error instanceof to.StorageError && error instanceof to.OnceboxError);
    checks.push(!(error instanceof to.ConfigurationError));
  }
  for (const make of [esmSqlite.sqliteStorage, cjsSqlite.sqliteStorage]) {
    try {
      make({ nope: 1 });
    } catch (error) {
      checks.push([esm, cjs].every((core) => error instanceof core.ConfigurationError));
    }
  }
  console.log(checks.length, checks.every(Boolean));`;

beforeAll(() => {
  packed = pack();
  install(projects.esm, "module");
  install(projects.cjs, "commonjs");
}, 60_000);

afterAll(() => {
  rmSync(temp, { recursive: true, force: true });
});

describe.each(names)("the tarball of @oncebox/%s", (name) => {
  const tarball = () => {
    const found = packed.find((one) => one.name === `@oncebox/${name}`);
    if (found === undefined) throw new Error(`@oncebox/${name} was not packed`);
    return found;
  };

  it("has what is used, and nothing else", () => {
    const paths = tarball().files.map(({ path }) => path);
    const wanted = /^(?:package\.json|README\.md|LICENSE|dist\/[\w-]+(?:\.d)?\.c?[jt]s(?:\.map)?)$/;
    const migrations = paths.filter((path) => /^migrations\/\d{4}_\w+\.sql$/.test(path));
    const others = paths.filter((path) => !wanted.test(path) && !migrations.includes(path));
    expect(others).toEqual([]);
    expect(paths).toContain("package.json");
    const written = ["postgres", "sqlite"].includes(name)
      ? readdirSync(join(root, "migrations", name))
      : [];
    expect(migrations).toEqual(written.map((file) => `migrations/${file}`));
  });

  it("stays under its limit of size", () => {
    expect(tarball().size / 1_000).toBeLessThan(tarballKbMax[name] ?? 0);
  });

  it("asks for peers that are linked below, and has no entry that is not used below", () => {
    const { exports, peerDependencies = {}, name: own } = manifestOf(name);
    expect(Object.keys(peerDependencies).filter((peer) => !peers.includes(peer))).toEqual([]);
    const code = Object.keys(exports).filter((path) => !/\.json$|\*/.test(path));
    const used = Object.keys(entries).filter((entry) => `${entry}/`.startsWith(`${own}/`));
    expect(code.map((path) => own + path.slice(1)).sort()).toEqual(used.sort());
  });
});

describe.each(["esm", "cjs"] as const)("a project of %s with the tarballs", (kind) => {
  const folder = projects[kind];
  const suffix = kind === "esm" ? "mjs" : "cjs";
  const preamble =
    kind === "esm"
      ? `import { createRequire } from "node:module"; const require = createRequire(import.meta.url);`
      : "";
  const script = (file: string, code: string) =>
    runIn(folder, `${file}.${suffix}`, `${preamble}(async () => {${code}})();`);

  it.each(Object.entries(entries))("gets %s", (entry, member) => {
    const load = kind === "esm" ? `await import("${entry}")` : `require("${entry}")`;
    const code = `const m = ${load}; console.log(typeof m["${member}"], require.resolve("${entry}"))`;
    const [type, ...path] = script("entry", code).trim().split(" ");
    expect(type).toBe("function");
    // Not by way of the repository's own node_modules.
    expect(path.join(" ")).toContain(join(folder, "node_modules", "@oncebox"));
  });

  it("recognises errors of another copy", () => {
    const load = ["core", "sqlite"].map((name) => {
      const [esm, cjs] = name === "core" ? ["esm", "cjs"] : ["esmSqlite", "cjsSqlite"];
      return `const ${esm} = await import("@oncebox/${name}"), ${cjs} = require("@oncebox/${name}");`;
    });
    expect(script("errors", load.join("\n") + acrossCopies)).toBe("8 true\n");
  });

  it.each(["postgres", "sqlite"])("reads the migrations of @oncebox/%s", (name) => {
    for (const file of readdirSync(join(root, "migrations", name))) {
      const path = `require.resolve("@oncebox/${name}/migrations/${file}")`;
      const code = `process.stdout.write(require("node:fs").readFileSync(${path}))`;
      expect(script("migration", code)).toBe(read(`migrations/${name}/${file}`));
    }
  });

  it("runs the first program of docs/getting-started.md", () => {
    const program = blockOf("docs/getting-started.md", "Without any server", "ts");
    // CommonJS has no await at the top.
    const code =
      kind === "esm"
        ? javascript(program, ts.ModuleKind.ESNext)
        : `(async () => {${javascript(program, ts.ModuleKind.CommonJS)}})();`;
    const said = blockOf("docs/getting-started.md", "Without any server", "text");
    expect(runIn(folder, `first.${suffix}`, code)).toBe(said);
  });
});
