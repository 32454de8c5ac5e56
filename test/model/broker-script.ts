// Owns the language of broker scripts: steps as data. Topics, groups, members and transactions have
// short names; a topic's real name is another in every run.

export type At = readonly [topic: string, partition: number];

/** A record of `publish`: key and value follow from its name, the value has at least so many bytes. */
export type ScriptMessage = readonly [
  topic: string,
  partition: number,
  name: string,
  bytes?: number,
];

export type BrokerStep =
  | {
      readonly do: "create";
      readonly topic: string;
      readonly partitions?: number;
      readonly recordBytesMax?: number;
    }
  | { readonly do: "delete" | "recreate" | "partitions" | "stored"; readonly topic: string }
  | { readonly do: "delete records"; readonly at: At; readonly below: number }
  /** One batch; the time of each record follows where one is given, as one of `offsets`. */
  | {
      readonly do: "produce";
      readonly at: At;
      readonly values: readonly string[];
      readonly time?: number;
    }
  | {
      readonly do: "begin";
      readonly as: string;
      readonly at: At;
      readonly values: readonly string[];
    }
  | { readonly do: "write"; readonly to: string; readonly values: readonly string[] }
  | { readonly do: "end"; readonly of: string; readonly how: "commit" | "abort" }
  | {
      readonly do: "offsets";
      readonly topic: string;
      /** A number: milliseconds after a time that lies an hour back, as Kafka keeps no older ones. */
      readonly from: "earliest" | "latest" | number;
    }
  | { readonly do: "publish"; readonly by: string; readonly messages: readonly ScriptMessage[] }
  /** Resolves when every member of the group knows its share. */
  | {
      readonly do: "join";
      readonly as: string;
      readonly group: string;
      readonly topics: readonly string[];
      readonly requireTopics?: boolean;
    }
  | { readonly do: "leave"; readonly member: string }
  /** Where the group reads next; without it at 0. Null: nowhere. The log is described where given. */
  | {
      readonly do: "point";
      readonly group: string;
      readonly at: At;
      readonly to: number | null;
      /** Which of the topic's ids, by when it was made. */
      readonly id?: number;
      readonly epoch?: number;
    }
  /** Until the group has read all that can be read. */
  | { readonly do: "read"; readonly group: string }
  /** Commits an offset: of the partitions named, or of all that a member owns. */
  | {
      readonly do: "commit";
      readonly member: string;
      readonly to: number;
      readonly at: readonly At[] | { readonly ownedBy: string };
    }
  | { readonly do: "group"; readonly group: string; readonly topics: readonly string[] }
  | {
      readonly do: "set offsets";
      readonly group: string;
      readonly offsets: readonly (readonly [topic: string, partition: number, offset: number])[];
    };

export interface BrokerScript {
  readonly name: string;
  readonly steps: readonly BrokerStep[];
}
