export {
  BrokerError,
  ClaimLostError,
  CommitUnknownError,
  ConfigurationError,
  type ErrorCode,
  type ErrorOptions,
  HandlerError,
  InvalidMessageError,
  OnceboxError,
  PermanentError,
  PositionError,
  StorageError,
  TransactionFinishedError,
} from "./errors.ts";
export type { DropReason, Observer, OnceboxEvent } from "./events.ts";
export { laneCount, laneOf, murmur2 } from "./hashes.ts";
export type { Handler, HandlerContext, HandlerOptions, Run } from "./inbox/handler.ts";
export type { Headers, Message, OutgoingMessage } from "./message.ts";
export {
  aFunction,
  aName,
  checkOptions,
  having,
  integer,
  oneOf,
  optional,
  type Rule,
} from "./options.ts";
export type {
  Broker,
  BrokerConsumer,
  BrokerProducer,
  BrokerRecord,
  ConsumerCallbacks,
  GroupOffset,
  LogBounds,
  OutgoingRecord,
  PublishResult,
  RecordBatch,
  TopicPartition,
} from "./ports/broker.ts";
export { type Clock, systemClock } from "./ports/clock.ts";
export type {
  ChunkTransaction,
  LaneLease,
  LeaseAnswer,
  LeaseRequest,
  MessageRef,
  OutboxEntry,
  OutboxRead,
  OutboxRow,
  PartitionClaim,
  PartitionRef,
  Recorded,
  RecordRef,
  Storage,
  StorageFacts,
  Trouble,
  Wake,
} from "./ports/storage.ts";
export type { Service } from "./service.ts";
export {
  bytes,
  type Codec,
  defineTopic,
  json,
  type StandardSchema,
  type Topic,
  type TopicOptions,
  text,
} from "./topic.ts";
