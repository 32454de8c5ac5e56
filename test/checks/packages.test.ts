/**
 * What users get: each package packed as for a release, installed into a project of ESM and into one
 * of CommonJS, and used there. Nothing is fetched: peers are linked from the repository.
 */
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
import { join } from "node:path";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  environmentIn,
  type Packed,
  packAll,
  packageNames,
  run,
  sourceOf,
} from "../fixtures/packed.ts";
import { blockOf, read, root } from "./documents.ts";

/**
 * Most kilobytes of each package's tarball: about a quarter above what it was when last set, so that
 * neither source maps nor a chunk that an earlier build left has room.
 */
const tarballKbMax: Readonly<Record<string, number>> = {
  core: 190,
  kafkajs: 62,
  postgres: 96,
  sqlite: 54,
  testing: 240,
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

interface Manifest {
  readonly name: string;
  readonly exports: Readonly<Record<string, unknown>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

// Resolved, because paths are compared with what Node resolves.
const temp = realpathSync(mkdtempSync(join(tmpdir(), "oncebox-packages-")));
const environment = { ...environmentIn(temp), NODE_ENV: "production" };
const projects = { esm: join(temp, "esm"), cjs: join(temp, "cjs") };
let packed: readonly Packed[] = [];

function manifestOf(name: string): Manifest {
  return JSON.parse(read(`packages/${name}/package.json`)) as Manifest;
}

/** Plain dependencies, so npm holds the linked peers against the ranges that the packages ask for. */
function install(folder: string, type: "module" | "commonjs"): void {
  const wanted = [...packed.map(({ name }) => name), ...peers];
  const dependencies = Object.fromEntries(
    wanted.map((name) => [name, sourceOf(name, temp, packed)]),
  );
  mkdirSync(folder);
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: "shop", version: "1.0.0", private: true, type, dependencies }),
  );
  run(folder, environment, "npm", "install");
}

/** Runs as a file of the project, because that is what its imports are resolved from. */
function runIn(folder: string, file: string, code: string): string {
  writeFileSync(join(folder, file), code);
  return run(folder, environment, process.execPath, file);
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
  packed = packAll(temp);
  install(projects.esm, "module");
  install(projects.cjs, "commonjs");
}, 60_000);

afterAll(() => {
  rmSync(temp, { recursive: true, force: true });
});

describe.each(packageNames)("the tarball of @oncebox/%s", (name) => {
  const tarball = () => {
    const found = packed.find((one) => one.name === `@oncebox/${name}`);
    if (found === undefined) throw new Error(`@oncebox/${name} was not packed`);
    return found;
  };

  it("has what is used, and nothing else", () => {
    const paths = tarball().files.map(({ path }) => path);
    const wanted = /^(?:package\.json|README\.md|LICENSE|dist\/[\w-]+(?:\.d)?\.c?[jt]s)$/;
    const migrations = paths.filter((path) => /^migrations\/\d{4}_\w+\.sql$/.test(path));
    const others = paths.filter((path) => !wanted.test(path) && !migrations.includes(path));
    expect(others).toEqual([]);
    expect(paths).toContain("package.json");
    const written = ["postgres", "sqlite"].includes(name)
      ? readdirSync(join(root, "migrations", name))
      : [];
    expect(migrations).toEqual(written.map((file) => `migrations/${file}`));
  });

  it("has nothing in it that an earlier build left", () => {
    const folder = join(temp, "used", name);
    const dist = join(folder, "dist");
    cpSync(join(root, "packages", name, "dist"), dist, { recursive: true });
    cpSync(join(root, "packages", name, "package.json"), join(folder, "package.json"));
    const built = readdirSync(dist);
    for (const old of ["chunk-OLD.js", "chunk-OLD.cjs", "index.js.map", "options-OLD.d.ts"]) {
      writeFileSync(join(dist, old), 'import "./index.js";');
    }
    run(root, environment, process.execPath, "scripts/prune-dist.mjs", folder);
    expect(readdirSync(dist)).toEqual(built);
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
