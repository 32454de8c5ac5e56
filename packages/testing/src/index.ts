export {
  type EventLog,
  ExpectationError,
  eventLog,
  expectAppliedOnce,
  expectDuplicates,
  expectParked,
  expectRolledBack,
  type MessagePlace,
} from "./assertions.ts";
export {
  type BrokerConformanceCase,
  brokerConformance,
} from "./conformance/broker/broker-conformance.ts";
export type {
  BreakableNetwork,
  BrokerCapability,
  BrokerSettings,
  BrokerUnderTest,
  ForeignTransaction,
  PlainRecord,
  StoredRecord,
} from "./conformance/broker/broker-under-test.ts";
export type { ConformanceCase } from "./conformance/case.ts";
export { ConformanceError } from "./conformance/check.ts";
export { storageConformance } from "./conformance/storage/storage-conformance.ts";
export type {
  CommitFault,
  EmptyPlace,
  OwnTransaction,
  StorageUnderTest,
} from "./conformance/storage/storage-under-test.ts";
export {
  type ManualClock,
  type ManualClockOptions,
  manualClock,
  type ProcessClock,
} from "./manual-clock.ts";
export type {
  BatchFault,
  BrokerFaults,
  OffsetCommitFault,
  PublishFault,
} from "./memory-broker/broker-faults.ts";
export { type MemoryCluster, memoryCluster } from "./memory-broker/cluster.ts";
export type {
  ClusterAdmin,
  LogRecord,
  MemoryProducerTransaction,
  NewTopicRecord,
  TopicSettings,
} from "./memory-broker/cluster-admin.ts";
export {
  type MemoryBroker,
  type MemoryBrokerOptions,
  type MemoryNetwork,
  memoryBroker,
} from "./memory-broker/memory-broker.ts";
export {
  type MemoryProcess,
  type MemoryProcessOptions,
  memoryProcess,
} from "./memory-broker/memory-process.ts";
export {
  type MemoryDatabase,
  type MemoryDatabaseOptions,
  memoryDatabase,
} from "./memory-storage/database.ts";
export { type DatabaseFailure, MemoryDatabaseError } from "./memory-storage/database-error.ts";
export type {
  DatabaseFaults,
  LateCommit,
  StatementFault,
  StatementSeen,
} from "./memory-storage/database-faults.ts";
export {
  type BehindTx,
  beginTransaction,
  behind,
  type MemoryStorage,
  type MemoryStorageOptions,
  type MemoryTransaction,
  memoryStorage,
} from "./memory-storage/memory-storage.ts";
export type { MemoryTx } from "./memory-storage/memory-tx.ts";
export type { Row, Snapshot } from "./memory-storage/tables.ts";
export {
  type Failing,
  failing,
  hanging,
  type Killing,
  killing,
  type Misbehaviour,
} from "./misbehaving.ts";
export { compareOrderings, type OrderingComparison } from "./ordering-comparison.ts";
export { probedMessage, probeRollback, type RollbackProbe } from "./rollback-probe.ts";
