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
export { crc32c, laneCount, laneOf, murmur2, sha256First16 } from "./hashes.ts";
export { createConsumer } from "./inbox/consumer.ts";
export type { ConsumerOptions, SyncConsumerOptions } from "./inbox/consumer-options.ts";
export type { Consumer, SyncConsumer } from "./inbox/consumer-service.ts";
export type {
  BatchContext,
  BatchHandlerOptions,
  BatchMessageContext,
  BatchRun,
  DeadLetterOptions,
  Handler,
  HandlerContext,
  HandlerOptions,
  RetryOptions,
  Run,
  Sync,
  SyncBatchContext,
  SyncBatchRun,
  SyncHandlerContext,
  SyncRun,
} from "./inbox/handler.ts";
export {
  createInbox,
  type Inbox,
  type InboxMessage,
  type InboxOptions,
  type OnceResult,
  type PruneOptions,
  type SyncInbox,
  type SyncInboxOptions,
} from "./inbox/inbox.ts";
export type { LostPositionPolicy } from "./inbox/lost-position.ts";
export type { StartFrom } from "./inbox/start.ts";
export type { Health, PartitionState, PartitionStatus } from "./inbox/status.ts";
export { type Headers, type Message, messageBytesMax, type OutgoingMessage } from "./message.ts";
export {
  type Adopted,
  type AdoptOptions,
  createOperator,
  type HistoryOptions,
  type Operator,
  type OperatorOptions,
  type OperatorStorage,
  type SeekOptions,
  type SyncOptions,
} from "./operator.ts";
export type {
  ActOptions,
  ChangeParkedOptions,
  ParkedChoice,
  ParkedOptions,
} from "./operator-parked.ts";
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
export {
  createOutbox,
  type Outbox,
  type OutboxOptions,
  type SyncOutbox,
  type SyncOutboxOptions,
} from "./outbox/outbox.ts";
export { createOutboxRelay, type OutboxRelay } from "./outbox/outbox-relay.ts";
export type { OutboxRelayOptions } from "./outbox/relay-options.ts";
export type {
  Broker,
  BrokerConsumer,
  BrokerProducer,
  BrokerRecord,
  ConsumerCallbacks,
  Displacement,
  FetchPosition,
  GroupOffset,
  GroupState,
  LogBounds,
  LogState,
  OutgoingRecord,
  PublishResult,
  RecordBatch,
  TopicOffsets,
  TopicPartition,
} from "./ports/broker.ts";
export { type Clock, systemClock, within } from "./ports/clock.ts";
export type {
  LaneLease,
  LeaseAnswer,
  LeaseRequest,
  OutboxEntry,
  OutboxRead,
  OutboxRow,
  Wake,
} from "./ports/outbox.ts";
export type {
  ParkedError,
  ParkedFilter,
  ParkedMessage,
  ParkedOutcome,
  ParkedPage,
  ParkedRecord,
  ParkedState,
  ParkedTurn,
  ParkingVerbs,
  ToPark,
} from "./ports/parking.ts";
export type { LogEnd, Pruned, PruneRequest, PruningVerbs } from "./ports/pruning.ts";
export type {
  Audit,
  AuditEntry,
  ChunkTransaction,
  ConsumerPositions,
  HandlerHandle,
  HandlerTransaction,
  LastRecord,
  LogMark,
  MessageRef,
  Move,
  Moved,
  ParkedTransaction,
  PartitionClaim,
  PartitionPosition,
  PartitionRef,
  Recorded,
  RecordRef,
  Replay,
  Storage,
  StorageFacts,
  StorageVerbs,
  SyncChunk,
  SyncStorage,
  Trouble,
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
