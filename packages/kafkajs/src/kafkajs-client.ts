/**
 * The contact with kafkajs, undocumented parts included: one client with its own connections, and the
 * doors through which its requests pass. Everything undocumented that we use is declared here, in
 * structural types that name only what is used. Never decides anything about messages.
 *
 * The way in: kafkajs hands its cluster object to each partition-assigner factory. Replacing
 * `cluster.brokerPool.createBroker` puts every connection to a broker in our hands at its birth.
 * kafkajs 2.2.4 is the last release, so this does not move; another version is refused.
 */
import { createRequire } from "node:module";
import { connect as connectPlain, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import kafkajs, {
  type Assigner,
  type Consumer,
  type ConsumerConfig,
  type ISocketFactory,
  type RetryOptions,
} from "kafkajs";
import { clientUnsupported, kafkaCode, toOnceboxError } from "./kafkajs-errors.ts";
import type { KafkajsSettings } from "./kafkajs-options.ts";

export interface PartitionMetadata {
  readonly partitionId: number;
  /** -1 while there is none. */
  readonly leader: number;
}

export interface TopicMetadata {
  readonly topic: string;
  readonly topicErrorCode: number;
  readonly partitionMetadata: readonly PartitionMetadata[];
}

/** One version of one request, with its encoding and decoding. */
export interface ProtocolCall {
  readonly request: { readonly apiName: string; readonly apiVersion: number };
  readonly response: {
    readonly decode: (bytes: Buffer) => Promise<unknown>;
    readonly parse: (decoded: never) => Promise<unknown>;
  };
}

export type Protocol = (args: unknown) => ProtocolCall;

export interface FetchRequest {
  readonly maxWaitTime: number;
  readonly minBytes?: number;
  readonly maxBytes: number;
  readonly topics: readonly {
    readonly topic: string;
    readonly partitions: readonly {
      readonly partition: number;
      readonly maxBytes: number;
    }[];
  }[];
}

export interface Membership {
  readonly groupId: string;
  readonly memberId: string;
  readonly generationId: number;
}

interface OffsetCommit {
  readonly groupId: string;
  readonly groupGenerationId: number;
  readonly memberId: string;
  readonly topics: readonly {
    readonly topic: string;
    readonly partitions: readonly {
      readonly partition: number;
      readonly offset: string;
      readonly metadata: string;
    }[];
  }[];
}

interface FetchedOffsets {
  readonly responses: readonly {
    readonly topic: string;
    readonly partitions: readonly {
      readonly partition: number;
      readonly offset: string;
      readonly metadata: string | null;
    }[];
  }[];
}

interface DescribedGroups {
  readonly groups: readonly { readonly groupId: string; readonly members: readonly unknown[] }[];
}

interface DescribedConfigs {
  readonly resources: readonly {
    readonly configEntries: readonly {
      readonly configName: string;
      readonly configValue: string;
    }[];
  }[];
}

interface ListedOffsets {
  readonly responses: readonly {
    readonly topic: string;
    readonly partitions: readonly { readonly partition: number; readonly offset: string }[];
  }[];
}

/** kafkajs' `Broker`: the connections to one Kafka node. */
export interface KafkaNode {
  readonly nodeId: number | null;
  lookupRequest: (apiKey: number, definition: unknown) => Protocol;
  metadata: (topics: readonly string[]) => Promise<unknown>;
  fetch: (request: FetchRequest) => Promise<unknown>;
  joinGroup: (request: { groupId: string }) => Promise<unknown>;
  readonly produce: (request: {
    acks: number;
    timeout: number;
    topicData: readonly never[];
  }) => Promise<unknown>;
  readonly offsetCommit: (request: OffsetCommit) => Promise<unknown>;
  /** Without topics: those of all that the group has committed. */
  readonly offsetFetch: (request: {
    groupId: string;
    topics: readonly never[];
  }) => Promise<FetchedOffsets>;
  readonly describeGroups: (request: { groupIds: readonly string[] }) => Promise<DescribedGroups>;
  readonly describeConfigs: (request: {
    readonly resources: readonly {
      readonly type: number;
      readonly name: string;
      readonly configNames: readonly string[];
    }[];
  }) => Promise<DescribedConfigs>;
  readonly listOffsets: (request: {
    isolationLevel: number;
    topics: readonly {
      topic: string;
      partitions: readonly { partition: number; timestamp: number | string }[];
    }[];
  }) => Promise<ListedOffsets>;
}

/** kafkajs' `Cluster`: the nodes and what is known of the topics. */
export interface KafkaCluster {
  readonly connect: () => Promise<void>;
  readonly findBroker: (node: { nodeId: string }) => Promise<KafkaNode>;
  readonly findGroupCoordinator: (group: { groupId: string }) => Promise<KafkaNode>;
  readonly addMultipleTargetTopics: (topics: readonly string[]) => Promise<void>;
  readonly refreshMetadata: () => Promise<void>;
  readonly refreshMetadataIfNecessary: () => Promise<void>;
  readonly findTopicPartitionMetadata: (topic: string) => readonly PartitionMetadata[];
  readonly markOffsetAsCommitted: (position: {
    groupId: string;
    topic: string;
    partition: number;
    offset: string;
  }) => void;
  readonly brokerPool: { createBroker: (options: unknown) => KafkaNode };
}

/** What the maker of a client wants to see of its requests. */
interface ClientHooks {
  readonly assigner: (cluster: KafkaCluster) => Assigner;
  readonly fetch?: (
    node: KafkaNode,
    request: FetchRequest,
  ) => Promise<{ responses: readonly never[] }>;
  /** What a node said of a topic, each time that metadata were read. */
  readonly described?: (node: KafkaNode, topic: TopicMetadata) => void;
  readonly joined?: (node: KafkaNode, member: Membership) => void;
}

export interface KafkajsClient {
  readonly consumer: Consumer;
  readonly cluster: KafkaCluster;
  /** Kafka's error code for a topic when its metadata was last read; 0 where all is well. */
  readonly topicError: (topic: string) => number;
  /** Cuts every connection at once and allows no new one. */
  readonly destroy: () => void;
}

/** A client of its own: nothing is shared with another, not even committed offsets. */
export function openClient(
  settings: KafkajsSettings,
  consumer: ConsumerConfig & { readonly retry: RetryOptions },
  hooks: ClientHooks,
): KafkajsClient {
  checkVersion();
  const sockets = new Sockets(settings.kafka.socketFactory ?? plainSockets);
  const topicErrors = new Map<string, number>();
  const kafka = new kafkajs.Kafka({
    logLevel: kafkajs.logLevel.NOTHING,
    ...settings.kafka,
    // Always ours: kafkajs' default is another one where NODE_ENV is "test".
    retry: { ...consumer.retry },
    socketFactory: sockets.factory,
  });
  let cluster: KafkaCluster | undefined;
  const made = kafka.consumer({
    allowAutoTopicCreation: false,
    metadataMaxAge: settings.metadataMaxAgeMs,
    ...consumer,
    partitionAssigners: [
      (given) => {
        cluster = checkedCluster(given.cluster);
        watchNodes(cluster, hooks, topicErrors);
        return hooks.assigner(cluster);
      },
    ],
  });
  if (cluster === undefined) {
    throw clientUnsupported("kafkajs did not hand over its cluster");
  }
  return {
    consumer: made,
    cluster,
    topicError: (topic) => topicErrors.get(topic) ?? kafkaCode.none,
    destroy: () => sockets.destroy(),
  };
}

/** Throws where something is missing that we use. */
function checkedCluster(given: unknown): KafkaCluster {
  const cluster = given as KafkaCluster;
  const used: (keyof KafkaCluster)[] = [
    "connect",
    "findBroker",
    "findGroupCoordinator",
    "addMultipleTargetTopics",
    "refreshMetadata",
    "refreshMetadataIfNecessary",
    "findTopicPartitionMetadata",
    "markOffsetAsCommitted",
  ];
  const lacking: string[] = used.filter((name) => typeof cluster?.[name] !== "function");
  if (typeof cluster?.brokerPool?.createBroker !== "function") lacking.push("createBroker");
  if (lacking.length > 0) {
    throw clientUnsupported(`kafkajs' cluster has no ${lacking.join(", ")}`);
  }
  return cluster;
}

function watchNodes(
  cluster: KafkaCluster,
  hooks: ClientHooks,
  topicErrors: Map<string, number>,
): void {
  const create = cluster.brokerPool.createBroker;
  cluster.brokerPool.createBroker = (options) => {
    const node = create.call(cluster.brokerPool, options);
    const { metadata, fetch, joinGroup } = node;
    const described = (topic: TopicMetadata) => hooks.described?.(node, topic);
    if ([metadata, fetch, joinGroup, node.produce].some((door) => typeof door !== "function")) {
      throw clientUnsupported("kafkajs' broker lacks a request that Oncebox checks");
    }
    node.metadata = (topics) =>
      metadata.call(withoutTopicErrors(node, topicErrors, described), topics);
    const onFetch = hooks.fetch;
    if (onFetch !== undefined) {
      node.fetch = (request) => onFetch(node, request);
    }
    node.joinGroup = async (request) => {
      const answer = await joinGroup.call(node, request);
      const { memberId, generationId } = answer as Membership;
      hooks.joined?.(node, { groupId: request.groupId, memberId, generationId });
      return answer;
    };
    return node;
  };
}

const metadataKey = 3;

/**
 * kafkajs fails the whole answer when one topic of many is missing or one partition has no leader;
 * a deleted topic would stop all others for ever. Here such a topic has no partitions, and its error
 * is kept aside.
 */
function withoutTopicErrors(
  node: KafkaNode,
  topicErrors: Map<string, number>,
  described: (topic: TopicMetadata) => void,
): KafkaNode {
  return withProtocol(node, metadataKey, (call) => ({
    ...call,
    response: {
      decode: call.response.decode,
      parse: async (answer: { topicMetadata: readonly TopicMetadata[] }) => {
        const topicMetadata = answer.topicMetadata.map((topic) => {
          if (topic.topicErrorCode === kafkaCode.none) topicErrors.delete(topic.topic);
          else topicErrors.set(topic.topic, topic.topicErrorCode);
          described(topic);
          return topic.topicErrorCode === kafkaCode.none
            ? topic
            : { ...topic, partitionMetadata: [] };
        });
        return { ...answer, topicMetadata };
      },
    },
  }));
}

/**
 * The same node, but with one kind of request encoded or decoded otherwise. A view instead of a
 * change: kafkajs replaces `lookupRequest` at every reconnect.
 */
export function withProtocol(
  node: KafkaNode,
  apiKey: number,
  replace: (call: ProtocolCall, args: unknown) => ProtocolCall,
): KafkaNode {
  const lookupRequest = (key: number, definition: unknown): Protocol => {
    const protocol = node.lookupRequest(key, definition);
    return key === apiKey ? (args) => replace(protocol(args), args) : protocol;
  };
  return Object.create(node, { lookupRequest: { value: lookupRequest } }) as KafkaNode;
}

/** Our encoding and decoding are written for one version of a request. */
export function checkApiVersion(call: ProtocolCall, version: number, since: string): void {
  const { apiName, apiVersion } = call.request;
  if (apiVersion === version) return;
  throw clientUnsupported(
    `${apiName} is spoken in version ${apiVersion}, not ${version}: the broker must be Kafka ${since} or newer`,
  );
}

/** Connects and reads the topics' metadata, which must not be older than `metadataMaxAgeMs`. */
export async function connectTo(client: KafkajsClient, topics: readonly string[]): Promise<void> {
  try {
    await client.cluster.connect();
    await client.cluster.addMultipleTargetTopics(topics);
    await client.cluster.refreshMetadataIfNecessary();
  } catch (error) {
    throw toOnceboxError(error, "connecting to Kafka");
  }
}

function checkVersion(): void {
  let version: unknown;
  try {
    const require = createRequire(import.meta.url);
    version = (require("kafkajs/package.json") as { version?: unknown }).version;
  } catch {
    // Bundled into one file: the version cannot be read, the checks of the cluster remain.
    return;
  }
  if (version !== "2.2.4") throw clientUnsupported(`kafkajs ${String(version)} is installed`);
}

const keepAliveMs = 60_000;

/** As kafkajs' own, which it does not export. */
const plainSockets: ISocketFactory = ({ host, port, ssl, onConnect }) => {
  const socket = ssl
    ? connectTls({ host, port, ...(isIP(host) ? {} : { servername: host }), ...ssl }, onConnect)
    : connectPlain({ host, port }, onConnect);
  socket.setKeepAlive(true, keepAliveMs);
  return socket;
};

/** kafkajs' own disconnect waits for requests without answer; a deadline needs a cut. */
class Sockets {
  readonly #open = new Set<Socket>();
  readonly #make: ISocketFactory;
  #closed = false;

  constructor(make: ISocketFactory) {
    this.#make = make;
  }

  readonly factory: ISocketFactory = (args) => {
    if (this.#closed) throw new Error("this client is closed");
    const socket = this.#make(args);
    this.#open.add(socket);
    socket.once("close", () => this.#open.delete(socket));
    return socket;
  };

  destroy(): void {
    this.#closed = true;
    // With an error, because kafkajs drops its pending requests and timers only on one.
    for (const socket of this.#open) socket.destroy(new Error("the client was closed"));
  }
}
