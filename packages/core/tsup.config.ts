import { library } from "../../tsup.config.ts";

// @noble/hashes is bundled: the core has no run-time dependency, and its SHA-256 is not our own.
export default library({ index: "src/index.ts" }, { noExternal: ["@noble/hashes"] });
