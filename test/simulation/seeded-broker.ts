// Owns the seeded bugs of the Kafka client's half of the inbox, for which the memory broker stands.

import { inFile, type SeededBug } from "./seeded-bug.ts";

export const brokerBugs: readonly SeededBug[] = [
  {
    name: "aborted records passed on",
    why: "Records of aborted transactions are filtered out of what is fetched.",
    replace: inFile("packages/testing/src/memory-broker/partition-log.ts", [
      "return uncommitted || transaction === null ||",
      "return uncommitted || transaction !== undefined ||",
    ]),
    finds: ["abortedApplied", "phantom"],
    real: "without Kafka's list of aborted transactions their records take effect",
  },
];
