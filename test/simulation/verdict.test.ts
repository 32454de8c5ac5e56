// What only a simulator can see, each in an outcome made by hand: found there, found alone, and not
// found in the outcome beside it in which all is well.

import {
  BrokerError,
  OnceboxError,
  type OnceboxEvent,
  type ParkedTurn,
  PositionError,
} from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { PlannedFailure } from "./handler.ts";
import type { manners } from "./manners.ts";
import type { parkedManners } from "./parked.ts";
import type { Plan } from "./plan.ts";
import { assigned, at, holder, opening, other, Scene } from "./scene.ts";
import type { ownAnomalies } from "./verdict.ts";
import { invoices } from "./world.ts";

function blocked(cause: Error): OnceboxEvent {
  const error = new OnceboxError("handler-failed", "it failed", { cause });
  return { ...at, type: "inbox.blocked", offset: 0n, attempt: 1, waitMs: 1, error };
}

function rewound(): OnceboxEvent {
  const error = new PositionError("position-rewound", "it stands elsewhere");
  return { ...at, type: "inbox.displaced", error, paused: false };
}

const committed: OnceboxEvent = {
  ...({ ...at, type: "inbox.chunk-committed", epoch: 1n, applied: 1, duplicates: 0 } as const),
  ...{ firstOffset: 0n, nextOffset: 1n, parked: 0, ms: 1 },
};
const cut: OnceboxEvent = { ...at, type: "inbox.chunk-cut", firstOffset: 0n };
const claimed: OnceboxEvent = { ...at, type: "inbox.claimed", epoch: 2n, nextOffset: 1n, ms: 1 };
const unreachable = new BrokerError("broker-unavailable", "Kafka is away");

const stalled: OnceboxEvent = { ...at, type: "inbox.claims-stalled", claims: 4 };

type Act = (scene: Scene) => Promise<void> | void;

/** One for each finding, and what looks like it and is none. */
type Outcomes<Name extends string> = Record<Name, { readonly bad: Act; readonly good: Act }>;

const outcomes: Outcomes<keyof typeof ownAnomalies | keyof typeof manners> = {
  attemptSpent: {
    bad: (scene) => scene.say(holder, blocked(unreachable)),
    good: (scene) => scene.say(holder, blocked(new PlannedFailure("it should"))),
  },
  floorAnomaly: {
    bad: (scene) => scene.say(holder, { type: "outbox.floor-anomaly", relay: "relay", rows: 1 }),
    good: (scene) => scene.lease(),
  },
  unannounced: {
    bad: (scene) => scene.passOver(false),
    good: (scene) => scene.passOver(true),
  },
  totals: {
    bad: (scene) => scene.count(),
    good: () => undefined,
  },
  absent: {
    bad: ({ witness }) => witness.running([{ name: holder, member: null }]),
    good: ({ witness }) => witness.running([{ name: holder, member: `${holder}-1` }]),
  },
  unstopped: {
    bad: ({ witness }) => witness.stopped([{ name: holder, down: false }]),
    good: ({ witness }) => witness.stopped([{ name: holder, down: true }]),
  },
  broke: {
    bad: ({ witness }) => witness.broke(new Error("nobody caught it")),
    good: () => undefined,
  },
  strayClaim: {
    bad: (scene) => scene.say(other, claimed),
    good: (scene) => {
      scene.say(other, assigned);
      scene.say(other, claimed);
    },
  },
  strayOpen: {
    bad: (scene) => scene.say(other, rewound()),
    good: (scene) => scene.say(holder, rewound()),
  },
  strayCommit: {
    bad: (scene) => scene.advance(other, 1n),
    good: (scene) => scene.advance(holder, 1n),
  },
  strayOffsets: {
    bad: (scene) => scene.manners.offsetsSent(`${other}-1`, [at]),
    good: (scene) => scene.manners.offsetsSent(`${holder}-1`, [at]),
  },
  earlyEnd: {
    bad: (scene) => {
      scene.manners.endingEarly(holder, 0);
      scene.say(holder, committed);
    },
    good: (scene) => {
      scene.manners.endingEarly(holder, 0);
      scene.say(holder, opening(1));
      scene.say(holder, committed);
    },
  },
  hastyCut: {
    bad: (scene) => {
      scene.manners.leaving(holder);
      scene.say(holder, cut);
    },
    good: async (scene) => {
      scene.manners.leaving(holder);
      await scene.world.clock.advance(1);
      scene.say(holder, cut);
    },
  },
  crowdedRetry: {
    bad: (scene) => {
      scene.say(holder, blocked(new PlannedFailure("it should")));
      scene.say(holder, opening(2));
    },
    good: (scene) => {
      scene.say(holder, blocked(new PlannedFailure("it should")));
      scene.say(holder, opening(1));
      scene.say(holder, opening(2));
    },
  },
  falseAlarm: {
    bad: (scene) => scene.say(holder, stalled),
    good: (scene) => {
      scene.manners.troubled(1);
      scene.say(holder, stalled);
    },
  },
  shiftingIds: {
    bad: ({ manners }) => {
      manners.derived("m1", ["a"]);
      manners.derived("m1", ["b"]);
    },
    good: ({ manners }) => {
      manners.derived("m1", ["a"]);
      manners.derived("m1", ["a"]);
    },
  },
  strayPublish: {
    bad: async (scene) => {
      await scene.lease();
      await scene.world.clock.advance(60_001);
      await scene.publish("in turn");
    },
    good: async (scene) => {
      await scene.lease();
      await scene.publish("in turn");
    },
  },
  overlappingSends: {
    bad: async (scene) => {
      await scene.lease();
      await scene.publish("at once");
    },
    good: async (scene) => {
      await scene.lease();
      await scene.publish("in turn");
    },
  },
};

const failing = "handler-failed";
const killing = "message-kills-process";

/** The second message has failed once, and is parked. */
async function parked(scene: Scene): Promise<void> {
  scene.failed(1);
  await scene.park(failing);
}

const parkedOutcomes: Outcomes<keyof typeof parkedManners> = {
  strayTurn: {
    bad: async (scene) => {
      await parked(scene);
      await scene.take(holder);
      scene.remove("of another turn");
      await scene.apply(2);
    },
    good: async (scene) => {
      await parked(scene);
      scene.remove((await scene.take(holder)).token);
      await scene.apply(2);
    },
  },
  uncounted: {
    bad: async (scene) => {
      await parked(scene);
      scene.tamper({ state: "retrying", token: "another" });
    },
    good: async (scene) => {
      await parked(scene);
      await scene.take(holder);
    },
  },
  overcounted: {
    bad: async (scene) => {
      await parked(scene);
      await scene.settle(await scene.take(holder), failing);
    },
    good: async (scene) => {
      await parked(scene);
      const turn = await scene.take(holder);
      await scene.fail(holder, turn);
      await scene.settle(turn, failing);
    },
  },
  condemned: {
    bad: async (scene) => {
      scene.failed(1);
      // One process, however often it tries.
      await scene.endWhileTrying();
      await scene.endWhileTrying();
      await scene.park(killing);
    },
    good: async (scene) => {
      scene.failed(1);
      await scene.endWhileTrying();
      await scene.claimAgain({ left: false });
      await scene.endWhileTrying();
      await scene.park(killing);
    },
  },
  killLoop: {
    bad: ({ parked }) => {
      for (let time = 1; time <= 16; time += 1) parked.killing("m1");
    },
    good: ({ parked }) => {
      for (let time = 1; time <= 15; time += 1) parked.killing("m1");
    },
  },
  vanished: {
    bad: async (scene) => {
      await scene.park(null, 0);
      scene.tamper(null);
      // It has its effect all the same.
      await scene.apply(2);
    },
    good: async (scene) => {
      await scene.park(null, 0);
      await scene.skip();
    },
  },
  unsettled: {
    bad: async (scene) => {
      await scene.park(null, 0);
      scene.parked.ended();
    },
    good: async (scene) => {
      await scene.park(null, 0);
      const turn = await scene.take(holder);
      await scene.settle(turn, failing, false);
      scene.parked.ended();
    },
  },
  unlettered: {
    bad: async (scene) => {
      await scene.park(null, 0);
      const turn = await scene.take(holder);
      await scene.settle(turn, failing, false, false);
    },
    good: async (scene) => {
      await scene.park(null, 0);
      const turn = await scene.take(holder);
      await scene.settle(turn, failing, false);
    },
  },
};

async function outcomeOf(act: Act, change: Partial<Plan> = {}) {
  const scene = new Scene(change);
  await scene.begin();
  await act(scene);
  return scene.found();
}

describe.each(Object.entries({ ...outcomes, ...parkedOutcomes }))("%s", (name, { bad, good }) => {
  it("is found, and nothing else", async () => {
    expect(Object.keys(await outcomeOf(bad))).toEqual([name]);
  });

  it("is not found where all is well", async () => {
    expect(await outcomeOf(good)).toEqual({});
  });
});

it("more attempts than a message has failed where its partition waits are too many", async () => {
  expect(Object.keys(await outcomeOf((scene) => scene.park()))).toEqual(["overcounted"]);
});

it("what a process was told while it stood still is old when it goes on", async () => {
  const thawed: Act = (scene) => {
    scene.manners.thawing(other);
    scene.say(other, rewound());
  };
  expect(await outcomeOf(thawed)).toEqual({});
});

it("a turn that nobody has begun is given back by whoever lives", async () => {
  const takenAgain =
    (act: (scene: Scene, turn: ParkedTurn) => Promise<void> | void): Act =>
    async (scene) => {
      await parked(scene);
      await act(scene, await scene.take(holder));
      await scene.world.clock.advance(1_001);
      await scene.take(other);
    };
  const foundAfter = async (...given: Parameters<typeof takenAgain>) =>
    Object.keys(await outcomeOf(takenAgain(...given)));
  expect(await foundAfter(() => undefined)).toEqual(["overcounted"]);
  expect(
    await foundAfter(({ parked: watch, manners }) => watch.ending(holder, manners.holders)),
  ).toEqual([]);
  expect(await foundAfter((scene, turn) => scene.giveBack(turn))).toEqual([]);
  // What was begun is not given back: its attempt counts.
  const begun = await foundAfter(async (scene, turn) => {
    scene.parked.opening(turn);
    await scene.giveBack(turn);
  });
  expect(begun).toEqual(["uncounted"]);
});

it("a database that was set back may hold a turn against a message whose end it has forgotten", async () => {
  const takenAgain =
    (restored: boolean): Act =>
    async (scene) => {
      await parked(scene);
      const turn = await scene.take(holder);
      await scene.fail(holder, turn);
      if (restored) scene.world.restoredAt = scene.world.clock.now();
      await scene.world.clock.advance(1_001);
      await scene.settle(await scene.take(other), killing);
    };
  expect(await outcomeOf(takenAgain(true))).toEqual({});
  expect(Object.keys(await outcomeOf(takenAgain(false)))).toEqual(["condemned"]);
});

it("what the checker finds in the topic of orders is passed on", async () => {
  const found = await outcomeOf(({ world }) => {
    world.written.push({ id: "m2", key: "k", sequence: 2, state: "acknowledged" });
  });
  expect(Object.keys(found).sort()).toEqual(["lost", "unpublished"]);
});

it("an effect whose handler should publish owes a message", async () => {
  const publishing = { publishing: true };
  expect(await outcomeOf(() => undefined, publishing)).toEqual({
    unpublished: [expect.stringMatching(/^invoice /)],
  });
  const published: Act = ({ world }) => {
    const record = { key: "k", value: JSON.stringify({ id: "m1" }) };
    world.outside.admin.produce(invoices.name, 0, [record]);
  };
  expect(await outcomeOf(published, publishing)).toEqual({});
});

it("a relay goes by its lease for as long as it lasts, also where a restore has taken it back", async () => {
  const takenBack =
    (waitMs: number): Act =>
    async (scene) => {
      scene.world.restoredAt = scene.world.clock.now();
      await scene.world.clock.advance(waitMs);
      await scene.publish("in turn");
    };
  expect(await outcomeOf(takenBack(4_000))).toEqual({});
  const found = await outcomeOf(takenBack(6_000));
  expect(found.strayPublish).toHaveLength(2);
});

it("a handler that commits behind our back may be repeated", async () => {
  expect(await outcomeOf((scene) => scene.count(), { committing: 0.1 })).toEqual({});
});

it("what it has committed owes no message where its message is given up", async () => {
  const torn: Act = async (scene) => {
    const record = { key: "k", value: JSON.stringify({ id: "m1" }) };
    scene.world.outside.admin.produce(invoices.name, 0, [record]);
    await scene.park(null, 0);
    await scene.apply(2);
    await scene.skip();
  };
  expect(await outcomeOf(torn, { publishing: true, committing: 0.1 })).toEqual({});
  const found = await outcomeOf(torn, { publishing: true });
  expect(found.unpublished).toEqual([expect.stringMatching(/^invoice m2/)]);
});
