/** What a person does with parked messages, page by page, each page audited. */
import { keyBytesOf } from "./message.ts";
import { aName, checkOptions, integer, oneOf, type Rule } from "./options.ts";
import type { ParkedFilter, ParkedMessage, ParkedState } from "./ports/parking.ts";
import type { StorageVerbs } from "./ports/storage.ts";

/** Every verb that changes something takes these. */
export interface ActOptions {
  /** Why, in a sentence: written into the audit log. */
  readonly reason: string;
  /**
   * Says what would be done and does nothing.
   * @defaultValue false
   */
  readonly dryRun?: boolean;
}

/** Which parked messages are meant: those that fit all that is given. */
export interface ParkedChoice {
  /** Whose: the name of a consumer. */
  readonly consumer: string;
  /** @defaultValue of all topics */
  readonly topic?: string;
  /** @defaultValue of all partitions */
  readonly partition?: number;
  /** As `parked` tells them. @defaultValue any */
  readonly ids?: readonly bigint[];
  /** @defaultValue of any key, and of none */
  readonly key?: string | Uint8Array;
  /** @defaultValue in any state */
  readonly state?: ParkedState;
}

export interface ParkedOptions extends ParkedChoice {
  /**
   * Most messages to return.
   * @defaultValue 100
   */
  readonly limit?: number;
  /** Messages above this id only: the next page. */
  readonly above?: bigint;
}

export interface ChangeParkedOptions extends ParkedChoice, ActOptions {}

/** Messages in one transaction. */
const pageSize = 500;
/** Messages that are only counted carry their bytes. */
const countedPageSize = 100;

export const aText: Rule = {
  is: "text that is not empty, at most 2000 characters",
  fits: (value) => typeof value === "string" && value.trim().length > 0 && value.length <= 2_000,
};
export const aBoolean: Rule = {
  is: "true or false",
  fits: (value) => typeof value === "boolean",
  optional: true,
};
export const aTopic: Rule = {
  is: "a topic's name",
  fits: (value) => typeof value === "string" && value.length > 0,
};
export const act = { reason: aText, dryRun: aBoolean };
const aBigint: Rule = {
  is: "a bigint",
  fits: (value) => typeof value === "bigint",
  optional: true,
};
const choice = {
  consumer: aName,
  topic: { ...aTopic, optional: true },
  partition: integer(0, 2 ** 31 - 1),
  ids: {
    is: "a list of 1 to 10000 ids, each a bigint",
    fits: (value: unknown) =>
      Array.isArray(value) &&
      value.length > 0 &&
      value.length <= 10_000 &&
      value.every((id) => typeof id === "bigint"),
    optional: true,
  },
  key: {
    is: "text or bytes",
    fits: (value: unknown) => typeof value === "string" || value instanceof Uint8Array,
    optional: true,
  },
  state: oneOf("waiting", "retrying", "dead"),
};

export async function listParked(
  storage: Pick<StorageVerbs, "parked">,
  given: ParkedOptions,
): Promise<readonly ParkedMessage[]> {
  const rules = { ...choice, limit: integer(1, 10_000), above: aBigint };
  checkOptions("operator.parked", given, rules);
  const { limit = 100, above = null } = given;
  return storage.parked(filterOf(given), { limit, above });
}

/** Page after page: what is done stays done, should one of them fail. */
export async function changeParked(
  operator: {
    readonly storage: Pick<StorageVerbs, "parked" | "changeParked">;
    readonly actor: string;
  },
  action: "redrive" | "skip",
  given: ChangeParkedOptions,
): Promise<number> {
  checkOptions(`operator.${action}`, given, { ...choice, ...act });
  const { storage, actor } = operator;
  const filter = filterOf(given);
  if (given.dryRun) return count(storage, filter, action);
  const audit = { actor, reason: given.reason };
  let changed = 0;
  for (let above: bigint | null = null; ; ) {
    const page = { limit: pageSize, above };
    const done = await storage.changeParked({ action, filter, page, audit });
    changed += done.changed;
    if (done.next === null) return changed;
    above = done.next;
  }
}

async function count(
  storage: Pick<StorageVerbs, "parked">,
  filter: ParkedFilter,
  action: "redrive" | "skip",
): Promise<number> {
  let found = 0;
  for (let above: bigint | null = null; ; ) {
    const messages: readonly ParkedMessage[] = await storage.parked(filter, {
      limit: countedPageSize,
      above,
    });
    found += messages.filter(({ state }) => action === "skip" || state !== "retrying").length;
    const last = messages.at(-1);
    if (last === undefined || messages.length < countedPageSize) return found;
    above = last.id;
  }
}

function filterOf({ consumer, topic, partition, ids, key, state }: ParkedChoice): ParkedFilter {
  const keyBytes = key === undefined ? null : keyBytesOf(key);
  return {
    consumer,
    ...(topic === undefined ? {} : { topic }),
    ...(partition === undefined ? {} : { partition }),
    ...(ids === undefined ? {} : { ids }),
    ...(keyBytes === null ? {} : { key: keyBytes }),
    ...(state === undefined ? {} : { state }),
  };
}
