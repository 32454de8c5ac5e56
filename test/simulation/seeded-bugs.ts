// Owns the list of seeded bugs: mechanisms that are removed one at a time, to see that the simulator
// finds what they protect from. A new mechanism adds its own.

import { brokerBugs } from "./seeded-broker.ts";
import type { SeededBug } from "./seeded-bug.ts";
import { databaseBugs } from "./seeded-database.ts";
import { inboxBugs } from "./seeded-inbox.ts";
import { outboxBugs } from "./seeded-outbox.ts";
import { parkingBugs } from "./seeded-parking.ts";
import { pruningBugs } from "./seeded-pruning.ts";

export const seededBugs: readonly SeededBug[] = [
  ...databaseBugs,
  ...inboxBugs,
  ...brokerBugs,
  ...outboxBugs,
  ...parkingBugs,
  ...pruningBugs,
];
