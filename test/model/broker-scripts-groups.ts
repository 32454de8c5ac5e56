// Owns the broker scripts made by hand about groups and their offsets, and about publishing.

import type { BrokerScript, BrokerStep, ScriptMessage } from "./broker-script.ts";
import {
  begin,
  commit,
  create,
  end,
  group,
  join,
  leave,
  offsets,
  point,
  produce,
  publish,
  read,
  stored,
  t,
} from "./broker-steps.ts";

const groups: readonly BrokerScript[] = [
  {
    name: "two members share, and one is left",
    steps: [
      ...[create(4), join("m"), join("n"), produce(["t", 2], "a"), produce(["t", 3], "b"), read],
      ...[leave("m"), produce(["t", 1], "c"), produce(["t", 2], "d"), read, group],
    ],
  },
  {
    name: "three members of two partitions: one of them waits",
    steps: [
      create(2),
      join("m"),
      join("n"),
      join("o"),
      group,
      leave("n"),
      group,
      leave("m"),
      group,
    ],
  },
  {
    name: "offsets of a member, and of one that left",
    steps: [
      ...[
        create(),
        produce(t, "a", "b"),
        join("m"),
        commit("m", 1, [t]),
        group,
        commit("m", 2, [t]),
      ],
      ...[leave("m"), group, join("n"), commit("m", 1, [t]), group, commit("n", 0, [t]), group],
    ],
  },
  {
    name: "a member commits what another owns, and all or nothing of it",
    steps: [
      ...[create(2), join("m"), join("n"), commit("m", 3, { ownedBy: "m" })],
      ...[commit("n", 3, { ownedBy: "n" }), group, commit("m", 9, { ownedBy: "n" }), group],
      ...[commit("n", 9, [t, ["t", 1]]), group],
    ],
  },
  {
    name: "a commit of what the member never subscribed to",
    steps: [
      ...[create(), { do: "create", topic: "u" }, join("m"), commit("m", 1, [["u", 0]]), group],
      ...[commit("m", 1, [["t", 5]]), group, commit("m", 1, []), group],
    ] as readonly BrokerStep[],
  },
  {
    name: "offsets of a group are set while it has no member",
    steps: [
      create(2),
      group,
      {
        do: "set offsets",
        group: "g",
        offsets: [
          ["t", 0, 5],
          ["t", 1, 6],
        ],
      },
      ...[group, join("m")],
      { do: "set offsets", group: "g", offsets: [["t", 0, 7]] },
      ...[group, leave("m")],
      { do: "set offsets", group: "g", offsets: [["t", 0, 8]] },
      group,
    ],
  },
  {
    name: "offsets of a topic that is made anew are forgotten",
    steps: [
      create(),
      { do: "create", topic: "u" },
      {
        do: "set offsets",
        group: "g",
        offsets: [
          ["t", 0, 5],
          ["u", 0, 6],
        ],
      },
      ...([group, { do: "recreate", topic: "t" }, group] as const),
    ],
  },
  {
    name: "members of different topics get only their own",
    steps: [
      ...[create(2), { do: "create", topic: "u", partitions: 2 }],
      { do: "join", as: "m", group: "g", topics: ["t", "u"] },
      ...[produce(t, "a"), produce(["u", 1], "b"), read],
      { do: "join", as: "n", group: "g", topics: ["t"] },
      ...[produce(["t", 1], "c"), produce(["u", 0], "d"), read, leave("n"), read],
    ] as readonly BrokerStep[],
  },
  {
    name: "a consumer of a missing topic, whether it needs it or not",
    steps: [
      ...[create(), produce(t, "a")],
      { do: "join", as: "m", group: "g", topics: ["t", "missing"] },
      { do: "join", as: "m", group: "g", topics: ["t", "missing"], requireTopics: false },
      ...[read, leave("m"), group],
    ] as readonly BrokerStep[],
  },
  {
    name: "two groups read the same, each from its own position",
    steps: [
      ...[create(), produce(t, "a", "b"), point(t, 1), join("m")],
      { do: "join", as: "n", group: "h", topics: ["t"] },
      ...[
        read,
        { do: "read", group: "h" },
        leave("m"),
        produce(t, "c"),
        { do: "read", group: "h" },
      ],
    ] as readonly BrokerStep[],
  },
  {
    name: "a topic with a member is deleted and made anew, and its offsets are written again",
    steps: [
      ...[
        create(),
        produce(t, "a"),
        join("m"),
        commit("m", 1, [t]),
        { do: "recreate", topic: "t" },
      ],
      ...[group, leave("m"), group],
    ] as readonly BrokerStep[],
  },
];

const publishing: readonly BrokerScript[] = [
  {
    name: "published in the order of the call, in each partition",
    steps: [
      ...[create(2), publish(["t", 0, "a"], ["t", 1, "b"], ["t", 0, "c"], ["t", 0, "d"])],
      ...[publish(["t", 1, "e"]), stored, offsets("latest"), publish()],
    ],
  },
  {
    name: "a missing topic is refused as a whole, the rest is taken",
    steps: [
      create(),
      publish(["t", 0, "a"], ["missing", 0, "b"], ["missing", 1, "c"], ["t", 0, "d"]),
      stored,
    ],
  },
  {
    name: "a missing partition",
    steps: [
      create(),
      publish(["t", 0, "a"], ["t", 7, "b"], ["t", 0, "c"]),
      stored,
      publish(["t", 7, "d"]),
    ],
  },
  {
    name: "a message that is too large, alone and among others",
    steps: [
      { do: "create", topic: "t", partitions: 2, recordBytesMax: 2_000 },
      publish(["t", 0, "big", 5_000]),
      publish(["t", 0, "a"], ["t", 0, "huge", 5_000], ["t", 0, "b"], ["t", 1, "c"]),
      ...[stored, publish(["t", 0, "d", 1_000]), stored],
    ],
  },
  {
    name: "many that are small enough each, and together larger than one",
    steps: [
      { do: "create", topic: "t", recordBytesMax: 2_000 },
      publish(...["a", "b", "c", "d", "e"].map((n): ScriptMessage => ["t", 0, n, 900])),
      ...[stored, offsets("latest")],
    ],
  },
  {
    name: "a topic that was deleted and made anew between two calls",
    steps: [
      ...[create(), publish(["t", 0, "a"]), { do: "recreate", topic: "t" }, publish(["t", 0, "b"])],
      ...[stored, { do: "delete", topic: "t" }],
      // One that asks anew: a broker takes records for a moment from whoever knows the topic still.
      { do: "publish", by: "q", messages: [["t", 0, "c"]] },
    ] as readonly BrokerStep[],
  },
  {
    name: "published beside an open transaction: stored, and not yet read",
    steps: [
      ...[create(), begin("x", t, "a"), publish(["t", 0, "b"]), join("m"), read, offsets("latest")],
      ...[end("x", "commit"), read],
    ],
  },
];

export const groupScripts: readonly BrokerScript[] = [...groups, ...publishing];
