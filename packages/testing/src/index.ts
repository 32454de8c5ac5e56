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
