/**
 * Holds the documents against the code: every code block compiles against the built packages, every
 * relative link leads somewhere, and the references of options, events and error codes are complete.
 *
 * A block marked `ts` stands alone. One marked `ts fragment` may use the names that the block of
 * docs/fragments.md declares. Regions between `<!-- generated: X -->` and `<!-- end -->` are written
 * from the comments in the source: `npx vitest run test/checks/docs.test.ts -u` writes them anew.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import ts from "typescript";
import { describe, expect, it } from "vitest";

const root = join(import.meta.dirname, "..", "..");

function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

/** All Markdown of the repository, what is not committed yet included. */
const documents = execFileSync("git", ["ls-files", "-co", "--exclude-standard", "*.md"], {
  cwd: root,
})
  .toString()
  .split("\n")
  .filter((path) => path !== "" && existsSync(join(root, path)));

// ---------------------------------------------------------------------------- code blocks

interface Block {
  readonly path: string;
  /** Of the first line of code, from 1. */
  readonly line: number;
  readonly info: string;
  readonly code: string;
}

function blocksOf(path: string): Block[] {
  const blocks: Block[] = [];
  let open: { info: string; line: number } | null = null;
  let code: string[] = [];
  for (const [index, text] of read(path).split("\n").entries()) {
    if (open === null && text.startsWith("```")) {
      open = { info: text.slice(3).trim(), line: index + 2 };
      code = [];
    } else if (open !== null && text === "```") {
      blocks.push({ path, ...open, code: code.join("\n") });
      open = null;
    } else {
      code.push(text);
    }
  }
  if (open !== null) throw new Error(`${path}: the code block at line ${open.line} has no end`);
  return blocks;
}

const blocks = documents.flatMap(blocksOf).filter(({ info }) => /^(ts|typescript)\b/.test(info));

/** Complaints of the compiler, at the places in the documents. Nothing is written to the disk. */
function complaints(code: readonly Block[]): string[] {
  const config = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root);
  const names = new Map(
    code.map((block) => [
      join(root, `${block.path.replaceAll("/", "-")}-${block.line}.mts`),
      block,
    ]),
  );
  const settings = { ...options, noUnusedLocals: false, noUnusedParameters: false, noEmit: true };
  const host = ts.createCompilerHost(settings);
  const { readFile, fileExists, getSourceFile } = host;
  const own = (path: string) => names.get(resolve(path));
  host.fileExists = (path) => own(path) !== undefined || fileExists(path);
  host.readFile = (path) => own(path)?.code ?? readFile(path);
  host.getSourceFile = (path, language, ...rest) => {
    const block = own(path);
    // A block without an import is a module all the same, or its names would clash with others'.
    return block === undefined
      ? getSourceFile(path, language, ...rest)
      : ts.createSourceFile(path, `${block.code}\nexport {};\n`, language);
  };
  const program = ts.createProgram([...names.keys()], settings, host);
  return ts.getPreEmitDiagnostics(program).map((diagnostic) => {
    const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, " ");
    const { file, start = 0 } = diagnostic;
    const block = file && own(file.fileName);
    if (!file || !block) return text;
    const { line } = file.getLineAndCharacterOfPosition(start);
    return `${block.path}:${block.line + line}: ${text}`;
  });
}

describe("code blocks", () => {
  const fragments = blocks.filter(({ info }) => /\b(fragment|declarations)\b/.test(info));

  it("are marked in a way that is known here", () => {
    const known = ["ts", "ts fragment", "ts declarations"];
    expect(blocks.filter(({ info }) => !known.includes(info))).toEqual([]);
    expect(blocks.length - fragments.length).toBeGreaterThan(0);
  });

  it("that stand alone compile", () => {
    expect(complaints(blocks.filter((block) => !fragments.includes(block)))).toEqual([]);
  });

  it("that are fragments compile with the declarations of docs/fragments.md", () => {
    expect(complaints(fragments)).toEqual([]);
  });
});

// ---------------------------------------------------------------------------- links and paths

/** As GitHub makes them. */
function anchorsOf(path: string): Set<string> {
  const anchors = new Set<string>();
  const seen = new Map<string, number>();
  for (const line of withoutCode(read(path)).split("\n")) {
    const heading = /^#{1,6} (.*)$/.exec(line)?.[1];
    if (heading === undefined) continue;
    const words = heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "");
    const anchor = words.trim().replaceAll(" ", "-");
    const count = seen.get(anchor) ?? 0;
    seen.set(anchor, count + 1);
    anchors.add(count === 0 ? anchor : `${anchor}-${count}`);
  }
  return anchors;
}

function withoutCode(text: string): string {
  return text.replace(/^```.*?^```$/gms, "");
}

describe.each(documents)("%s", (path) => {
  it("links only to what is there", () => {
    const broken: string[] = [];
    for (const [, target = ""] of withoutCode(read(path)).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file = "", anchor] = target.split("#");
      const to = file === "" ? path : relative(root, resolve(root, dirname(path), file));
      if (!existsSync(join(root, to))) broken.push(target);
      else if (anchor !== undefined && !anchorsOf(to).has(anchor)) broken.push(target);
    }
    expect(broken).toEqual([]);
  });

  it("names only files that are there", () => {
    const tops = /^(?:packages|migrations|examples|scripts|test|docs|bench)\/[\w./@-]+$/;
    const named = [...withoutCode(read(path)).matchAll(/`([^`\n]+)`/g)].map(([, span]) => span);
    const gone = named.filter((span = "") => tops.test(span) && !existsSync(join(root, span)));
    expect(gone).toEqual([]);
  });
});

// ---------------------------------------------------------------------------- the source's comments

function parse(path: string): ts.SourceFile {
  return ts.createSourceFile(path, read(path), ts.ScriptTarget.ES2022, true);
}

function declared<T extends ts.Node>(
  file: ts.SourceFile,
  name: string,
  is: (node: ts.Node) => node is T,
): T | undefined {
  return file.statements.find((node): node is T & ts.Statement => {
    return is(node) && (node as { name?: ts.Identifier }).name?.text === name;
  });
}

interface Comment {
  readonly text: string;
  readonly defaultValue: string | null;
}

function commentOf(node: ts.Node): Comment {
  const docs = ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc);
  const tags = ts.getJSDocTags(node).filter(({ tagName }) => tagName.text === "defaultValue");
  const text = (comment: Parameters<typeof ts.getTextOfJSDocComment>[0]) =>
    (ts.getTextOfJSDocComment(comment) ?? "").replace(/\s+/g, " ").trim();
  return {
    text: text(docs[0]?.comment),
    defaultValue: tags[0] === undefined ? null : text(tags[0].comment),
  };
}

interface Option extends Comment {
  readonly name: string;
  readonly optional: boolean;
}

function optionsOf(path: string, name: string): Option[] {
  const found = declared(parse(path), name, ts.isInterfaceDeclaration);
  if (found === undefined) throw new Error(`${path} declares no interface ${name}`);
  return found.members.map((member) => ({
    name: member.name?.getText() ?? "",
    optional: member.questionToken !== undefined,
    ...commentOf(member),
  }));
}

/** What `defaults` of the file says, where there is one: the numbers that are really used. */
function defaultsOf(path: string): Map<string, unknown> {
  const found = new Map<string, unknown>();
  const visit = (node: ts.Node): void => {
    if (ts.isVariableDeclaration(node) && node.name.getText() === "defaults" && node.initializer) {
      const value = ts.isAsExpression(node.initializer)
        ? node.initializer.expression
        : node.initializer;
      if (!ts.isObjectLiteralExpression(value)) return;
      for (const property of value.properties) {
        if (!ts.isPropertyAssignment(property)) continue;
        const text = property.initializer.getText();
        // Numbers and their products only, as `4 * 2 ** 20`.
        if (/^[\d_*\s]+$/.test(text)) found.set(property.name.getText(), arithmetic(text));
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(parse(path));
  return found;
}

function arithmetic(text: string): number {
  return text
    .replaceAll("_", "")
    .split(/(?<!\*)\*(?!\*)/)
    .map((factor) => {
      const [base = Number.NaN, ...powers] = factor.split("**").map(Number);
      return powers.reduce((power, exponent) => power ** exponent, base);
    })
    .reduce((product, factor) => product * factor, 1);
}

/** Every kind of options that a package exports, and where it is declared. */
const optionSources: Readonly<Record<string, string>> = {
  ConsumerOptions: "packages/core/src/inbox/consumer-options.ts",
  HandlerOptions: "packages/core/src/inbox/handler.ts",
  InboxOptions: "packages/core/src/inbox/inbox.ts",
  OutboxOptions: "packages/core/src/outbox/outbox.ts",
  OutboxRelayOptions: "packages/core/src/outbox/relay-options.ts",
  TopicOptions: "packages/core/src/topic.ts",
  PostgresStorageOptions: "packages/postgres/src/postgres-storage.ts",
  MigrateOptions: "packages/postgres/src/migrate.ts",
  KafkajsBrokerConfig: "packages/kafkajs/src/kafkajs-options.ts",
};

/** Not the user's to fill in at construction. */
const notReferenced = new Set(["ErrorOptions"]);

function cell(text: string): string {
  return text.replaceAll("|", "\\|");
}

function optionRows(name: string): string {
  const rows = optionsOf(optionSources[name] ?? "", name).map((option) => {
    const value = option.defaultValue;
    const literal = value !== null && /^("[^"]*"|[\d_.]+|true|false|null)$/.test(value);
    const shown = literal ? `\`${value}\`` : (value ?? (option.optional ? "none" : "required"));
    return `| \`${option.name}\` | ${cell(shown)} | ${cell(option.text)} |`;
  });
  return ["| option | default | meaning |", "| --- | --- | --- |", ...rows].join("\n");
}

/** Events by their type, with the comment that stands before each. */
function eventRows(): string {
  const file = parse("packages/core/src/events.ts");
  const union = declared(file, "OnceboxEvent", ts.isTypeAliasDeclaration)?.type;
  if (union === undefined || !ts.isUnionTypeNode(union)) throw new Error("no union of events");
  const rows = union.types.map((member, index) => {
    const text = member.getText().replace(/\/\*\*.*?\*\//gs, "");
    const fields = [...text.matchAll(/readonly (\w+):/g)].map(([, field]) => field);
    const type = /readonly type: "([^"]+)"/.exec(text)?.[1];
    const outer = text.startsWith("(AtPartition") ? ["consumer", "topic", "partition"] : [];
    const inner = fields.filter((field) => field !== "type");
    const own = text.includes("readonly partitions: readonly {")
      ? inner.filter((field) => field !== "topic" && field !== "partition")
      : inner;
    // The comment stands before the bar, so behind the member before.
    const behind = union.types[index - 1]?.end ?? union.getFullStart();
    const before = file.text.slice(behind, member.getStart());
    const comment = /\/\*\*(.*?)\*\//s.exec(before)?.[1]?.replace(/\s*\*?\s+/g, " ") ?? "";
    const listed = [...outer, ...own].map((field) => `\`${field}\``).join(", ");
    return `| \`${type}\` | ${cell(comment.trim())} | ${listed} |`;
  });
  return ["| event | when | fields |", "| --- | --- | --- |", ...rows].join("\n");
}

/** The document with its generated regions as they should be. */
function regenerated(path: string): string {
  const region = /(<!-- generated: (\w+) -->\n).*?(<!-- end -->)/gs;
  return read(path).replace(region, (_, start: string, name: string, end: string) => {
    const body = name === "OnceboxEvent" ? eventRows() : optionRows(name);
    return `${start}\n${body}\n\n${end}`;
  });
}

describe("references", () => {
  it("of options say what the source says", async () => {
    const path = "docs/options.md";
    const listed = [...read(path).matchAll(/<!-- generated: (\w+) -->/g)].map(([, name]) => name);
    expect(listed.sort()).toEqual(Object.keys(optionSources).sort());
    await expect(regenerated(path)).toMatchFileSnapshot(join(root, path));
  });

  it("of options cover every kind of options that is exported", () => {
    const exported = ["core", "postgres", "kafkajs"].flatMap((name) => {
      const index = read(`packages/${name}/src/index.ts`);
      return [...index.matchAll(/\b([A-Z]\w+(?:Options|Config))\b/g)].map(
        ([, found]) => found ?? "",
      );
    });
    const known = [...Object.keys(optionSources), ...notReferenced];
    expect([...new Set(exported)].filter((name) => !known.includes(name))).toEqual([]);
  });

  it.each(Object.entries(optionSources))(
    "%s: each option is explained, defaults agree",
    (name, path) => {
      const options = optionsOf(path, name);
      expect(options.filter(({ text }) => text === "")).toEqual([]);
      const used = defaultsOf(path);
      for (const option of options) {
        const value = used.get(option.name);
        if (value !== undefined) {
          expect(`${option.name} ${option.defaultValue}`).toBe(`${option.name} ${value}`);
        }
      }
    },
  );

  it("of events say what the source says", async () => {
    const path = "docs/events.md";
    await expect(regenerated(path)).toMatchFileSnapshot(join(root, path));
  });

  it("of error codes are complete, under the class that carries them", () => {
    const union = declared(
      parse("packages/core/src/errors.ts"),
      "ErrorCode",
      ts.isTypeAliasDeclaration,
    );
    const codes = [...(union?.type.getText() ?? "").matchAll(/"([a-z-]+)"/g)].map(([, c]) => c);
    const sections = read("docs/errors.md").split(/^## /m).slice(1);
    const documented = new Map<string, string>();
    for (const section of sections) {
      const kind = section.split("\n")[0] ?? "";
      for (const [, code = ""] of section.matchAll(/^\| `([a-z-]+)` \|/gm)) {
        expect(documented.has(code), `${code} is there twice`).toBe(false);
        documented.set(code, kind);
      }
    }
    expect([...documented.keys()].sort()).toEqual([...codes].sort());
    const thrown = /\bnew (\w+Error)\(\s*"([a-z-]+)"/g;
    const sources = execFileSync(
      "git",
      ["ls-files", "-co", "--exclude-standard", "packages/*/src"],
      {
        cwd: root,
      },
    )
      .toString()
      .split("\n")
      .filter((path) => path.endsWith(".ts") && !path.endsWith(".test.ts"));
    for (const path of sources) {
      for (const [, kind, code = ""] of read(path).matchAll(thrown)) {
        expect(`${code}: ${documented.get(code)}`, path).toBe(`${code}: ${kind}`);
      }
    }
  });
});
