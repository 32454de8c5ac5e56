export type { ConformanceCase } from "./conformance/case.ts";
export { ConformanceError } from "./conformance/check.ts";
export { storageConformance } from "./conformance/storage/storage-conformance.ts";
export type {
  CommitFault,
  EmptyPlace,
  OwnTransaction,
  StorageUnderTest,
} from "./conformance/storage/storage-under-test.ts";
