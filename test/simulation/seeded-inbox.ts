// Owns the seeded bugs of the core's inbox: claims, chunks, what is read, and what follows from it.

import { inFile, type SeededBug } from "./seeded-bug.ts";

const folder = "packages/core/src/inbox";
const partition = `${folder}/partition.ts`;
const consumer = `${folder}/consumer.ts`;
const chunk = `${folder}/chunk.ts`;
const handlerRun = `${folder}/handler-run.ts`;
const reader = `${folder}/reader.ts`;
const buffer = `${folder}/buffer.ts`;

export const inboxBugs: readonly SeededBug[] = [
  {
    name: "offset committed before the database",
    why: "The group hears of positions that the database has committed, of no others.",
    replace: inFile(partition, [
      "const { attempt, giveUp } = cut;",
      "const { attempt, giveUp } = cut;\n      this.#tell(claim, chunk.endOffset);",
    ]),
    finds: ["groupAhead"],
  },
  {
    name: "claim kept over a rebalance",
    why: "Every assignment ends all workers of the one before.",
    replace: inFile(
      consumer,
      ["this.#voidAssignment();\n    const consumer", "const consumer"],
      [
        "const workers = new Map<string, PartitionWorker>();",
        "const workers = new Map<string, PartitionWorker>(this.#assignment?.workers);",
      ],
      [
        "if (handler === undefined) continue;",
        'if (!handler || workers.has(topic + "/" + partition)) continue;',
      ],
    ),
    finds: ["strayClaim"],
  },
  {
    name: "left-over batch may claim",
    why: "Only an assignment makes a worker: a batch of a partition that is not assigned is dropped.",
    replace: inFile(consumer, [
      'const owned = worker === undefined ? "not-assigned" : "wrong-position";',
      `const owned = worker === undefined ? "not-assigned" : "wrong-position";
    const handler = this.#handlers.get(topic);
    if (worker === undefined && handler !== undefined) {
      const { runChunk, policy } = handler;
      const inOrder = { atOnceMax: () => 1, keepOrder: () => undefined };
      const context = { ...this.#context, runChunk, policy, ...inOrder };
      new PartitionWorker(context, { consumer, topic, partition });
    }`,
    ]),
    finds: ["strayClaim"],
    seed: 291,
    real: "a batch left over from an earlier assignment is dropped, and claims nothing",
  },
  {
    name: "batch resolved though not applied",
    why: "What failed stays in the buffer until it is committed.",
    replace: inFile(partition, [
      'case "failed":',
      `case "failed":
        this.reader?.drop(chunk.endOffset);
        this.reader?.drop(chunk.firstOffset);`,
    ]),
    finds: ["lost"],
  },
  {
    name: "gap accepted without explanation",
    why: "A batch is taken only where it goes on from the one before.",
    replace: inFile(buffer, [
      "batch.fetchedOffset !== end.offset",
      "batch.fetchedOffset < end.offset",
    ]),
    finds: ["lost", "inverted"],
    seed: 82,
  },
  {
    name: "filtered batch not counted",
    why: "A batch without records moves the position over what was filtered out of it.",
    replace: inFile(buffer, [
      "const size = records.reduce(",
      'if (records.length === 0) return "empty";\n    const size = records.reduce(',
    ]),
    finds: ["undrained"],
    seed: 6,
    real: "B3: what has no record is not accounted for",
  },
  {
    name: "reset followed silently",
    why: "A position below the log's start pauses the partition and says what is gone.",
    replace: inFile(
      reader,
      ["  #trouble: Error | null = null;", "  #trouble: Error | null = null;\n  #reset = -1n;"],
      [
        "displaced(asked: bigint, why: Displacement): void {",
        `#followed(batch: RecordBatch): RecordBatch {
    if (batch.fetchedOffset !== this.#reset) return batch;
    this.#reset = -1n;
    return { ...batch, fetchedOffset: this.#buffer.wanted()?.offset ?? 0n };
  }

  displaced(asked: bigint, why: Displacement): void {
    const start = why.kind === "out-of-range" ? (why.log?.start ?? 0n) : 0n;
    if ((this.#buffer.wanted()?.offset ?? start) < start) {
      this.#verifying = null;
      this.#reset = start;
      return;
    }`,
      ],
      [
        "if (wanted === null || this.#verifying === null) return wanted;",
        `if (wanted !== null && this.#reset >= 0n) {
      return { ...wanted, offset: this.#reset, leaderEpoch: null };
    }
    if (wanted === null || this.#verifying === null) return wanted;`,
      ],
      [
        "deliver(batch: RecordBatch): void {",
        "deliver(given: RecordBatch): void {\n    const batch = this.#followed(given);",
      ],
    ),
    finds: ["unannounced"],
    seed: 98,
    real: "B7: a position outside the log is moved to its start",
  },
  {
    name: "position without its log",
    why: "A position carries the topic's id and the leader epoch, and both are held against the log.",
    replace: [
      ...inFile(reader, [
        "buffer({ offset: nextOffset, topicId, leaderEpoch }, context.buffer)",
        "buffer({ offset: nextOffset, topicId: null, leaderEpoch: null }, context.buffer)",
      ]),
      ...inFile(buffer, [
        "end = { offset: endOffset, topicId, leaderEpoch: endEpoch };",
        "end = { offset: endOffset, topicId: null, leaderEpoch: null };",
      ]),
    ],
    finds: ["lost"],
    seed: 177,
    real: "B7: a topic made anew passes for the old one",
  },
  {
    name: "last handled record not looked for",
    why: "After a claim the last handled record is found again: a log may be another one all the same.",
    replace: inFile(reader, [
      "this.#verifying = last !== null && last.offset < nextOffset ? last : null;",
      "this.#verifying = last !== null && last.offset < 0n ? last : null;",
    ]),
    finds: ["lost"],
    seed: 17,
  },
  {
    name: "unknown COMMIT taken as failed",
    why: "An unknown COMMIT is nobody's failure: the claim is taken anew, and the row says what became of it.",
    replace: inFile(chunk, [
      'return { kind: "unknown", error };',
      'return { kind: "failed", offset: null, error };',
    ]),
    finds: ["attemptSpent"],
    real: "unknown taken as failed: what was committed is run again",
  },
  {
    name: "unknown COMMIT taken as committed",
    why: "An unknown COMMIT is no commit: the claim is taken anew, and the row says what became of it.",
    replace: inFile(chunk, [
      'return { kind: "unknown", error };',
      'return { kind: "committed", applied: 0, duplicates: 0 };',
    ]),
    finds: ["lost", "groupAhead", "undrained"],
    seed: 58,
    real: "unknown taken as committed: what was not is lost",
  },
  {
    name: "outage spends attempts",
    why: "Trouble of the database is no failure of the message that meets it.",
    replace: inFile(partition, [
      "return this.#troubled(chunk, outcome.trouble, outcome.error);",
      "return this.#failed(chunk, null, outcome.error as OnceboxError);",
    ]),
    finds: ["attemptSpent"],
  },
  {
    name: "a database that went back is not noticed",
    why: "A chunk runs only where the row stands where the worker left it.",
    replace: inFile(chunk, ["transaction.nextOffset !== chunk.firstOffset", "false"]),
    finds: ["lost", "inverted"],
    seed: 67,
  },
  {
    name: "lost claims are not looked for while idle",
    why: "A claim that was taken while there was nothing to do is noticed, and taken again.",
    replace: inFile(`${folder}/watchdog.ts`, ["await checkClaims(context);", ""]),
    finds: ["undrained", "lost"],
    seed: 17,
    real: "I1: a claim that was taken over is not told",
  },
  {
    name: "silent clients are kept",
    why: "A Kafka client that is connected and owes answers is made anew.",
    replace: inFile(`${folder}/watchdog.ts`, ["context.silent(", "new Array("]),
    finds: ["undrained", "lost"],
    seed: 20,
  },
  {
    name: "dead clients are not replaced",
    why: "A Kafka client that dies is made anew.",
    replace: inFile(`${folder}/client.ts`, [
      "failed: (error) => {\n        if (current())",
      "failed: (error) => {\n        if (false)",
    ]),
    finds: ["absent", "undrained", "lost"],
    seed: 13,
  },
  {
    name: "a hung handler is waited for",
    why: "A handler that never ends is cut off, and its message is tried again.",
    replace: inFile(handlerRun, [
      "Promise.race([outcome, wasCut, hung])",
      "Promise.race([outcome, wasCut])",
    ]),
    finds: ["undrained", "lost"],
  },
  {
    name: "offsets outlive their assignment",
    why: "What was noted for the group under one assignment is forgotten at the next.",
    replace: inFile(consumer, ["this.#offsets.clear();", ""]),
    finds: ["strayOffsets"],
  },
  {
    name: "a failed message is not run alone",
    why: "After a failure the good messages before it go first, then it goes alone.",
    replace: inFile(`${folder}/isolation.ts`, [
      "if (isolation === null) return",
      "if (isolation !== undefined) return",
    ]),
    finds: ["crowdedRetry"],
  },
  {
    name: "a stop cuts at once",
    why: "A stop lets running chunks end within its deadline.",
    replace: inFile(consumer, ["await this.#atMost(left() - reserveMs, finished);", ""]),
    finds: ["hastyCut"],
    seed: 145,
    real: "A8: finishes the running chunk, commits the group's offset, starts nothing new",
  },
];
