/**
 * Holds the documents against the code: every relative link leads somewhere, and the references of
 * options, events and error codes are complete. Regions between `<!-- generated: X -->` and `<!-- end -->` are written
 * from the comments in the source: `npx vitest run test/checks/docs.test.ts -u` writes them anew.
 */
import { existsSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import * as core from "@oncebox/core";
import * as kafkajs from "@oncebox/kafkajs";
import * as postgres from "@oncebox/postgres";
import * as sqlite from "@oncebox/sqlite";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { documents, files, read, root } from "./documents.ts";

const sources = files("packages/*/src/*.ts").filter((path) => !path.endsWith(".test.ts"));

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

it.each(documents)("%s links to and names only what is there", (path) => {
  const text = withoutCode(read(path));
  const gone: string[] = [];
  for (const [, target = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(target)) continue;
    const [file = "", anchor] = target.split("#");
    const to = file === "" ? path : relative(root, resolve(root, dirname(path), file));
    if (!existsSync(join(root, to))) gone.push(target);
    else if (anchor !== undefined && !anchorsOf(to).has(anchor)) gone.push(target);
  }
  const tops = /^(?:packages|migrations|examples|scripts|test|docs|bench)\/[\w./@-]+$/;
  for (const [, span = ""] of text.matchAll(/`([^`\n]+)`/g)) {
    if (tops.test(span) && !existsSync(join(root, span))) gone.push(span);
  }
  expect(gone).toEqual([]);
});

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

/**
 * The defaults that are really used, as numbers: properties of an object `defaults` (or
 * `retryDefaults`), defaults of a destructuring (`{ limit = 5 }`), and fallbacks (`options.limit ?? 5`).
 */
function defaultsOf(path: string): Map<string, number> {
  const found = new Map<string, number>();
  const note = (name: string, value: ts.Expression | undefined) => {
    const text = value?.getText() ?? "";
    // Numbers and their products only, as `4 * 2 ** 20`.
    if (/^\d[\d_*\s]*$/.test(text)) found.set(name, arithmetic(text));
  };
  const visit = (node: ts.Node): void => {
    const name = ts.isVariableDeclaration(node) ? node.name.getText() : "";
    if (ts.isVariableDeclaration(node) && /^(retryD|d)efaults$/.test(name) && node.initializer) {
      const { initializer } = node;
      const value = ts.isAsExpression(initializer) ? initializer.expression : initializer;
      for (const property of ts.isObjectLiteralExpression(value) ? value.properties : []) {
        if (ts.isPropertyAssignment(property)) {
          note(property.name.getText(), property.initializer);
        }
      }
    } else if (ts.isBindingElement(node)) {
      note((node.propertyName ?? node.name).getText(), node.initializer);
    } else if (
      ts.isBinaryExpression(node) &&
      node.operatorToken.kind === ts.SyntaxKind.QuestionQuestionToken &&
      ts.isPropertyAccessExpression(node.left)
    ) {
      note(node.left.name.text, node.right);
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
  ...Object.fromEntries(
    ["Operator", "Seek", "Adopt", "Sync", "History"].map((of) => {
      return [`${of}Options`, "packages/core/src/operator.ts"];
    }),
  ),
  ...Object.fromEntries(
    ["Act", "Parked"].map((of) => {
      return [`${of}Options`, "packages/core/src/operator-parked.ts"];
    }),
  ),
  ConsumerOptions: "packages/core/src/inbox/consumer-options.ts",
  HandlerOptions: "packages/core/src/inbox/handler.ts",
  RetryOptions: "packages/core/src/inbox/handler.ts",
  DeadLetterOptions: "packages/core/src/inbox/handler.ts",
  LostPositionPolicy: "packages/core/src/inbox/lost-position.ts",
  SyncConsumerOptions: "packages/core/src/inbox/consumer-options.ts",
  InboxOptions: "packages/core/src/inbox/inbox.ts",
  SyncInboxOptions: "packages/core/src/inbox/inbox.ts",
  PruneOptions: "packages/core/src/inbox/inbox.ts",
  OutboxOptions: "packages/core/src/outbox/outbox.ts",
  SyncOutboxOptions: "packages/core/src/outbox/outbox.ts",
  OutboxRelayOptions: "packages/core/src/outbox/relay-options.ts",
  TopicOptions: "packages/core/src/topic.ts",
  PostgresStorageOptions: "packages/postgres/src/postgres-storage.ts",
  StorageOptions: "packages/postgres/src/storage-options.ts",
  MigrateOptions: "packages/postgres/src/migrate.ts",
  SqliteStorageOptions: "packages/sqlite/src/sqlite-storage.ts",
  SqliteKnexStorageOptions: "packages/sqlite/src/knex-storage.ts",
  KafkajsBrokerConfig: "packages/kafkajs/src/kafkajs-options.ts",
};

/** Where the defaults are used, if not where the options are declared. */
const defaultSources: Readonly<Record<string, string>> = {
  RetryOptions: "packages/core/src/inbox/failure-policy.ts",
};

/** Options that consist of those of others, and have no table. */
const composed = ["BatchHandlerOptions", "ChangeParkedOptions"];

/** Functions that check their options and say which they know. */
const factory = /^(create\w+|postgresStorage|sqliteStorage|kafkajsBroker)$/;

function optionRows(name: string): string {
  const rows = optionsOf(optionSources[name] ?? "", name).map((option) => {
    const value = option.defaultValue;
    const literal = value !== null && /^("[^"]*"|[\d_]+|true|false|null)$/.test(value);
    const plain = literal ? `\`${value.replace(/(?<=\d)_/g, "")}\`` : value;
    return `| \`${option.name}\` | ${plain ?? (option.optional ? "none" : "required")} | ${option.text} |`;
  });
  return ["| option | default | meaning |", "| --- | --- | --- |", ...rows].join("\n");
}

function fieldsOf(type: ts.TypeNode): string[] {
  if (ts.isTypeLiteralNode(type)) return type.members.map(({ name }) => name?.getText() ?? "");
  if (ts.isIntersectionTypeNode(type)) return type.types.flatMap(fieldsOf);
  if (ts.isParenthesizedTypeNode(type)) return fieldsOf(type.type);
  return ["consumer", "topic", "partition"]; // AtPartition
}

/** Events by their type, with the comment that stands before each. */
function eventRows(): string {
  const file = parse("packages/core/src/events.ts");
  const union = declared(file, "OnceboxEvent", ts.isTypeAliasDeclaration)?.type;
  if (union === undefined || !ts.isUnionTypeNode(union)) throw new Error("no union of events");
  const rows = union.types.map((member, index) => {
    const type = /readonly type: "([^"]+)"/.exec(member.getText())?.[1];
    const fields = fieldsOf(member).filter((field) => field !== "type");
    // The comment stands before the bar, so behind the member before.
    const behind = union.types[index - 1]?.end ?? union.getFullStart();
    const before = file.text.slice(behind, member.getStart());
    const comment = /\/\*\*(.*?)\*\//s.exec(before)?.[1]?.replace(/\s*\*?\s+/g, " ") ?? "";
    const listed = fields.map((field) => `\`${field}\``).join(", ");
    return `| \`${type}\` | ${comment.trim()} | ${listed} |`;
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
    const exported = ["core", "postgres", "sqlite", "kafkajs"].flatMap((name) => {
      const index = read(`packages/${name}/src/index.ts`);
      return [...index.matchAll(/\b([A-Z]\w+(?:Options|Config))\b/g)].map(
        ([, found]) => found ?? "",
      );
    });
    // ErrorOptions are no user's to fill in at construction.
    const known = [...Object.keys(optionSources), ...composed, "ErrorOptions"];
    expect([...new Set(exported)].filter((name) => !known.includes(name))).toEqual([]);
  });

  it.each(Object.entries(optionSources))(
    "%s: each option is explained, defaults agree",
    (name, path) => {
      const options = optionsOf(path, name);
      expect(options.filter(({ text }) => text === "")).toEqual([]);
      const used = defaultsOf(defaultSources[name] ?? path);
      const said = options.map(
        (o) => [o.name, Number(o.defaultValue?.replaceAll("_", ""))] as const,
      );
      const numeric = said.filter(([, value]) => !Number.isNaN(value));
      expect(numeric.map(([name]) => [name, used.get(name)])).toEqual(numeric);
      // And none is used that is not said.
      const names = new Set(options.map((option) => option.name));
      const silent = [...used.keys()].filter((name) => names.has(name));
      expect(silent.filter((name) => !numeric.some(([other]) => other === name))).toEqual([]);
    },
  );

  it("of promises number each one that the conformance suites cite", () => {
    const architecture = read("ARCHITECTURE.md");
    const numbered = [...architecture.matchAll(/^\*\*([A-Z]\d)\*\*/gm)].map(([, number]) => number);
    const cited = sources.flatMap((path) =>
      [...read(path).matchAll(/^ +promise: "([A-Z]\d)"/gm)].map(([, number]) => number),
    );
    expect(cited.filter((number) => !numbered.includes(number))).toEqual([]);
    expect(numbered.filter((number = "") => !cited.includes(number))).toEqual([]);
  });

  it("of folders list files that are there", () => {
    const listing = /## Folders\n+```text\n(.*?)```/s.exec(read("ARCHITECTURE.md"))?.[1] ?? "";
    const there = new Set(files("*.ts").map((path) => basename(path)));
    const listed = [...listing.matchAll(/[\w-]+(?:\.test)?\.ts\b/g)].map(([name]) => name);
    expect(listed.length).toBeGreaterThan(20);
    expect(listed.filter((name) => !there.has(name))).toEqual([]);
  });

  it.each(
    Object.entries({ ...core, ...postgres, ...sqlite, ...kafkajs }).filter(([name]) =>
      factory.test(name),
    ),
  )("%s takes the options that are listed in its section, and no others", (name, make) => {
    let known: readonly string[] = [];
    try {
      (make as (options: unknown) => unknown)({ nope: 1 });
    } catch (error) {
      known = /known: ([\w, ]+)/.exec(String(error))?.[1]?.split(", ") ?? [];
    }
    expect(known.length).toBeGreaterThan(0);
    const section = read("docs/options.md").split(`## ${name}\n`)[1]?.split("\n## ")[0] ?? "";
    expect(known.filter((option) => !section.includes(`\`${option}\``))).toEqual([]);
  });

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
    const ours = read("packages/core/src/errors.ts");
    for (const path of sources) {
      for (const [, kind, code = ""] of read(path).matchAll(thrown)) {
        // A model of a database has errors of a driver, which are not ours.
        if (!ours.includes(`class ${kind} `)) continue;
        expect(`${code}: ${documented.get(code)}`, path).toBe(`${code}: ${kind}`);
      }
    }
  });
});
