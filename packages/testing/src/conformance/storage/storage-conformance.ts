/** The suite of the storage port: T1, I1 to I7, O1 to O6, M1. */
import { bounded, type ConformanceCase } from "../case.ts";
import { operatorCases } from "./adoption-cases.ts";
import type { StorageCase } from "./arrange.ts";
import { chunkCases } from "./chunk-cases.ts";
import { ownershipCases } from "./claim-cases.ts";
import { handlerOutboxCases } from "./handler-outbox-cases.ts";
import { heldCases } from "./held-cases.ts";
import { laneCases } from "./lane-cases.ts";
import { letterCases } from "./letter-cases.ts";
import { logCases } from "./log-cases.ts";
import { migrationCases } from "./migration-cases.ts";
import { outboxCases } from "./outbox-cases.ts";
import { parkingCases } from "./parking-cases.ts";
import { pruneCases } from "./prune-cases.ts";
import { recordingCases } from "./recording-cases.ts";
import { redriveCases } from "./redrive-cases.ts";
import { retryCases } from "./retry-cases.ts";
import { seekCases } from "./seek-cases.ts";
import { sharingCases } from "./sharing-cases.ts";
import { stallCases } from "./stall-cases.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";
import { transactionCases } from "./transaction-cases.ts";
import { turnCases } from "./turn-cases.ts";

const all: readonly StorageCase[] = [
  ...transactionCases,
  ...ownershipCases,
  ...stallCases,
  ...recordingCases,
  ...chunkCases,
  ...sharingCases,
  ...logCases,
  ...seekCases,
  ...operatorCases,
  ...parkingCases,
  ...heldCases,
  ...turnCases,
  ...retryCases,
  ...letterCases,
  ...redriveCases,
  ...pruneCases,
  ...outboxCases,
  ...handlerOutboxCases,
  ...laneCases,
  ...migrationCases,
];

const promises = [...new Set(all.map(({ promise }) => promise))];
const cases = promises.flatMap((promise) => all.filter((each) => each.promise === promise));

/**
 * What every storage must pass, in the order of the promises. Each case wants a fresh context and is
 * over within 30 seconds; cases do not touch each other, so they may run side by side.
 */
export function storageConformance<Tx>(): readonly ConformanceCase<StorageUnderTest<Tx>>[] {
  return cases.map(({ promise, name, run }) =>
    bounded<StorageUnderTest<Tx>>({ promise, name, run: (context) => run(context) }),
  );
}
