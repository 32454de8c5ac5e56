/** The suite of the broker port: B1 to B8. */
import { bounded, type ConformanceCase } from "../case.ts";
import type { BrokerCase } from "./arrange.ts";
import { memberCases } from "./assignment-cases.ts";
import { batchCases } from "./batch-cases.ts";
import type { BrokerCapability, BrokerUnderTest } from "./broker-under-test.ts";
import { displacementCases } from "./displacement-cases.ts";
import { endCases, membershipCases } from "./group-cases.ts";
import { publishCases } from "./publish-cases.ts";

/** One check of a broker, and what it asks of the environment beyond the usual. */
export interface BrokerConformanceCase extends ConformanceCase<BrokerUnderTest> {
  /** Skip it, by name, where the environment cannot do these. */
  readonly needs: readonly BrokerCapability[];
}

const cases: readonly BrokerCase[] = [
  ...publishCases,
  ...batchCases,
  ...memberCases,
  ...membershipCases,
  ...displacementCases,
  ...endCases,
];

/**
 * What every broker must pass, in the order of the promises. Each case wants a fresh context and is
 * over within 30 seconds; cases have topics and groups of their own, so they may run side by side.
 */
export function brokerConformance(): readonly BrokerConformanceCase[] {
  return cases.map(({ promise, name, run, needs = [] }) => ({
    ...bounded<BrokerUnderTest>({ promise, name, run }),
    needs,
  }));
}
