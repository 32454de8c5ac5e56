// Owns the seeded bugs of failing messages: parked by key, tried again beside, and found out where they
// end their process. Core and memory storage; `real` names what notices the same on real servers.

import { inFile, type SeededBug } from "./seeded-bug.ts";

const core = "packages/core/src";
const redrive = `${core}/inbox/redrive-worker.ts`;
const claim = `${core}/inbox/claim.ts`;
const plan = `${core}/inbox/plan.ts`;
const parking = `${core}/inbox/parking.ts`;
const folder = "packages/testing/src/memory-storage";
const chunk = `${folder}/chunk.ts`;
const turns = `${folder}/parked-turn.ts`;
const verbs = `${folder}/parked.ts`;
const rows = `${folder}/parked-rows.ts`;

const removed = "await this.#remove(doing);";
const committed = "await commitOf(doing, this.#connection, this.#begun, this.#firstFailure);";
const spent = "counts: false, afterMs";

/** Which messages, and in which order. */
const orderBugs: readonly SeededBug[] = [
  {
    name: "savepoint beside other handlers",
    why: "What a savepoint undoes would be other handlers' work as well: a shared transaction refuses it.",
    replace: inFile(`${folder}/memory-tx.ts`, [
      "if (hold.shared !== null) {\n    hold.shared();",
      "if (hold.ended()) {\n    hold.shared?.();",
    ]),
    finds: ["lost", "totals", "doubled", "inverted"],
    seed: 45,
  },
  {
    name: "any parked message of a key is a head",
    why: "Of a key the earliest parked message alone may be tried.",
    replace: inFile(rows, ["if (row.key === null) return true;", "if (row !== null) return true;"]),
    finds: ["inverted"],
  },
  {
    name: "held messages are handled",
    why: "What stands behind a parked message of its key is parked behind it.",
    replace: inFile(
      parking,
      ['return outcome === "held" || (key', "return (key"],
      ['conflict: outcome !== "new"', 'conflict: outcome === "conflict"'],
    ),
    finds: ["inverted"],
  },
  {
    name: "held messages taken for duplicates",
    why: "A message behind a parked one is no duplicate: it has not been handled.",
    replace: inFile(rows, ['return held ? "held" : each;', 'return held ? "duplicate" : each;']),
    finds: ["lost"],
  },
  {
    name: "released by a flag",
    why: "A partition's hint is cleared by a chunk that found nothing parked, and by no other.",
    replace: inFile(chunk, ["this.#parked = opened.parkedLeft;", "this.#parked = false;"]),
    finds: ["inverted"],
  },
  {
    name: "two messages of a key at once",
    why: "Handlers of one key run one after another, whatever runs beside them.",
    replace: inFile(`${core}/inbox/handlers-at-once.ts`, [
      "if (item.key !== null) byKey.set(mapKeyOf(item.key), queue);",
      "",
    ]),
    finds: ["inverted"],
    seed: 5,
  },
  {
    name: "a turn that nobody was told of is not given back",
    why: "Where the answer to a take is lost, the attempt it has counted is taken back.",
    replace: inFile(`${core}/inbox/redrive-worker.ts`, [
      "if (unanswered !== null) await storage.releaseParked({ consumer, token: unanswered });",
      "",
    ]),
    finds: ["overcounted"],
    seed: 110,
  },
  {
    name: "given up in the place of others",
    why: "What is given up is the message that failed, not what goes before it in another chunk.",
    replace: [
      ...inFile(plan, ["giveUp: alone && isolatedMax === 1 ? giveUp : null,", "giveUp,"]),
      ...inFile(parking, ["giveUp?.offset === record.offset", "giveUp !== null"]),
    ],
    finds: ["overcounted"],
  },
];

/** Exactly once. */
const effectBugs: readonly SeededBug[] = [
  {
    name: "a redrive records the id again",
    why: "The id of a parked message was recorded when it was parked: its redrive asks nobody.",
    replace: inFile(
      `${core}/inbox/parked-run.ts`,
      [
        "await handleOne(run, transaction, turn, turn.record, running, false);",
        `const replay = { number: 0, until: 0n };
    const [ref] = recordRefs({ ...turn, replay } as never, [turn.record as never], "id");
    const { tx, end } = transaction.handle();
    const { id = null, source = "", checksum = 0 } = ref ?? {};
    const ids = id === null ? [] : [{ source, id, checksum }];
    const [known] = await storage.recordIds(tx, turn.consumer, ids);
    end();
    if (known !== "duplicate") {
      await handleOne(run, transaction, turn, turn.record, running, false);
    }`,
      ],
      ["import { afterFailure } from", "import { afterFailure, recordRefs } from"],
    ),
    finds: ["parkedAstray", "lost"],
  },
  {
    name: "parked row deleted behind its redrive",
    why: "A parked row goes with the effects of its redrive, in one transaction.",
    replace: inFile(
      turns,
      [removed, ""],
      [`${committed}\n    } catch`, `${committed}\n      ${removed}\n    } catch`],
      ["if (transaction !== this.#begun) throw endedEarly(doing);", ""],
    ),
    finds: ["doubled", "parkedAstray"],
    seed: 244,
  },
  {
    name: "parked row deleted before its redrive",
    why: "A parked row goes with the effects of its redrive, in one transaction.",
    replace: inFile(
      turns,
      [removed, ""],
      [
        "    return new Turn(",
        `    const apart = database.tables.begin("apart");
    database.tables.write(apart, "parked", parkedKey(turn, turn.record), undefined);
    database.tables.commit(apart);
    return new Turn(`,
      ],
    ),
    finds: ["vanished", "parkedAstray", "lost"],
  },
  {
    name: "turn token not checked",
    why: "A parked message is tried by whoever holds its turn.",
    replace: inFile(verbs, [
      'row?.id === turn.id && row.token === turn.token && row.state === "retrying"',
      "row?.id === turn.id",
    ]),
    finds: ["strayTurn"],
    seed: 247,
  },
  {
    name: "a dead letter in a transaction of its own",
    why: "A message that dies in a chunk and its letter are committed together, or neither is.",
    replace: inFile(`${core}/inbox/chunk.ts`, [
      "await handling(transaction, offset, running, use, (tx) => storage.enqueue(tx, [letter]));",
      "await storage.transaction((tx) => storage.enqueue(tx, [letter]));",
    ]),
    finds: ["unlettered"],
    real: "is not left by a chunk that fails at its last statement, and once by its redo",
  },
  {
    name: "a dead letter of a turn that was taken over",
    why: "A turn that another has by then writes no letter.",
    replace: inFile(verbs, [
      "if (held) enqueueRows(",
      "if (held || copies.length > 0) enqueueRows(",
    ]),
    finds: ["unlettered"],
    seed: 750,
    real: "I6 a turn that is held no more leaves no letter",
  },
  {
    name: "derived ids by arrival",
    why: "What a handler publishes has ids that derive from its message, in every try of it.",
    replace: inFile(
      `${core}/outbox/outbox.ts`,
      [
        "  const idFor = derivedIds(incoming);\n  return {\n    // Ids",
        "  arrivals += 1;\n  const idFor = derivedIds(incoming + arrivals);\n  return {\n    // Ids",
      ],
      ["function derivedIds(", "let arrivals = 0;\n\nfunction derivedIds("],
    ),
    finds: ["shiftingIds"],
  },
];

/** Who is blamed for what. */
const blameBugs: readonly SeededBug[] = [
  {
    name: "attempt of a redrive written after it",
    why: "A try is written down before it runs: one that ends its process is counted as well.",
    replace: inFile(verbs, [
      'const taken: ParkedRow = { ...row, state: "retrying", attempts, token, ...lease };',
      'const taken: ParkedRow = { ...row, state: "retrying", token, ...lease };',
    ]),
    finds: ["uncounted"],
  },
  {
    name: "outage spends attempts of a redrive",
    why: "Trouble of the database is no failure of the parked message that meets it.",
    replace: inFile(redrive, [
      spent,
      'counts: outcome.kind === "trouble" && outcome.trouble === "global", afterMs',
    ]),
    finds: ["overcounted"],
  },
  {
    name: "local trouble spends attempts of a redrive",
    why: "A deadlock is no failure of the parked message that meets it.",
    replace: inFile(redrive, [
      spent,
      'counts: outcome.kind === "trouble" && outcome.trouble === "local", afterMs',
    ]),
    finds: ["overcounted"],
    seed: 14,
  },
  {
    name: "local trouble spends attempts",
    why: "A deadlock is no failure of the message that meets it.",
    replace: inFile(`${core}/inbox/partition.ts`, [
      'case "trouble":\n',
      `case "trouble":
        if (outcome.trouble === "local") {
          return this.#failed(chunk, chunk.records[0]?.offset ?? null, outcome.error as OnceboxError);
        }
`,
    ]),
    finds: ["attemptSpent"],
  },
  {
    name: "a claim given up alive counts as dead",
    why: "Whoever gives up a claim says that it lives: rebalances are not taken for messages that kill.",
    replace: inFile(claim, ['[storage.noteClaim(claim, { kind: "left" })]', "[Promise.resolve()]"]),
    finds: ["falseAlarm", "condemned"],
    seed: 37,
  },
  {
    name: "an innocent claim counted",
    why: "Whoever gives up a claim alive takes it back from the message that it tried under it.",
    replace: inFile(`${folder}/partitions.ts`, [
      "if (row.trying === null || row.trying.epoch !== epoch) return",
      "if (row.trying === null || row.epoch >= epoch) return",
    ]),
    finds: ["overcounted", "condemned"],
    seed: 37,
  },
  {
    name: "claimed anew before the last claim is given back",
    why: "What a process says of a claim comes before its next one, which would find it counted.",
    replace: inFile(claim, ["await context.left.said();", ""]),
    finds: ["overcounted", "condemned"],
    seed: 288,
  },
  {
    name: "a try behind a commit is not taken back",
    why: "What is written down under a claim that has moved the position is held against its message.",
    replace: inFile(`${core}/inbox/partition.ts`, ["if (cut.careful) this.#moved = false;", ""]),
    finds: ["overcounted", "condemned"],
    seed: 476,
  },
  {
    name: "condemned after one process",
    why: "One process may end for any reason: the second that ends at the same message is its doing.",
    replace: inFile(plan, ["trying.claims < killsMax", "trying.claims < 1"]),
    finds: ["condemned"],
    seed: 13,
  },
  {
    name: "not written down before it is tried alone",
    why: "Who tries a message alone writes it down before, so that the next process knows.",
    replace: inFile(claim, ['await storage.noteClaim(claim, { kind: "trying", offset });', ""]),
    finds: ["killLoop"],
    seed: 13,
  },
];

export const parkingBugs: readonly SeededBug[] = [...orderBugs, ...effectBugs, ...blameBugs];
