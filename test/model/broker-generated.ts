// Owns the broker scripts made by chance: each follows from its seed, and is the same in every run.

import type { At, BrokerScript, BrokerStep } from "./broker-script.ts";
import { create, group, join, leave, offsets, produce, publish, read } from "./broker-steps.ts";
import { type Chance, chanceOf } from "./storage-generated.ts";

const partitions = 2;
const stepCount = 20;

/** What a partition holds, as far as the generator has to know: Kafka refuses to delete beyond it. */
interface Known {
  readonly ends: number[];
  readonly open: { readonly name: string; readonly partition: number; readonly first: number }[];
  readonly members: string[];
  count: number;
}

/** One group over two partitions, in which others write, abort, delete and set positions. */
export function chanced(seed: number): BrokerScript {
  const chance = chanceOf(seed);
  const known: Known = { ends: [0, 0], open: [], members: ["m0"], count: 0 };
  const steps: BrokerStep[] = [create(partitions), join("m0")];
  while (steps.length < stepCount) steps.push(...stepsOf(chance, known));
  for (const { name } of known.open) {
    steps.push({ do: "end", of: name, how: chance(2) === 0 ? "commit" : "abort" });
  }
  steps.push(read, offsets("earliest"), offsets("latest"), { do: "stored", topic: "t" }, group);
  return { name: `by chance, seed ${seed}`, steps };
}

function nameOf(known: Known, prefix: string): string {
  known.count += 1;
  return `${prefix}${known.count}`;
}

function stepsOf(chance: Chance, known: Known): readonly BrokerStep[] {
  const partition = chance(partitions);
  const at: At = ["t", partition];
  const roll = chance(100);
  if (roll < 20) return [produce(at, ...added(chance, known, partition))];
  if (roll < 32) return [transactionStep(chance, known, partition)];
  if (roll < 44) return [endStep(chance, known)].flatMap((step) => step ?? []);
  if (roll < 52) return [publishStep(chance, known, partition)];
  if (roll < 60)
    return [{ do: "delete records", at, below: chance(stableEnd(known, partition) + 1) }];
  if (roll < 70) {
    return [{ do: "point", group: "g", at, to: chance((known.ends[partition] ?? 0) + 2) }, read];
  }
  if (roll < 76) return [offsets(chance(2) === 0 ? "earliest" : "latest")];
  if (roll < 84) {
    // All of them: who owns what is the assigner's choice.
    const to = chance(5);
    return known.members.map((member) => {
      return { do: "commit", member, to, at: { ownedBy: member } };
    });
  }
  if (roll < 90) return [memberStep(known)];
  return [read];
}

function added(chance: Chance, known: Known, partition: number): readonly string[] {
  const names = Array.from({ length: 1 + chance(3) }, () => nameOf(known, "v"));
  known.ends[partition] = (known.ends[partition] ?? 0) + names.length;
  return names;
}

function stableEnd({ ends, open }: Known, partition: number): number {
  const firsts = open.filter((each) => each.partition === partition).map(({ first }) => first);
  return Math.min(ends[partition] ?? 0, ...firsts);
}

function transactionStep(chance: Chance, known: Known, partition: number): BrokerStep {
  const [first] = known.open;
  if (first !== undefined && (known.open.length > 1 || chance(2) === 0)) {
    return { do: "write", to: first.name, values: added(chance, known, first.partition) };
  }
  const name = nameOf(known, "x");
  known.open.push({ name, partition, first: known.ends[partition] ?? 0 });
  return { do: "begin", as: name, at: ["t", partition], values: added(chance, known, partition) };
}

function endStep(chance: Chance, known: Known): BrokerStep | null {
  const [ended] = known.open.splice(chance(Math.max(1, known.open.length)), 1);
  if (ended === undefined) return null;
  // Its marker takes a place.
  known.ends[ended.partition] = (known.ends[ended.partition] ?? 0) + 1;
  return { do: "end", of: ended.name, how: chance(2) === 0 ? "commit" : "abort" };
}

function publishStep(chance: Chance, known: Known, partition: number): BrokerStep {
  const good = added(chance, known, partition).map((name) => ["t", partition, name] as const);
  const bad = [
    [],
    [["t", 9, nameOf(known, "bad")] as const],
    [["missing", 0, nameOf(known, "bad")] as const],
    [["t", partition, nameOf(known, "big"), 2_000_000] as const],
  ][chance(4)];
  return publish(...good.slice(0, 1), ...(bad ?? []), ...good.slice(1));
}

/** One or two members, taking turns. */
function memberStep(known: Known): BrokerStep {
  if (known.members.length > 1) return leave(known.members.shift() ?? "");
  const name = nameOf(known, "m");
  known.members.push(name);
  return join(name);
}
